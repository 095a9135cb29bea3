"""The other rows: eight small jobs together against in turn, and what a larger dataset costs."""

from dataclasses import dataclass
from pathlib import Path

import gang
import ours
from compare import Plan, say
from dataset import make_dataset
from gang import Whole
from report import Spread, mebibytes, table
from run import Run

JOBS = 8


@dataclass(frozen=True)
class GangRows:
    """Round by round."""

    together: list[Whole]
    in_turn: list[Whole]

    @property
    def steps_ratio(self) -> Spread:
        pairs = zip(self.together, self.in_turn)
        return Spread.of([gang.steady.tokens_per_second / turn.steady.tokens_per_second for gang, turn in pairs])

    @property
    def whole_ratio(self) -> Spread:
        return Spread.of([turn.seconds / gang.seconds for gang, turn in zip(self.together, self.in_turn)])

    def text(self) -> str:
        def row(name: str, wholes: list[Whole]) -> list[str]:
            speed = Spread.of([whole.steady.tokens_per_second for whole in wholes])
            seconds = Spread.of([whole.seconds for whole in wholes])
            peak = max(whole.steady.peak_bytes for whole in wholes)
            return [name, speed.text(), seconds.text(1), mebibytes(peak)]

        rows = [row("together (gang)", self.together), row("in turn", self.in_turn)]
        header = [
            f"{JOBS} jobs of {gang.STEPS} steps",
            "tokens/s, steps alone",
            "seconds with start and load",
            "peak memory",
        ]
        steps, whole = self.steps_ratio.text(2), self.whole_ratio.text(2)
        return f"{table(rows, header)}\ntogether by in turn: steps alone {steps}, with start and load {whole}"

    def as_json(self) -> dict:
        return {
            "steps_alone": self.steps_ratio.as_json(),
            "with_start_and_load": self.whole_ratio.as_json(),
            "together": [{"seconds": whole.seconds, "steady": whole.steady.as_json()} for whole in self.together],
            "in_turn": [{"seconds": whole.seconds, "steady": whole.steady.as_json()} for whole in self.in_turn],
        }


def measure_gang(plan: Plan, model: Path, folder: Path, precision: str) -> GangRows:
    """Steps of two sequences each, which are too few rows to fill the machine's matmul alone."""
    data = [make_dataset(folder, gang.STEPS * gang.SEQUENCES_PER_STEP, seed=100 + job) for job in range(JOBS)]
    rows = GangRows([], [])
    for number in range(plan.rounds):
        say(f"gang: round {number + 1} of {plan.rounds}")
        rows.together.append(gang.together(plan.trainer, model, data, precision, plan.threads))
        rows.in_turn.append(gang.in_turn(plan.trainer, model, data, precision, plan.threads))
    return rows


@dataclass(frozen=True)
class ScalingRows:
    """Runs by the number of examples in the dataset; the examples that are trained on are the same."""

    runs: dict[int, list[Run]]

    def text(self) -> str:
        rows = [
            [
                f"{examples:,} examples",
                Spread.of([run.tokens_per_second for run in runs]).text(),
                mebibytes(max(run.peak_bytes for run in runs)),
                Spread.of([run.start_seconds for run in runs]).text(1),
            ]
            for examples, runs in self.runs.items()
        ]
        return table(rows, ["cost against work", "tokens/s", "peak memory", "seconds to the first step's end"])

    def as_json(self) -> dict:
        return {str(examples): [run.as_json() for run in runs] for examples, runs in self.runs.items()}


def measure_scaling(plan: Plan, model: Path, folder: Path, precision: str, sizes: list[int]) -> ScalingRows:
    """Datasets of one seed begin with the same examples, so only the size differs."""
    data = {size: make_dataset(folder, size) for size in sizes}
    rows = ScalingRows({size: [] for size in sizes})
    for number in range(plan.rounds):
        for size in sizes:
            say(f"dataset of {size:,} examples: round {number + 1} of {plan.rounds}")
            arguments = ours.arguments(model, data[size], plan.batch, precision) + ["--max-steps", "1000000"]
            rows.runs[size].append(ours.train(plan.trainer, arguments, plan.threads, plan.seconds))
    return rows
