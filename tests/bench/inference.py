"""`make bench-inference`: our engine against Hugging Face's generate with PEFT and mistral.rs, on this machine's CPU.
README.md says how."""

import argparse
import json
import os
import shlex
import signal
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import torch

import bandwidth
import matmul
from adapters import make_adapters
from bench import machine, print_machine
from compare import say
from engine_side import EngineFailed
from gateway_side import Overhead, PlatformFailed, measure_gateway, refusal
from http_load import RequestFailed
from inference_report import Precision
from inference_sides import ADAPTERS, COLUMNS, Ours, Peers, Side, Work
from inference_targets import inference_targets
from models import CPU_SHAPES, TINY_SHAPE, make_model
from peer_process import PeerFailed
from report import table
from rollout_side import Rollouts, measure_rollouts
from swap import measure_swap

_PEERS = ["generate", "mistral.rs"]
# Adapters beside the loaded ones, which are swapped in and out.
_SPARE = 4
_SHAPES = CPU_SHAPES | {"tiny": TINY_SHAPE}


def parse_arguments() -> argparse.Namespace:
    root = Path(__file__).resolve().parents[2]
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tunesmith" / "bench"

    def executable(name: str, variable: str) -> Path:
        return Path(os.environ.get(variable, root / "bin" / name))

    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add(
        "--engine", type=Path, default=executable("tunesmith-engine", "TUNESMITH_ENGINE"), help="[default: %(default)s]"
    )
    add(
        "--tunesmith", type=Path, default=executable("tunesmith", "TUNESMITH_EXECUTABLE"), help="[default: %(default)s]"
    )
    add("--engine-options", default="", help="more options of `tunesmith-engine serve`, in one text")
    add("--folder", type=Path, default=cache, help="of models and adapters [default: %(default)s]")
    add("--model", choices=list(_SHAPES), default="110m", help="[default: %(default)s]")
    add(
        "--precisions",
        nargs="*",
        choices=["float32", "bfloat16"],
        default=["float32", "bfloat16"],
        help="[default: both]",
    )
    add("--columns", nargs="+", choices=list(COLUMNS), default=list(COLUMNS), help="of ours [default: all]")
    add("--peers", nargs="*", choices=_PEERS, default=_PEERS, help="[default: both]")
    add("--rounds", type=int, default=3, help="times that every side runs [default: 3]")
    add("--seconds", type=float, default=6.0, help="of each measurement [default: 6]")
    add("--prompt-tokens", type=int, default=64, help="in the mean [default: 64]")
    add("--output-tokens", type=int, default=64, help="of each answer [default: 64]")
    add("--at-once", type=int, default=16, help="requests together [default: 16]")
    add(
        "--swap-tokens",
        type=int,
        default=192,
        help="of each answer while adapters are swapped; 0: no swaps [default: 192]",
    )
    add("--threads", type=int, default=os.cpu_count(), help="[default: all cores]")
    add(
        "--gateway",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="start the platform and measure its gateway",
    )
    add("--gateway-requests", type=int, default=300, help="each way [default: 300]")
    add(
        "--rollout-seconds",
        type=float,
        default=30.0,
        help="of 200 requests a second while a deployment changes [default: 30]",
    )
    results = Path(__file__).resolve().parent / "results" / "inference.json"
    add("--json", type=Path, default=results, help="the results are written here too")
    return parser.parse_args()


def product_format(dtype: str, threads: int) -> str:
    """The format in which this CPU multiplies weights of `dtype` fastest; converting them takes hardly any time."""
    if dtype == "bfloat16" and matmul.measure("bfloat16-gain", "-", threads) < 1.0:
        return "float32"
    return dtype


def peers(options: argparse.Namespace, model: Path, adapter: Path, dtype: str, stack: ExitStack) -> list[Peers]:
    """Starts those that are asked for."""
    settings = {"model": str(model), "dtype": dtype}
    adapted, bare = settings | {"adapter": str(adapter)}, settings | {"adapter": None}
    ways: dict[str, tuple[str, dict[str, dict], bool]] = {
        "generate": ("generate_peer.py", {"base": adapted, "one": adapted}, True),
        "mistral.rs": ("mistralrs_peer.py", {"base": bare, "one": adapted}, False),
    }
    return [
        stack.enter_context(Peers(name, script, columns, options.threads, batches))
        for name, (script, columns, batches) in ways.items()
        if name in options.peers
    ]


