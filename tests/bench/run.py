"""One measured run, of either side, and how it is made from the times of its steps."""

from dataclasses import asdict, dataclass
from typing import Any

WARM_UP_STEPS = 2


@dataclass(frozen=True)
class Mark:
    """The moment after an optimizer step: clocks read then, and what the step trained on."""

    wall: float
    cpu: float
    tokens: int
    supervised: int


@dataclass(frozen=True)
class Run:
    """Steady state of one run: from the end of the warm-up to the end of the last step."""

    steps: int
    tokens: int
    supervised: int
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    # From the start of the process to the end of its first step: imports, model, data.
    start_seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.wall_seconds

    @property
    def tokens_per_cpu_second(self) -> float:
        return self.tokens / self.cpu_seconds

    @staticmethod
    def of(marks: list[Mark], peak: int, start_seconds: float, warm_up: int = WARM_UP_STEPS) -> "Run":
        """`marks`: one per step, the first ones too."""
        if len(marks) <= warm_up:
            raise RuntimeError(f"{len(marks)} steps were made, and {warm_up} are warm-up: give the run more seconds")
        first, last, measured = marks[warm_up - 1], marks[-1], marks[warm_up:]
        return Run(
            steps=len(measured),
            tokens=sum(mark.tokens for mark in measured),
            supervised=sum(mark.supervised for mark in measured),
            wall_seconds=last.wall - first.wall,
            # The kernel counts in hundredths, so a very short run may read as nothing.
            cpu_seconds=max(last.cpu - first.cpu, 0.01),
            peak_bytes=peak,
            start_seconds=start_seconds,
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"tokens_per_second": self.tokens_per_second}
