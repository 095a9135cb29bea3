"""`make bench`: our trainer against PEFT and TRL's SFTTrainer on this machine's CPU. README.md says how."""

import argparse
import json
import os
import platform
import sys
import time
from itertools import product
from pathlib import Path

import torch

import matmul
import ours
import trl_side
from compare import Comparison, Plan, compare, say
from dataset import example_counts, make_dataset
from models import CPU_SHAPES, make_model
from report import table
from run import WARM_UP_STEPS
from small_jobs import GangRows, ScalingRows, measure_gang, measure_scaling
from targets import targets

_PARTS = ["compare", "gang", "scaling"]
# Below this bfloat16 is not worth its loss of precision; without AVX512 or AMX it is far below one.
_WORTHWHILE_GAIN = 1.1


def parse_arguments() -> argparse.Namespace:
    root = Path(__file__).resolve().parents[2]
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tunesmith" / "bench"
    trainer = Path(os.environ.get("TUNESMITH_TRAINER", root / "bin" / "tunesmith-trainer"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trainer", type=Path, default=trainer, help="our executable [default: %(default)s]")
    parser.add_argument("--folder", type=Path, default=cache, help="of models and data [default: %(default)s]")
    parser.add_argument("--models", nargs="+", choices=list(CPU_SHAPES), default=list(CPU_SHAPES))
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=_PARTS)
    parser.add_argument(
        "--precisions", nargs="+", choices=["float32", "bfloat16"], help="[default: those that pay here]"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="[default: all cores]")
    parser.add_argument("--rounds", type=int, default=3, help="times that both sides run [default: 3]")
    parser.add_argument("--seconds", type=float, default=30.0, help="of one run, after its warm-up [default: 30]")
    parser.add_argument("--probe-seconds", type=float, default=12.0, help="of each setting tried [default: 12]")
    parser.add_argument("--batch", type=int, default=16, help="examples of one optimizer step [default: 16]")
    parser.add_argument("--examples", type=int, default=2000, help="in the dataset [default: 2,000]")
    parser.add_argument("--sizes", type=int, nargs=2, default=[1_000, 100_000], help="datasets of `scaling`")
    results = Path(__file__).resolve().parent / "results" / "bench.json"
    parser.add_argument("--json", type=Path, default=results, help="the results are written here too")
    return parser.parse_args()


def pick_precisions(named: list[str] | None, threads: int) -> tuple[list[str], str]:
    """Precisions to measure, and the reason where bfloat16 is left out."""
    if named:
        return named, "" if "bfloat16" in named else "not asked for"
    gain = matmul.measure("bfloat16-gain", "-", threads)
    if gain >= _WORTHWHILE_GAIN:
        return ["float32", "bfloat16"], ""
    return ["float32"], f"a product in bfloat16 has {gain:.2f} times the rate of float32 on this CPU"


def machine() -> dict:
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return {"cpu": cpu, "cores": os.cpu_count(), "load_average": os.getloadavg(), "time": time.strftime("%F %T %z")}


def print_machine(where: dict, threads: int) -> None:
    load = where["load_average"][0]
    print(f"{where['cpu']}, {where['cores']} cores, {threads} threads, load average {load:.1f}")
    if load > 0.5:
        print("The machine is busy with something else: expect wide ranges, and trust the ratio by CPU time more.")


def make_plan(options: argparse.Namespace, model: Path) -> Plan:
    """Makes the data, and sees to it that TRL counts the same tokens and labels in it."""
    data = make_dataset(options.folder, options.examples)
    counts = example_counts(data)
    if trl_side.count_examples(model, data, options.threads) != counts:
        sys.exit("bench: TRL makes other tokens or labels of the data than ours, so the two cannot be compared")
    plan = Plan(
        trainer=options.trainer,
        data=data,
        counts=counts,
        threads=options.threads,
        batch=options.batch,
        rounds=options.rounds,
        seconds=options.seconds,
        probe_seconds=options.probe_seconds,
    )
    facts = plan.statistics
    print(
        f"{facts.examples:,} examples, {facts.tokens / facts.examples:.0f} tokens in the mean, "
        f"{facts.longest} at most, {100 * facts.supervised_share:.0f} % supervised; steps of {plan.batch} examples; "
        f"{plan.rounds} rounds of {plan.seconds:.0f} s after {WARM_UP_STEPS} steps of warm-up"
    )
    return plan


def run_gang(plan: Plan, model: Path, folder: Path) -> tuple[GangRows | None, str]:
    """The rows, or why there are none."""
    try:
        rows = measure_gang(plan, model, folder, "float32")
    except ours.TrainerFailed as error:
        print(f"\nthe gang failed: {error}", flush=True)
        return None, "failed"
    print("\n" + rows.text(), flush=True)
    return rows, ""


def main() -> None:
    options = parse_arguments()
    if not options.trainer.exists():
        sys.exit(f"bench: no executable {options.trainer}; run `make build`, or name one in TUNESMITH_TRAINER")
    where = machine()
    print_machine(where, options.threads)
    say("making models and data")
    models = {name: make_model(CPU_SHAPES[name], options.folder, torch.float32) for name in CPU_SHAPES}
    precisions, no_bfloat16 = pick_precisions(options.precisions, options.threads)
    if no_bfloat16:
        print(f"bfloat16 is left out: {no_bfloat16}")
    plan = make_plan(options, models["15m"])

    comparisons: list[Comparison] = []
    if "compare" in options.parts:
        for name, precision in product(options.models, precisions):
            comparisons.append(compare(plan, CPU_SHAPES[name], models[name], precision))
            print("\n" + comparisons[-1].text(), flush=True)
    gang, no_gang = None, "not part of this call"
    if "gang" in options.parts:
        gang, no_gang = run_gang(plan, models["15m"], options.folder)
    scaling: ScalingRows | None = None
    if "scaling" in options.parts:
        scaling = measure_scaling(plan, models["15m"], options.folder, "float32", options.sizes)
        print("\n" + scaling.text(), flush=True)

    promised = targets(comparisons, gang, no_bfloat16, no_gang)
    print("\n" + table([target.cells() for target in promised], ["target", "wanted", "measured", ""]))
    result = {
        "machine": where,
        "threads": options.threads,
        "comparisons": [found.as_json() for found in comparisons],
        "gang": gang.as_json() if gang else None,
        "scaling": scaling.as_json() if scaling else None,
        "targets": [target.as_json() for target in promised],
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=2) + "\n")
    say(f"results are in {options.json}")


if __name__ == "__main__":
    main()
