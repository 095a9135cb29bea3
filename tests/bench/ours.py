"""Runs tunesmith-trainer and reads its steps log as it grows."""

import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from dataset import LONGEST
from process import cpu_seconds, peak_bytes, thread_environment
from run import WARM_UP_STEPS, Mark, Run

LEARNING_RATE = 1e-4
# Times of steps are read this exactly; at less than one look in 100 the reading costs no more than 0.1 % of a core.
_LOOK = 0.01


class TrainerFailed(RuntimeError):
    """tunesmith-trainer ended by itself, with an error."""


class StepsLog:
    """The lines of a file that another process is writing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0

    def new_steps(self) -> list[dict]:
        """The whole lines since the last call."""
        if not self._path.exists():
            return []
        with open(self._path, "rb") as file:
            file.seek(self._read)
            whole = file.read().rpartition(b"\n")[0]
        self._read += len(whole) + bool(whole)
        lines = [json.loads(line) for line in whole.splitlines()]
        return [line for line in lines if "tokens" in line]


def arguments(model: Path, data: Path, batch: int, dtype: str, device: str = "cpu") -> list[str]:
    """Of a training whose steps take `batch` examples each, in the order of the file."""
    return [
        *("train", "--base", str(model), "--data", str(data)),
        *("--rank", "16", "--alpha", "32", "--dropout", "0", "--targets", "all-linear", "--lr", str(LEARNING_RATE)),
        *("--batch-size", str(batch), "--order", "file", "--max-seq-len", str(LONGEST)),
        *("--dtype", dtype, "--device", device),
    ]


def train(
    trainer: Path,
    arguments: list[str],
    threads: int,
    seconds: float,
    warm_up: int = WARM_UP_STEPS,
    expected: list[tuple[int, int]] | None = None,
    time_limit: float = 3600.0,
    environment: dict[str, str] | None = None,
) -> Run:
    """Trains for `seconds` after the warm-up and ends the process, or to the end where that comes first.

    `expected`: tokens and supervised tokens of each step, by its place; the run is refused where the log says
    otherwise, so both sides are known to train on the same tokens and labels. `arguments` must leave room for enough
    steps.
    """
    with tempfile.TemporaryDirectory(prefix="tunesmith-bench-") as scratch:
        steps = Path(scratch, "steps.jsonl")
        command = [str(trainer), *arguments, "--steps-log", str(steps), "--threads", str(threads)]
        command += ["--out", f"{scratch}/adapter"]
        started = time.perf_counter()
        with open(Path(scratch, "output"), "w+", encoding="utf-8") as output:
            variables = thread_environment(threads) | (environment or {})
            child = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=variables)
            try:
                marks, peak = _follow(child, StepsLog(steps), seconds, warm_up, started + time_limit)
            finally:
                child.kill()
                child.wait()
            if len(marks) <= warm_up or child.returncode not in (0, -signal.SIGKILL):
                output.seek(0)
                raise TrainerFailed(output.read()[-2000:] or f"no steps within {time_limit:.0f} s")
    _check_counts(marks, expected or [])
    return Run.of(marks, peak, marks[0].wall - started, warm_up)


def _follow(
    child: subprocess.Popen, log: StepsLog, seconds: float, warm_up: int, deadline: float
) -> tuple[list[Mark], int]:
    marks: list[Mark] = []
    peak = 0
    ended = False
    while not ended and time.perf_counter() < deadline:
        # Asked before the log is read, so that the last lines of a process that ends now are not missed. Until it is
        # waited for, its clocks can be read.
        ended = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        now, cpu = time.perf_counter(), cpu_seconds(child.pid)
        peak = max(peak, peak_bytes(child.pid))
        marks += [Mark(now, cpu, step["tokens"], step["supervised_tokens"]) for step in log.new_steps()]
        if len(marks) > warm_up and now - marks[warm_up - 1].wall >= seconds:
            break
        time.sleep(_LOOK)
    return marks, peak


def _check_counts(marks: list[Mark], expected: list[tuple[int, int]]) -> None:
    for place, (mark, counts) in enumerate(zip(marks, expected)):
        if (mark.tokens, mark.supervised) != counts:
            ours = f"{mark.tokens} tokens, {mark.supervised} supervised"
            raise RuntimeError(f"step {place + 1}: ours trained on {ours}, where the data has {counts}")


def counts_of_steps(counts: list[tuple[int, int]], batch: int) -> list[tuple[int, int]]:
    """Tokens and supervised tokens of the steps of the first epoch, by those of the examples."""
    steps = [counts[begin : begin + batch] for begin in range(0, len(counts) - batch + 1, batch)]
    return [(sum(tokens for tokens, _ in step), sum(supervised for _, supervised in step)) for step in steps]
