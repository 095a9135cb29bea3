"""`make bench-gpu`: our trainer against PEFT with flash attention on one GPU, in bfloat16, with random weights.

Every part has a time limit, results are printed as they come, and nothing is downloaded: PyTorch is enough for our
side, transformers and peft are used where this Python has them. README.md says how to run it on a bare machine.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch

import matmul
import ours
from attention import attention_modes
from dataset import LONGEST, Statistics, example_counts, make_dataset
from models import GPU_SHAPES, TINY_SHAPE, Shape, make_model
from process import thread_environment
from report import SIDE_HEADER, paired_ratio, side_row, table
from run import WARM_UP_STEPS, Mark, Run
from work import flops_per_token

_PEER = Path(__file__).resolve().parent / "gpu_peer.py"
# The most that one run may take beyond its seconds: loading 16 GB, the first steps.
_LOADING = 150.0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def parse_arguments() -> argparse.Namespace:
    root = Path(__file__).resolve().parents[2]
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tunesmith" / "bench"
    trainer = Path(os.environ.get("TUNESMITH_TRAINER", root / "bin" / "tunesmith-trainer"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainer", type=Path, default=trainer, help="our executable [default: %(default)s]")
    parser.add_argument("--folder", type=Path, default=cache, help="of models and data; 19 GB [default: %(default)s]")
    parser.add_argument("--models", nargs="+", choices=list(GPU_SHAPES), default=list(GPU_SHAPES))
    parser.add_argument("--sides", nargs="+", choices=["ours", "peft"], default=["ours", "peft"])
    parser.add_argument("--device", default="cuda:0", help="cuda:N, or cpu for a dry run [default: cuda:0]")
    parser.add_argument("--tiny", action="store_true", help="one tiny model instead, to try everything out")
    parser.add_argument("--rounds", type=int, default=2, help="times that both sides run [default: 2]")
    parser.add_argument("--seconds", type=float, default=12.0, help="of one run, after its warm-up [default: 12]")
    parser.add_argument("--batch", type=int, default=64, help="examples of one optimizer step [default: 64]")
    parser.add_argument("--examples", type=int, default=4000, help="in the dataset [default: 4,000]")
    parser.add_argument("--time-limit", type=float, default=530.0, help="seconds of the whole [default: 530]")
    results = Path(__file__).resolve().parent / "results" / "bench-gpu.json"
    parser.add_argument(
        "--json", type=Path, default=results, help="the results so far are written here after each part"
    )
    return parser.parse_args()


class Budget:
    """What is left of the time for everything."""

    def __init__(self, seconds: float) -> None:
        self._end = time.perf_counter() + seconds

    def left(self) -> float:
        return max(0.0, self._end - time.perf_counter())

    def of_part(self, seconds: float) -> float:
        return min(self.left(), seconds)


class DeviceMemory:
    """The most memory of the card that was taken at once while this was open, beyond what was taken before.

    Seen from outside, so that it means the same for both sides, caches of the allocator included.
    """

    def __init__(self, device: str) -> None:
        self._device = device if device.startswith("cuda") else None
        self._done = threading.Event()
        self.bytes = 0

    def _taken(self) -> int:
        free, total = torch.cuda.mem_get_info(self._device)
        return total - free

    def _watch(self, before: int) -> None:
        while not self._done.wait(0.05):
            self.bytes = max(self.bytes, self._taken() - before)

    def __enter__(self) -> "DeviceMemory":
        if self._device:
            self._thread = threading.Thread(target=self._watch, args=(self._taken(),), daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._device:
            self._thread.join()


@dataclass(frozen=True)
class Part:
    """One model's call: what both sides share."""

    options: argparse.Namespace
    model: Path
    data: Path
    counts: list[tuple[int, int]]
    dtype: str
    threads: int
    budget: Budget