def measure_precision(options: argparse.Namespace, dtype: str) -> Precision:
    """All sides in turn, round by round; each round begins with another one."""
    shape = _SHAPES[options.model]
    say(f"{dtype}: making the model and {ADAPTERS + _SPARE} adapters")
    model = make_model(shape, options.folder, getattr(torch, dtype))
    adapters = make_adapters(shape, options.folder, ADAPTERS + _SPARE)
    work = Work(options.prompt_tokens, options.output_tokens, options.at_once, options.seconds)
    bytes_per_weight = getattr(torch, dtype).itemsize
    multiplied_in = product_format(dtype, options.threads)
    found = Precision(dtype, shape, shape.parameters() * bytes_per_weight, options.at_once, multiplied_in)
    with ExitStack() as stack:
        say(f"{dtype}: starting the engines and the peers")
        ours = Ours(
            options.engine,
            model,
            adapters,
            dtype,
            options.threads,
            options.columns,
            shlex.split(options.engine_options),
        )
        stack.enter_context(ours)
        compared = peers(options, model, adapters[0], dtype, stack)
        warm_up(ours, found)
        compared = [peer for peer in compared if comes_up(peer, found)]
        sides: list[Side] = [ours, *compared]
        for number in range(options.rounds):
            say(f"{dtype}: round {number + 1} of {options.rounds}")
            found.bandwidths.append(bandwidth.measure(options.threads))
            found.matmul_rates.append(matmul.measure(options.model, found.multiplied_in, options.threads))
            measure_round(sides, work, number, found)
            if ours.loaded and options.swap_tokens:
                say("  swaps")
                models = [f"lora-{place:03}" for place in range(8)]
                spare = adapters[ADAPTERS:]
                found.swaps.append(measure_swap(ours.loaded, models, spare, work.prompt_tokens, options.swap_tokens))
            for peer in compared:
                loads = [peer.load("one", adapter) for adapter in adapters[ADAPTERS:]]
                found.peer_loads.setdefault(peer.name, []).extend(loads)
        if ours.loaded:
            found.http_seconds = ours.loaded.http_seconds()
    return found


def warm_up(side: Side, found: Precision) -> None:
    """One short answer for each column; it also fixes the order of the table."""
    for column in side.columns():
        side.single(column, Work(32, side.steps_before(column), 1, 0.0))
        found.cell(side.name, column)


def comes_up(peer: Peers, found: Precision) -> bool:
    """Whether a peer answers at all; the others are measured without one that does not."""
    try:
        warm_up(peer, found)
    except PeerFailed as error:
        print(f"\n{peer.name} does not work here in {found.name}: {error}", flush=True)
        return False
    return True


def measure_round(sides: list[Side], work: Work, number: int, found: Precision) -> None:
    tasks = [(side, column) for side in sides for column in side.columns()]
    begin = number % len(tasks)
    for side, column in tasks[begin:] + tasks[:begin]:
        say(f"  {side.name}, {COLUMNS[column]}")
        cell = found.cell(side.name, column)
        single = side.single(column, work)
        cell.first_tokens += single.first_tokens
        cell.single.append(single.tokens_per_second)
        together = side.together(column, work)
        if together is not None:
            cell.together.append(together)


def measure_overhead(options: argparse.Namespace) -> tuple[Overhead | None, str]:
    """The gateway's numbers, or why there are none."""
    if not options.gateway:
        return None, "not part of this call"
    if why := refusal(options.tunesmith):
        return None, why
    say("the gateway: starting the platform")
    # What the gateway adds does not depend on the model, and a small one hides less of it.
    model = make_model(CPU_SHAPES["15m"], options.folder, torch.float32)
    try:
        overhead = measure_gateway(
            options.tunesmith, options.engine, model, options.threads, options.gateway_requests, 32
        )
    except (PlatformFailed, RequestFailed) as error:
        print(f"\nthe gateway could not be measured: {error}", flush=True)
        return None, "failed"
    print(f"\ngateway over the engine, 15m, float32: {overhead.text()}", flush=True)
    return overhead, ""


def measure_changes(options: argparse.Namespace) -> Rollouts | None:
    """What becomes of requests while their deployment changes, where the gateway is measured at all."""
    if not options.gateway or refusal(options.tunesmith):
        return None
    say("changes under load: starting the platform")
    try:
        found = measure_rollouts(
            options.tunesmith, options.engine, options.folder, options.threads, 200.0, options.rollout_seconds
        )
    except (PlatformFailed, RequestFailed) as error:
        print(f"\nchanges under load could not be measured: {error}", flush=True)
        return None
    print(f"\nchanges under load: {found.text()}", flush=True)
    return found


def main() -> None:
    options = parse_arguments()
    # So that folders and processes are cleaned up after.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: told to end"))
    if not options.engine.exists():
        sys.exit(f"bench: no executable {options.engine}; run `make build`, or name one in TUNESMITH_ENGINE")
    where = machine()
    print_machine(where, options.threads)
    print(
        f"prompts of {options.prompt_tokens} tokens in the mean, answers of {options.output_tokens}; alone: one request "
        f"after another; together: {options.at_once} at once; {options.rounds} rounds, {options.seconds:g} s each"
    )
    found: list[Precision] = []
    failed = ""
    try:
        for dtype in options.precisions:
            found.append(measure_precision(options, dtype))
            print("\n" + found[-1].text(), flush=True)
    except (EngineFailed, PeerFailed, RequestFailed) as error:
        # What was measured before is still shown.
        failed = f"bench: {options.precisions[len(found)]} was not measured to its end: {error}"
    overhead, no_gateway = measure_overhead(options)
    rollouts = measure_changes(options)
    promised = inference_targets(found, overhead, rollouts, no_gateway or "failed")
    print("\n" + table([target.cells() for target in promised], ["target", "wanted", "measured", ""]))
    result = {
        "machine": where,
        "threads": options.threads,
        "work": asdict(Work(options.prompt_tokens, options.output_tokens, options.at_once, options.seconds)),
        "rounds": options.rounds,
        "precisions": [one.as_json() for one in found],
        "gateway": overhead.as_json() if overhead else None,
        "rollouts": rollouts.as_json() if rollouts else None,
        "targets": [target.as_json() for target in promised],
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=2) + "\n")
    say(f"results are in {options.json}")
    if failed:
        sys.exit(failed)


if __name__ == "__main__":
    main()
