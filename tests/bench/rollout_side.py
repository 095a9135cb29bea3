"""Changes of a deployment under load: `tunesmith up` in a folder of its own, the bundled base model, two adapters, and
requests at a steady rate while the deployment is promoted, split and rolled back. Each answer must be the one that the
version named in its header gives when nothing changes.
"""

import itertools
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from adapters import make_adapters
from gateway_side import Platform, PlatformFailed
from http_load import Answer
from models import Shape

# models/primer, which every platform has.
_BASE, _SHAPE = "primer", Shape("primer", 192, 4, 6, 2, 512, 2048)
_NAME = "bench-rollout"
_PATH = "/v1/chat/completions"
_PROMPTS, _TOKENS = 24, 4
# Between two changes.
_PAUSE = 0.3


@dataclass(frozen=True)
class Rollouts:
    """What became of the requests, and seconds that each kind of change took."""

    rate: float
    answers: int
    failures: list[str]
    mixed: int
    by_version: dict[str, int]
    changes: dict[str, list[float]]

    def text(self) -> str:
        changes = ", ".join(
            f"{len(times)} of {kind} {1e3 * statistics.median(times):.1f} ms (worst {1e3 * max(times):.1f})"
            for kind, times in self.changes.items()
        )
        failed = f"{len(self.failures)} failed" + (f" ({self.failures[0]})" if self.failures else "")
        return f"{self.answers} answers at {self.rate:.0f} requests/s, {failed}, {self.mixed} mixed; {changes}"

    def as_json(self) -> dict:
        return {
            "rate": self.rate,
            "answers": self.answers,
            "failures": self.failures,
            "mixed": self.mixed,
            "by_version": self.by_version,
            "changes": self.changes,
        }


def _request(prompt: str) -> dict:
    messages = [{"role": "user", "content": prompt}]
    return {"model": _NAME, "messages": messages, "temperature": 0, "max_tokens": _TOKENS}


def _prompt(answer: Answer) -> str:
    return answer.request["messages"][0]["content"]


def _version(answer: Answer) -> str:
    return answer.headers.get("x-tunesmith-version", "")


class _Changes:
    """Promotions, splits and rollbacks in turn, on a thread of their own, until it is told to end."""

    def __init__(self, platform: Platform) -> None:
        self._post = lambda what, body: platform.client.call_json("POST", f"/v1/deployments/{_NAME}/{what}", body)
        self.times: dict[str, list[float]] = {}
        self.failure: Exception | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        versions = itertools.cycle((1, 2, 2, 1))
        halves = [{"adapter": _NAME, "version": version, "weight": 50} for version in (1, 2)]
        kinds: dict[str, Callable[[], dict]] = {
            "promote": lambda: {"adapter": _NAME, "version": next(versions)},
            "split": lambda: {"routes": halves},
            "rollback": dict,
        }
        try:
            for kind, body in itertools.cycle(kinds.items()):
                if self._is_over.wait(_PAUSE):
                    return
                began = time.perf_counter()
                self._post(kind, body())
                self.times.setdefault(kind, []).append(time.perf_counter() - began)
        except Exception as error:  # noqa: BLE001 - told by the thread that waits for this one
            self.failure = error

    def __enter__(self) -> "_Changes":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()


def _alone(platform: Platform, prompts: list[str]) -> dict[str, dict[str, str]]:
    """What each version says to each prompt while nothing changes."""
    said = {}
    for number in (1, 2):
        body = {"adapter": _NAME, "version": number}
        platform.client.call_json("POST", f"/v1/deployments/{_NAME}/promote", body)
        platform.wait_for_revision(_NAME)
        answers = [platform.client.ask([_request(prompt)], _PATH)[0] for prompt in prompts]
        if strangers := {_version(answer) for answer in answers} - {f"{_NAME}@{number}"}:
            raise PlatformFailed(f"version {number} was promoted, and {strangers} answered")
        said[f"{_NAME}@{number}"] = {prompt: answer.text for prompt, answer in zip(prompts, answers)}
    return said


def measure_rollouts(
    executable: Path, engine: Path, folder: Path, threads: int, rate: float, seconds: float
) -> Rollouts:
    """Starts everything, changes the deployment under load, and ends everything."""
    prompts = [f"Where is my order A-{number}?" for number in range(_PROMPTS)]
    with Platform(executable, engine, threads) as platform:
        for adapter in make_adapters(_SHAPE, folder, 2):
            platform.import_adapter(_NAME, _BASE, adapter)
        platform.deploy(_NAME, _BASE)
        said = _alone(platform, prompts)
        one, other = said.values()
        # Only these tell a mixture.
        telling = [prompt for prompt in prompts if one[prompt] != other[prompt]]
        if not telling:
            raise PlatformFailed("both versions say the same to every prompt")
        asked = list(itertools.islice(itertools.cycle(telling), round(rate * seconds)))
        began = time.perf_counter()
        with _Changes(platform) as changes:
            answers, failures = platform.client.ask_at_rate(map(_request, asked), rate, _PATH)
        took = time.perf_counter() - began
    if changes.failure:
        raise PlatformFailed(f"a change was refused: {changes.failure}")
    return Rollouts(
        rate=len(asked) / took,
        answers=len(answers),
        failures=failures,
        mixed=sum(said.get(_version(answer), {}).get(_prompt(answer)) != answer.text for answer in answers),
        by_version={version: sum(_version(answer) == version for answer in answers) for version in said},
        changes=changes.times,
    )
