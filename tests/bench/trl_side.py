"""Starts trl_peer.py, and says which settings of SFTTrainer are tried."""

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from dataset import LONGEST
from process import thread_environment
from run import WARM_UP_STEPS, Run
from trl_peer import Setting

_PEER = Path(__file__).resolve().parent / "trl_peer.py"
LEARNING_RATE = 1e-4


class PeerFailed(RuntimeError):
    """SFTTrainer did not come through with a setting; the message is the end of what it printed."""


def default_setting(bfloat16: bool) -> Setting:
    """What SFTConfig gives to those who set nothing, its batch and its gradient checkpointing too.

    Its bfloat16 autocast, which many CPUs have no instructions for, is on where `bfloat16` is measured only.
    """
    return Setting("default", checkpointing=None, autocast=bfloat16)


def padded_setting(bfloat16: bool) -> Setting:
    """Padded batches of four, as SFTTrainer pads them, without gradient checkpointing; autocast as in the default."""
    return Setting("padded, batch 4", 4, autocast=bfloat16)


def candidates(batch: int, bfloat16: bool) -> list[Setting]:
    """Settings that may be the fastest. Each steps on about `batch` examples, as ours does, however it cuts them into
    passes; gradient checkpointing, which only saves memory, is off."""
    # A packed row of 1,024 tokens holds about eight and a half examples.
    rows = max(1, round(batch * 120 / LONGEST))
    plain = [
        Setting("batch 1", 1, batch),
        Setting("batch 4", 4, max(1, batch // 4)),
        Setting("batch 8", 8, max(1, batch // 8)),
        Setting("padding-free 8", 8, max(1, batch // 8), padding_free=True),
        Setting("packing", 1, rows, packing=True),
    ]
    if not bfloat16:
        return plain
    autocast = [Setting(**asdict(setting) | {"autocast": True}) for setting in plain]
    pure = [Setting(**asdict(setting) | {"weights": "bfloat16"}) for setting in plain]
    return [
        Setting(**asdict(setting) | {"name": f"{setting.name}, {kind}"})
        for kind, settings in (("bf16 autocast", autocast), ("bf16 weights", pure))
        for setting in settings
    ]


def _call(
    model: Path, data: Path, setting: Setting, threads: int, seconds: float, warm_up: int, count_only: bool
) -> dict:
    with tempfile.TemporaryDirectory(prefix="tunesmith-bench-") as scratch:
        request, answer = Path(scratch, "request.json"), Path(scratch, "answer.json")
        body = {
            "model": str(model),
            "data": str(data),
            "setting": asdict(setting),
            "threads": threads,
            "seconds": seconds,
            "warm_up": warm_up,
            "count_only": count_only,
            "longest": LONGEST,
            "learning_rate": LEARNING_RATE,
            "most_steps": 100_000,
            "scratch": scratch,
        }
        request.write_text(json.dumps(body))
        command = [sys.executable, str(_PEER), str(request), str(answer)]
        done = subprocess.run(command, capture_output=True, text=True, env=thread_environment(threads), check=False)
        if done.returncode != 0:
            raise PeerFailed(done.stderr[-2000:])
        return json.loads(answer.read_text())


def train(model: Path, data: Path, setting: Setting, threads: int, seconds: float, warm_up: int = WARM_UP_STEPS) -> Run:
    """Trains for `seconds` after the warm-up."""
    return Run(**_call(model, data, setting, threads, seconds, warm_up, False)["run"])


def count_examples(model: Path, data: Path, threads: int) -> list[tuple[int, int]]:
    """Tokens and supervised tokens of each example as TRL prepares it."""
    counts = _call(model, data, Setting("count", 1), threads, 0.0, 1, True)["counts"]
    return [(tokens, supervised) for tokens, supervised in counts]
