"""What a change of adapters costs the requests that run meanwhile, and how long it takes."""

import itertools
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from engine_side import Engine
from http_load import Answer
from inference_sides import check, completion
from prompts import Prompts
from report import percentile

RUNNING = 8
# Between two changes: one adapter comes, then goes.
_PAUSE = 0.1


@dataclass(frozen=True)
class Swap:
    """Seconds. `still`, `swapping`: between the tokens of running requests, all together."""

    still: list[float]
    swapping: list[float]
    loads_alone: list[float]
    loads_beside: list[float]

    @property
    def ratio(self) -> float:
        """How many times longer the 99th percentile is while adapters are swapped."""
        return percentile(self.swapping, 99) / percentile(self.still, 99)

    def as_json(self) -> dict:
        facts = {f"{name}_p99": percentile(asdict(self)[name], 99) for name in ("still", "swapping")}
        return facts | {"ratio": self.ratio, "loads_alone": self.loads_alone, "loads_beside": self.loads_beside}


def measure_swap(engine: Engine, models: Sequence[str], spare: Sequence[Path], prompt_tokens: int, tokens: int) -> Swap:
    """Runs `RUNNING` streams of `tokens` each, first in peace and then while the `spare` adapters come and go."""
    loads_alone = []
    for number, folder in enumerate(spare):
        loads_alone.append(engine.load(f"alone-{number}", folder))
        engine.unload(f"alone-{number}")
    prompts = Prompts(3)

    def gaps() -> list[float]:
        names = itertools.islice(itertools.cycle(models), RUNNING)
        bodies = [completion(name, prompts.one(prompt_tokens), tokens, stream=True) for name in names]
        return steady_gaps([check(answer, prompt_tokens, tokens) for answer in engine.client.ask(bodies)])

    still = gaps()
    loads_beside: list[float] = []
    stop = threading.Event()
    swapper = threading.Thread(target=_swap, args=(engine, spare, stop, loads_beside))
    swapper.start()
    try:
        swapping = gaps()
    finally:
        stop.set()
        swapper.join()
    return Swap(still, swapping, loads_alone, loads_beside)


def steady_gaps(answers: Sequence[Answer]) -> list[float]:
    """Between tokens while all requests run: neither beside another's prompt nor after the first has ended."""
    begin = max(answer.arrivals[0] for answer in answers)
    end = min(answer.arrivals[-1] for answer in answers)
    return [
        after - before
        for answer in answers
        for before, after in itertools.pairwise(answer.arrivals)
        if begin <= before and after <= end
    ]


def _swap(engine: Engine, spare: Sequence[Path], stop: threading.Event, loads: list[float]) -> None:
    for number, folder in enumerate(itertools.cycle(spare)):
        loads.append(engine.load(f"beside-{number}", folder))
        time.sleep(_PAUSE)
        engine.unload(f"beside-{number}")
        time.sleep(_PAUSE)
        if stop.is_set():
            return
