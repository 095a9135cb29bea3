"""Small jobs trained together by one `tunesmith-trainer gang`, against the same jobs in turn by one process each."""

import json
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import ours
from dataset import LONGEST
from process import cpu_seconds, peak_bytes, thread_environment
from run import WARM_UP_STEPS, Mark, Run

STEPS = 20
SEQUENCES_PER_STEP = 2


@dataclass(frozen=True)
class Whole:
    """The jobs from the first process's start to the last one's end."""

    steady: Run
    seconds: float


def _hyperparameters(dtype: str) -> dict:
    return {
        "rank": 16,
        "alpha": 32.0,
        "dropout": 0.0,
        "learning_rate": ours.LEARNING_RATE,
        "batch_size": SEQUENCES_PER_STEP,
        "max_steps": STEPS,
        "max_seq_len": LONGEST,
        "eval_fraction": 0.0,
        "dtype": dtype,
    }


def in_turn(trainer: Path, model: Path, data: list[Path], dtype: str, threads: int) -> Whole:
    """One process per job, one after another."""
    started = time.perf_counter()
    runs = []
    for file in data:
        command = ours.arguments(model, file, SEQUENCES_PER_STEP, dtype) + ["--max-steps", str(STEPS)]
        runs.append(ours.train(trainer, command, threads, seconds=float("inf")))
    seconds = time.perf_counter() - started
    steady = Run(
        steps=sum(run.steps for run in runs),
        tokens=sum(run.tokens for run in runs),
        supervised=sum(run.supervised for run in runs),
        wall_seconds=sum(run.wall_seconds for run in runs),
        cpu_seconds=sum(run.cpu_seconds for run in runs),
        peak_bytes=max(run.peak_bytes for run in runs),
        start_seconds=sum(run.start_seconds for run in runs),
    )
    return Whole(steady, seconds)


def together(trainer: Path, model: Path, data: list[Path], dtype: str, threads: int) -> Whole:
    """One process for all jobs."""
    with tempfile.TemporaryDirectory(prefix="tunesmith-bench-") as scratch:
        jobs = [
            {
                "id": f"job-{place}",
                "data": str(file),
                "out": f"{scratch}/{place}",
                "hyperparameters": _hyperparameters(dtype),
            }
            for place, file in enumerate(data)
        ]
        spec = Path(scratch, "spec.json")
        spec.write_text(
            json.dumps({"base": str(model), "device": "cpu", "dtype": dtype, "threads": threads, "jobs": jobs})
        )
        return _follow([str(trainer), "gang", str(spec), "--supervised"], len(jobs), threads)


def _follow(command: list[str], jobs: int, threads: int) -> Whole:
    started = time.perf_counter()
    environment = thread_environment(threads)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment) as child:
        assert child.stdin and child.stdout and child.stderr
        # No job will join. The pipe stays open, since its end would end the child.
        child.stdin.write('{"command":"finish"}\n')
        child.stdin.flush()
        marks: list[Mark] = []
        steps_by_job: Counter[str] = Counter()
        warm_up = peak = 0
        failed: list[str] = []
        for line in child.stdout:
            event = json.loads(line)
            if event["event"] == "step":
                peak = max(peak, peak_bytes(child.pid))
                now, cpu = time.perf_counter(), cpu_seconds(child.pid)
                marks.append(Mark(now, cpu, event["tokens"], event["supervised_tokens"]))
                steps_by_job[event["job"]] += 1
                # Until the last job has made its second step.
                if not warm_up and sum(steps >= WARM_UP_STEPS for steps in steps_by_job.values()) == jobs:
                    warm_up = len(marks)
            elif event["event"] == "failed":
                failed.append(event["message"])
        errors = child.stderr.read()
    seconds = time.perf_counter() - started
    if failed or child.returncode != 0 or len(marks) != jobs * STEPS:
        reason = "; ".join(failed) or errors[-2000:]
        raise ours.TrainerFailed(f"{len(marks)} of {jobs * STEPS} steps were made: {reason}")
    return Whole(Run.of(marks, peak, marks[0].wall - started, warm_up), seconds)
