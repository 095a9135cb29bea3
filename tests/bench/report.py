"""Medians, spread, ratios and the table of targets, as text and as JSON."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from run import Run


@dataclass(frozen=True)
class Spread:
    """Several measurements of one thing. A wide range says that the machine was busy with something else."""

    median: float
    least: float
    greatest: float

    @staticmethod
    def of(values: Sequence[float]) -> "Spread":
        return Spread(statistics.median(values), min(values), max(values))

    def text(self, digits: int = 0) -> str:
        return f"{self.median:,.{digits}f} ({self.least:,.{digits}f} to {self.greatest:,.{digits}f})"

    def as_json(self) -> dict[str, float]:
        return {"median": self.median, "least": self.least, "greatest": self.greatest}


def percentile(values: Sequence[float], percent: int) -> float:
    """By nearest rank, so it is a value that was measured."""
    ordered = sorted(values)
    return ordered[max(math.ceil(len(ordered) * percent / 100), 1) - 1]


@dataclass(frozen=True)
class Target:
    """A number that was promised. `measured` is None where it was not measured, and `why` says for what reason."""

    name: str
    wanted: float
    measured: float | None
    unit: str = "times"
    at_most: bool = False
    why: str = ""

    @property
    def reached(self) -> bool | None:
        if self.measured is None:
            return None
        return self.measured <= self.wanted if self.at_most else self.measured >= self.wanted

    def cells(self) -> list[str]:
        percent = self.unit == "%"
        show = (lambda value: f"{100 * value:.0f} %") if percent else (lambda value: f"{value:.2f} {self.unit}")
        verdict = {True: "reached", False: "not reached", None: f"not measured: {self.why}"}[self.reached]
        bound = "at most" if self.at_most else "at least"
        return [
            self.name,
            f"{bound} {show(self.wanted)}",
            "-" if self.measured is None else show(self.measured),
            verdict,
        ]

    def as_json(self) -> dict:
        return {"name": self.name, "wanted": self.wanted, "at_most": self.at_most, "unit": self.unit} | {
            "measured": self.measured,
            "reached": self.reached,
            "why": self.why,
        }


def table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """Columns as wide as their widest cell; all but the first are set to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        rest = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))
        return "  ".join([row[0].ljust(widths[0]), *rest]).rstrip()

    return "\n".join([line(header), "  ".join("-" * width for width in widths), *map(line, rows)])


def mebibytes(count: float) -> str:
    return f"{count / 2**20:,.0f} MiB"


def side_row(name: str, runs: Sequence[Run], work: float, rate: float) -> list[str]:
    """A line of the comparison: speed by the wall and by the CPU's clock, share of the matmul rate, memory."""
    wall = Spread.of([run.tokens_per_second for run in runs])
    cpu = Spread.of([run.tokens_per_cpu_second for run in runs])
    peak = max(run.peak_bytes for run in runs)
    return [name, wall.text(), cpu.text(), f"{100 * wall.median * work / rate:.0f} %", mebibytes(peak)]


SIDE_HEADER = ["", "tokens/s (range)", "tokens/CPU-s (range)", "of matmul", "peak memory"]


def paired_ratio(ours: Sequence[Run], theirs: Sequence[Run]) -> Spread:
    """Ours by theirs, round by round, so that a slow minute of the machine strikes both sides."""
    return Spread.of([one.tokens_per_second / other.tokens_per_second for one, other in zip(ours, theirs)])


def cpu_ratio(ours: Sequence[Run], theirs: Sequence[Run]) -> Spread:
    """The same by CPU time, which other programs on the machine disturb less."""
    return Spread.of([one.tokens_per_cpu_second / other.tokens_per_cpu_second for one, other in zip(ours, theirs)])
