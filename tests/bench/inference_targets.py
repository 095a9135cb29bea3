"""What was promised of inference, beside what was measured."""

import math
import statistics

from gateway_side import Overhead
from inference_report import Precision
from report import Target
from rollout_side import Rollouts

_PRECISIONS = ("float32", "bfloat16")
_OURS = "ours"
_BANDWIDTH_SHARE = 0.70
_BY_MISTRALRS = 1.5
_BY_GENERATE = {"float32": 4.0, "bfloat16": 6.0}
# Two runs of one program differ by as much as this on a quiet machine, so it is what "0 %" can mean.
_NOISE = 0.02
_SLOWER = [
    ("one", "one adapter", 0.08),
    ("eight", "8 adapters mixed", 0.20),
    ("merged", "merged (0 %, but for noise)", _NOISE),
]


def inference_targets(
    precisions: list[Precision], gateway: Overhead | None, rollouts: Rollouts | None, no_gateway: str
) -> list[Target]:
    """In the order in which they were promised."""
    by_name = {found.name: found for found in precisions}
    rows = []
    for name in _PRECISIONS:
        rows += _of_precision(name, by_name.get(name), "not part of this call")
    p50, p99 = (1e3 * gateway.added(percent) for percent in (50, 99)) if gateway else (None, None)
    rows.append(Target("gateway, added to the first token at p50", 2.0, p50, "ms", at_most=True, why=no_gateway))
    rows.append(Target("gateway, added to the first token at p99", 10.0, p99, "ms", at_most=True, why=no_gateway))
    return rows + _of_rollouts(rollouts, no_gateway)


def _of_rollouts(rollouts: Rollouts | None, why: str) -> list[Target]:
    failed, mixed, back = (None, None, None)
    if rollouts:
        failed, mixed = len(rollouts.failures), rollouts.mixed
        back = 1e3 * max(rollouts.changes.get("rollback", []), default=math.inf)
    name = "promote, split, roll back at 200 requests/s"
    return [
        Target(f"{name}: failed", 0.0, failed, "requests", at_most=True, why=why),
        Target(f"{name}: of two versions", 0.0, mixed, "answers", at_most=True, why=why),
        Target(f"{name}: slowest rollback", 50.0, back, "ms", at_most=True, why=why),
    ]


def _of_precision(name: str, found: Precision | None, why: str) -> list[Target]:
    rows = []

    def ratio(kind: str, one: tuple[str, str], other: tuple[str, str]) -> float | None:
        spread = found.ratio(kind, one, other) if found else None
        return spread.median if spread else None

    for column, words in (("base", "base"), ("one", "one adapter")):
        share = found.share(_OURS, column) if found else None
        rows.append(Target(f"{name}, alone, {words}: share of bandwidth", _BANDWIDTH_SHARE, share, "%", why=why))
    for column, words in (("base", "base"), ("one", "one adapter")):
        measured = ratio("single", (_OURS, column), ("mistral.rs", column))
        rows.append(Target(f"{name}, alone, {words}: by mistral.rs", _BY_MISTRALRS, measured, why=why))
    measured = ratio("together", (_OURS, "eight"), ("generate", "one"))
    rows.append(Target(f"{name}, together, 8 mixed by generate's one", _BY_GENERATE[name], measured, why=why))
    for kind, words in (("single", "alone"), ("together", "together")):
        for column, what, wanted in _SLOWER:
            by_base = ratio(kind, (_OURS, column), (_OURS, "base"))
            slower = None if by_base is None else 1 - by_base
            rows.append(
                Target(f"{name}, {words}, {what}: slower than base", wanted, slower, "%", at_most=True, why=why)
            )
    swaps = found.swaps if found else []
    load = 1e3 * statistics.median([second for swap in swaps for second in swap.loads_alone]) if swaps else None
    grown = statistics.median([swap.ratio for swap in swaps]) if swaps else None
    rows.append(Target(f"{name}, hot load of an adapter", 10.0, load, "ms", at_most=True, why=why))
    rows.append(Target(f"{name}, p99 between tokens during swaps", 2.0, grown, at_most=True, why=why))
    return rows
