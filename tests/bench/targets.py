"""What was promised of the trainer, beside what was measured."""

from compare import Comparison
from report import Target
from small_jobs import GangRows

# Model, kind, precision, the number.
_SPEED_TARGETS = [
    ("15m", "by_fastest", "float32", 3.8),
    ("15m", "by_fastest", "bfloat16", 5.0),
    ("15m", "by_default", "float32", 8.0),
    ("15m", "by_default", "bfloat16", 8.0),
    ("15m", "by_padded", "float32", 8.0),
    ("15m", "by_padded", "bfloat16", 8.0),
    ("110m", "by_fastest", "float32", 2.2),
    ("110m", "by_fastest", "bfloat16", 3.0),
]
# How a side is called in the table.
_SIDES = {
    "by_fastest": "TRL's fastest",
    "by_default": "TRL's default",
    "by_padded": "TRL's padded batches of 4",
}
_SHARE_TARGETS = [("110m", "float32", 0.85), ("110m", "bfloat16", 0.70)]
_MEMORY_TARGET = 0.55


def targets(comparisons: list[Comparison], gang: GangRows | None, no_bfloat16: str, no_gang: str) -> list[Target]:
    """What was promised beside what was measured."""
    by_key = {(found.shape.name, found.precision): found for found in comparisons}
    numbers = {key: found.as_json() for key, found in by_key.items()}

    def why(precision: str) -> str:
        return no_bfloat16 if precision == "bfloat16" and no_bfloat16 else "not part of this call"

    rows = []
    for model, kind, precision, wanted in _SPEED_TARGETS:
        found = numbers.get((model, precision))
        measured = found[kind]["median"] if found else None
        rows.append(Target(f"{model} {precision}, speed by {_SIDES[kind]}", wanted, measured, why=why(precision)))
    for model, precision, wanted in _SHARE_TARGETS:
        found = numbers.get((model, precision))
        measured = found["share_of_matmul"] if found else None
        rows.append(Target(f"{model} {precision}, share of matmul rate", wanted, measured, "%", why=why(precision)))
    for (model, precision), comparison in by_key.items():
        name = f"{model} {precision}, peak memory by TRL's fastest"
        rows.append(Target(name, _MEMORY_TARGET, comparison.memory_ratio, "%", at_most=True))
    steps, whole = (gang.steps_ratio.median, gang.whole_ratio.median) if gang else (None, None)
    rows.append(Target("8 small jobs together by in turn, steps alone", 1.0, steps, why=no_gang))
    rows.append(Target("8 small jobs together by in turn, with start and load", 2.0, whole, why=no_gang))
    return rows