def library_environment() -> dict[str, str]:
    """Our executable looks for LibTorch where it was built; elsewhere this Python's own PyTorch serves."""
    folders = [str(Path(torch.__file__).parent / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
    return {"LD_LIBRARY_PATH": ":".join(folder for folder in folders if folder)}


def run_ours(part: Part) -> Run:
    options = part.options
    arguments = ours.arguments(part.model, part.data, options.batch, part.dtype, options.device)
    arguments += ["--max-steps", "1000000"]
    limit = part.budget.of_part(options.seconds + _LOADING)
    with DeviceMemory(options.device) as memory:
        run = ours.train(
            options.trainer,
            arguments,
            part.threads,
            options.seconds,
            expected=ours.counts_of_steps(part.counts, options.batch),
            time_limit=limit,
            environment=library_environment(),
        )
    return with_device_memory(run, memory)


def run_peft(part: Part) -> tuple[Run, dict]:
    """The run, and how it was made: kind of attention, passes, checkpointing."""
    options = part.options
    request = {
        "model": str(part.model),
        "data": str(part.data),
        "device": options.device,
        "dtype": part.dtype,
        "attention": attention_modes(options.device),
        "batch": options.batch,
        "seconds": options.seconds,
        "threads": part.threads if options.device == "cpu" else None,
        "longest": LONGEST,
        "learning_rate": ours.LEARNING_RATE,
    }
    with tempfile.TemporaryDirectory(prefix="tunesmith-bench-") as scratch, DeviceMemory(options.device) as memory:
        file = Path(scratch, "request.json")
        file.write_text(json.dumps(request))
        started = time.perf_counter()
        lines, errors = _lines_until(
            [sys.executable, str(_PEER), str(file)], part.threads, part.budget.of_part(options.seconds + _LOADING)
        )
    for line in lines:
        if "note" in line:
            say(f"  PEFT: {line['note']}")
    marks = [Mark(**line["mark"]) for line in lines if "mark" in line]
    peak = max((line["peak_bytes"] for line in lines if "mark" in line), default=0)
    if len(marks) <= WARM_UP_STEPS:
        raise RuntimeError(errors[-1500:] or "no steps within the time limit")
    how = next(line for line in lines if "way" in line)
    return with_device_memory(Run.of(marks, peak, marks[0].wall - started), memory), how


def _lines_until(command: list[str], threads: int, seconds: float) -> tuple[list[dict], str]:
    """What the command printed within its time, line by line; a command that takes longer is ended."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(command, stdout=output, stderr=errors, env=thread_environment(threads))
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            say("  PEFT: ended at its time limit")
        finally:
            child.kill()
            child.wait()
        output.seek(0)
        errors.seek(0)
        # The last line may be cut.
        lines = [line for line in output.read().splitlines() if line.startswith("{") and line.endswith("}")]
        return [json.loads(line) for line in lines], errors.read()


def with_device_memory(run: Run, memory: DeviceMemory) -> Run:
    """On a card its memory is the one that counts."""
    return Run(**vars(run) | {"peak_bytes": memory.bytes or run.peak_bytes})


def measure_model(shape: Shape, part: Part, result: dict) -> str:
    """Runs both sides in turn, and returns the text; `result` is filled on the way."""
    options = part.options
    runs: dict[str, list[Run]] = {side: [] for side in options.sides}
    result["rates"], result["errors"], result["how"] = [], {}, None
    for number in range(options.rounds):
        if part.budget.left() < options.seconds:
            say("  the time is over")
            break
        say(f"{shape.name}: round {number + 1} of {options.rounds}, {part.budget.left():.0f} s left")
        result["rates"].append(matmul.measure(shape.name, part.dtype, part.threads, options.device))
        for side in options.sides:
            if side in result["errors"]:
                continue
            try:
                if side == "ours":
                    runs[side].append(run_ours(part))
                else:
                    run, result["how"] = run_peft(part)
                    runs[side].append(run)
                say(f"  {side}: {runs[side][-1].tokens_per_second:,.0f} tokens/s")
            except (RuntimeError, OSError) as error:
                result["errors"][side] = str(error)
                say(f"  {side} failed: {error}")
    result |= {side: [run.as_json() for run in found] for side, found in runs.items()}
    work = flops_per_token(shape, Statistics.of(part.counts))
    result["flops_per_token"] = work
    return _text(shape, runs, result, work)


def _text(shape: Shape, runs: dict[str, list[Run]], result: dict, work: float) -> str:
    rate = max(result["rates"], default=0.0)
    lines = [
        f"{shape.name}: {shape.parameters() / 1e6:,.0f} M parameters, {work / 1e9:.2f} GFLOP per token, "
        f"matmul rate {rate / 1e12:,.2f} TFLOP/s"
    ]
    rows = [side_row(side, found, work, rate) for side, found in runs.items() if found]
    lines += [table(rows, SIDE_HEADER)] if rows else []
    if result["how"]:
        way = result["how"]["way"]
        checkpointing = "with" if way["checkpointing"] else "without"
        lines.append(
            f"PEFT: {result['how']['attention']}, {way['passes']} passes per step, {checkpointing} checkpointing"
        )
    if all(runs.get(side) for side in ("ours", "peft")):
        lines.append(f"ours by PEFT: {paired_ratio(runs['ours'], runs['peft']).text(2)}")
    lines += [f"{side} failed: {error}" for side, error in result["errors"].items()]
    return "\n".join(lines)


def main() -> None:
    options = parse_arguments()
    shapes = [TINY_SHAPE] if options.tiny else [GPU_SHAPES[name] for name in options.models]
    cuda = options.device.startswith("cuda")
    if cuda and not torch.cuda.is_available():
        sys.exit("bench-gpu: PyTorch finds no GPU; `--device cpu --tiny` goes through the same code without one")
    if "ours" in options.sides and not options.trainer.exists():
        sys.exit(f"bench-gpu: no executable {options.trainer}; run `make build`, or name one in TUNESMITH_TRAINER")
    if not all(importlib.util.find_spec(name) for name in ("transformers", "peft")) and "peft" in options.sides:
        options.sides.remove("peft")
        print("This Python has no transformers and peft: ours alone is measured.")
    name = torch.cuda.get_device_name(options.device) if cuda else "CPU"
    kinds = ", ".join(attention_modes(options.device))
    print(f"{name}, PyTorch {torch.__version__}, kinds of attention for PEFT: {kinds}")
    budget = Budget(options.time_limit)
    # Without AVX512 a CPU takes minutes for a product in bfloat16, so a dry run computes in float32.
    dtype = "bfloat16" if cuda else "float32"
    threads = os.cpu_count() or 1
    data = make_dataset(options.folder, options.examples)
    counts = example_counts(data)
    results: dict[str, dict] = {}
    for shape in shapes:
        say(f"{shape.name}: writing random weights, {budget.left():.0f} s left")
        try:
            model = make_model(shape, options.folder, getattr(torch, dtype), options.device if cuda else "cpu")
        except OSError as error:
            print(f"\n{shape.name} is left out: {error}", flush=True)
            continue
        if cuda:
            # The children need the memory in which the weights were made.
            torch.cuda.empty_cache()
        part = Part(options, model, data, counts, dtype, threads, budget)
        results[shape.name] = {}
        print("\n" + measure_model(shape, part, results[shape.name]), flush=True)
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"device": name, "dtype": dtype, "models": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
