"""What is compared at inference: our engine and the peers, each asked for the same work in its own way."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from engine_side import BASE_NAME, Engine
from http_load import Answer
from peer_process import Peer
from prompts import Prompts, evenly, spread, zipf

_Result = TypeVar("_Result")

# What the requests ask for, in the order of the tables.
COLUMNS = {
    "base": "base only",
    "unused": "LoRA loaded, unused",
    "one": "one adapter",
    "eight": "8 adapters, evenly",
    "zipf": "64 adapters, Zipf",
    "merged": "merged",
}
ADAPTERS = 64
# More than the engine takes to merge an adapter that has all the traffic.
_STEPS_TO_MERGE = 128


@dataclass(frozen=True)
class Work:
    """Sizes of the requests."""

    prompt_tokens: int
    output_tokens: int
    at_once: int
    # Each measurement goes on for this long, and for one request or batch at least.
    seconds: float


@dataclass(frozen=True)
class Single:
    """One request after another."""

    # Seconds, of each request.
    first_tokens: list[float]
    # After the first token of each.
    tokens_per_second: float

    @staticmethod
    def of(answers: Sequence[tuple[float, int, float]]) -> "Single":
        """`answers`: seconds to the first token, number of tokens, seconds from the first to the last."""
        decoded = sum(tokens - 1 for _, tokens, _ in answers)
        # Where a busy machine brings all of a short answer at once, there is nothing to measure.
        seconds = max(sum(seconds for _, _, seconds in answers), 1e-6)
        return Single([first for first, _, _ in answers], decoded / seconds)


class Side(Protocol):
    """A program that is measured."""

    name: str

    def columns(self) -> list[str]: ...

    def steps_before(self, column: str) -> int:
        """Tokens to generate before anything is measured."""
        ...

    def single(self, column: str, work: Work) -> Single: ...

    def together(self, column: str, work: Work) -> float | None:
        """Tokens per second, prompts included in the time; None where the program is not asked for it."""


def repeat(seconds: float, once: Callable[[], _Result]) -> list[_Result]:
    """Results of `once` until `seconds` are over; one at least."""
    until = time.perf_counter() + seconds
    results = [once()]
    while time.perf_counter() < until:
        results.append(once())
    return results


class Ours:
    """Engines without adapters, with 64 of them, and with one that gets all the traffic. One is asked at a time; the
    others sleep."""

    name = "ours"

    def __init__(
        self,
        executable: Path,
        model: Path,
        adapters: Sequence[Path],
        dtype: str,
        threads: int,
        columns: Sequence[str],
        options: Sequence[str],
    ) -> None:
        self._prompts = Prompts(1)
        self._columns = list(columns)
        self._names = [f"lora-{place:03}" for place in range(ADAPTERS)]
        self._stack = ExitStack()
        loaded = list(zip(self._names, adapters))

        def start(*wanted: str, adapters: Sequence[tuple[str, Path]], more: Sequence[str] = ()) -> Engine | None:
            if not set(wanted) & set(columns):
                return None
            return self._stack.enter_context(
                Engine(executable, model, dtype, threads, adapters, [*options, *more])
            )

        with ExitStack() as undo:
            undo.push(self._stack)
            bare = start("base", adapters=[])
            self.loaded = start("unused", "one", "eight", "zipf", adapters=loaded, more=["--merged-bytes", "0"])
            merged = start("merged", adapters=loaded[:1])
            undo.pop_all()
        engines = {"base": bare, "merged": merged}
        self._engines = {column: engines.get(column, self.loaded) for column in columns}
        self._models: dict[str, Iterator[str]] = {
            "one": itertools.cycle(self._names[:1]),
            "merged": itertools.cycle(self._names[:1]),
            "eight": evenly(self._names[:8], seed=0),
            "zipf": itertools.cycle(zipf(self._names, 4096, seed=0)),
        }

    def columns(self) -> list[str]:
        return self._columns

    def steps_before(self, column: str) -> int:
        return _STEPS_TO_MERGE if column == "merged" else 4

    def _body(self, column: str, length: int, tokens: int, stream: bool) -> dict:
        model = next(self._models[column]) if column in self._models else BASE_NAME
        return completion(model, self._prompts.one(length), tokens, stream)

    def single(self, column: str, work: Work) -> Single:
        client = self._engine(column).client

        def once() -> Answer:
            body = self._body(column, work.prompt_tokens, work.output_tokens, stream=True)
            return check(client.ask([body])[0], work.prompt_tokens, work.output_tokens)

        answers = repeat(work.seconds, once)
        return Single.of([(answer.first_token, answer.tokens, answer.decoding) for answer in answers])

    def together(self, column: str, work: Work) -> float | None:
        client = self._engine(column).client
        lengths = spread(work.prompt_tokens, work.at_once)

        def once() -> tuple[int, float]:
            # Whole answers: reading many streams would take time of the cores that the engine works on.
            bodies = [self._body(column, length, work.output_tokens, stream=False) for length in lengths]
            began = time.perf_counter()
            answers = client.ask(bodies)
            seconds = time.perf_counter() - began
            return sum(check(answer, None, work.output_tokens).tokens for answer in answers), seconds

        done = repeat(work.seconds, once)
        return sum(tokens for tokens, _ in done) / sum(seconds for _, seconds in done)

    def _engine(self, column: str) -> Engine:
        engine = self._engines[column]
        assert engine, "an engine was started for each column"
        return engine

    def __enter__(self) -> "Ours":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def completion(model: str, prompt: str, tokens: int, stream: bool) -> dict:
    """A request for exactly so many tokens."""
    body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    return body | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {})


def check(answer: Answer, prompt_tokens: int | None, tokens: int) -> Answer:
    """Refuses an answer of another length than was asked for: the sides would not have done the same."""
    if answer.tokens != tokens or (prompt_tokens or answer.prompt_tokens) != answer.prompt_tokens:
        made = f"{answer.tokens} tokens on a prompt of {answer.prompt_tokens}"
        raise RuntimeError(f"ours made {made}, where {tokens} on {prompt_tokens} were asked for")
    return answer


class Peers:
    """A peer, in one process or one for each column."""

    def __init__(self, name: str, script: str, columns: dict[str, dict], threads: int, batches: bool) -> None:
        self.name = name
        self._batches = batches
        self._prompts = Prompts(2)
        self._stack = ExitStack()
        started: dict[str, Peer] = {}
        self._peers: dict[str, Peer] = {}
        with ExitStack() as undo:
            undo.push(self._stack)
            for column, settings in columns.items():
                key = str(settings)
                if key not in started:
                    started[key] = self._stack.enter_context(Peer(script, settings, threads))
                self._peers[column] = started[key]
            undo.pop_all()

    def columns(self) -> list[str]:
        return list(self._peers)

    def steps_before(self, column: str) -> int:
        return 4

    def single(self, column: str, work: Work) -> Single:
        def once() -> dict:
            return self._generate(column, [work.prompt_tokens], work.output_tokens)

        answers = repeat(work.seconds, once)
        return Single.of([(answer["first_token"], answer["tokens"], answer["decoding"]) for answer in answers])

    def together(self, column: str, work: Work) -> float | None:
        if not self._batches:
            return None
        lengths = spread(work.prompt_tokens, work.at_once)
        done = repeat(work.seconds, lambda: self._generate(column, lengths, work.output_tokens))
        return sum(answer["tokens"] for answer in done) / sum(answer["seconds"] for answer in done)

    def load(self, column: str, folder: Path) -> float:
        """Seconds to load an adapter beside the one that is there."""
        return self._peers[column].ask(do="load", folder=str(folder))["seconds"]

    def _generate(self, column: str, lengths: Sequence[int], tokens: int) -> dict:
        prompts = self._prompts.several(lengths)
        answer = self._peers[column].ask(do="generate", column=column, prompts=prompts, tokens=tokens)
        if answer["tokens"] != tokens * len(lengths) or answer["prompt_tokens"] != sum(lengths):
            made = f"{answer['tokens']} tokens on {answer['prompt_tokens']}"
            raise RuntimeError(
                f"{self.name} made {made}, where {tokens * len(lengths)} on {sum(lengths)} were asked for"
            )
        return answer

    def __enter__(self) -> "Peers":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
