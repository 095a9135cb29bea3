"""Ours and SFTTrainer in turn on one model, in one precision."""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import matmul
import ours
import trl_side
from dataset import Statistics
from models import Shape
from report import SIDE_HEADER, Spread, cpu_ratio, paired_ratio, side_row, table
from run import Run
from trl_peer import Setting
from work import flops_per_token


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Plan:
    """What all comparisons of one call share."""

    trainer: Path
    data: Path
    counts: list[tuple[int, int]]
    threads: int
    batch: int
    rounds: int
    seconds: float
    probe_seconds: float

    @property
    def statistics(self) -> Statistics:
        return Statistics.of(self.counts)


@dataclass(frozen=True)
class Comparison:
    """The runs of each side, round by round."""

    shape: Shape
    precision: str
    ours: list[Run]
    fastest: list[Run]
    default: list[Run]
    padded: list[Run]
    fastest_setting: Setting
    # Tokens per second of each setting that was tried; a text says why one does not work here.
    tried: dict[str, float | str]
    matmul_rates: list[float]
    work: float

    @property
    def rate(self) -> float:
        """The best that was seen: other programs can only have made the others worse."""
        return max(self.matmul_rates)

    @property
    def share(self) -> float:
        return Spread.of([run.tokens_per_second for run in self.ours]).median * self.work / self.rate

    @property
    def memory_ratio(self) -> float:
        return max(run.peak_bytes for run in self.ours) / max(run.peak_bytes for run in self.fastest)

    def text(self) -> str:
        rows = [
            side_row("ours", self.ours, self.work, self.rate),
            side_row(f"TRL, fastest ({self.fastest_setting.name})", self.fastest, self.work, self.rate),
            side_row("TRL, default", self.default, self.work, self.rate),
            side_row("TRL, padded, batch 4", self.padded, self.work, self.rate),
        ]
        lines = [
            f"{self.shape.name}, {self.precision}: {self.shape.parameters() / 1e6:.1f} M parameters, "
            f"{self.work / 1e6:.0f} MFLOP per token, matmul rate {self.rate / 1e9:,.0f} GFLOP/s "
            f"({min(self.matmul_rates) / 1e9:,.0f} to {self.rate / 1e9:,.0f} in {len(self.matmul_rates)} rounds)",
            table(rows, SIDE_HEADER),
        ]
        sides = (("fastest", self.fastest), ("default", self.default), ("padded batches of 4", self.padded))
        for name, theirs in sides:
            by_wall, by_cpu = paired_ratio(self.ours, theirs), cpu_ratio(self.ours, theirs)
            lines.append(f"ours by TRL's {name}: {by_wall.text(2)}; by CPU time {by_cpu.text(2)}")
        lines.append(f"peak memory, ours by TRL's fastest: {100 * self.memory_ratio:.0f} %")
        tried = ", ".join(f"{name} {value:,.0f}" for name, value in self.tried.items() if isinstance(value, float))
        lines.append(f"TRL's settings, tokens/s in one short run each: {tried}")
        lines += [
            f"  {name} does not work here: {value}" for name, value in self.tried.items() if isinstance(value, str)
        ]
        return "\n".join(lines)

    def as_json(self) -> dict:
        return {
            "model": self.shape.name,
            "precision": self.precision,
            "parameters": self.shape.parameters(),
            "flops_per_token": self.work,
            "matmul_flops_per_second": self.matmul_rates,
            "share_of_matmul": self.share,
            "ours": [run.as_json() for run in self.ours],
            "trl_fastest": [run.as_json() for run in self.fastest],
            "trl_fastest_setting": asdict(self.fastest_setting),
            "trl_default": [run.as_json() for run in self.default],
            "trl_padded": [run.as_json() for run in self.padded],
            "trl_tried": self.tried,
            "by_fastest": paired_ratio(self.ours, self.fastest).as_json(),
            "by_default": paired_ratio(self.ours, self.default).as_json(),
            "by_padded": paired_ratio(self.ours, self.padded).as_json(),
            "by_fastest_cpu_time": cpu_ratio(self.ours, self.fastest).as_json(),
            "by_default_cpu_time": cpu_ratio(self.ours, self.default).as_json(),
            "by_padded_cpu_time": cpu_ratio(self.ours, self.padded).as_json(),
            "memory_by_fastest": self.memory_ratio,
        }


def _find_fastest(plan: Plan, model: Path, bfloat16: bool) -> tuple[Setting, dict[str, float | str]]:
    tried: dict[str, float | str] = {}
    settings = {setting.name: setting for setting in trl_side.candidates(plan.batch, bfloat16)}
    for name, setting in settings.items():
        say(f"  TRL, {name}")
        try:
            # One step of warm-up: this only chooses, the rounds measure.
            tried[name] = trl_side.train(
                model, plan.data, setting, plan.threads, plan.probe_seconds, 1
            ).tokens_per_second
        except trl_side.PeerFailed as error:
            tried[name] = str(error).strip().splitlines()[-1]
    speeds = {name: value for name, value in tried.items() if isinstance(value, float)}
    if not speeds:
        raise trl_side.PeerFailed(f"no setting works: {tried}")
    return settings[max(speeds, key=speeds.__getitem__)], tried


def compare(plan: Plan, shape: Shape, model: Path, precision: str) -> Comparison:
    """Chooses TRL's fastest setting by short runs, then measures ours, fastest, default and padded in turn, round by
    round."""
    bfloat16 = precision == "bfloat16"
    say(f"{shape.name}, {precision}: looking for TRL's fastest setting")
    setting, tried = _find_fastest(plan, model, bfloat16)
    default, padded = trl_side.default_setting(bfloat16), trl_side.padded_setting(bfloat16)
    arguments = ours.arguments(model, plan.data, plan.batch, precision) + ["--max-steps", "1000000"]
    expected = ours.counts_of_steps(plan.counts, plan.batch)
    found = Comparison(shape, precision, [], [], [], [], setting, tried, [], flops_per_token(shape, plan.statistics))
    for number in range(plan.rounds):
        say(f"{shape.name}, {precision}: round {number + 1} of {plan.rounds}")
        found.matmul_rates.append(matmul.measure(shape.name, precision, plan.threads))
        found.ours.append(ours.train(plan.trainer, arguments, plan.threads, plan.seconds, expected=expected))
        found.fastest.append(trl_side.train(model, plan.data, setting, plan.threads, plan.seconds))
        found.default.append(trl_side.train(model, plan.data, default, plan.threads, plan.seconds))
        found.padded.append(trl_side.train(model, plan.data, padded, plan.threads, plan.seconds))
    return found
