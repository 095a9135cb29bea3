"""What the gateway adds to the time to the first token: `tunesmith up` in a folder of its own, one model, one
deployment, and the same requests through the gateway and straight to the engine that it started.
"""

import io
import json
import os
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from http_load import Client
from inference_sides import completion
from process import thread_environment
from prompts import Prompts
from report import percentile

_Found = TypeVar("_Found")
_PATIENCE = 300.0
_BASE, _DEPLOYMENT = "bench-base", "bench-deployment"
_PATH = "/v1/completions"


@dataclass(frozen=True)
class Overhead:
    """Seconds to the first token of the same requests, one after another."""

    direct: list[float]
    through: list[float]

    def added(self, percent: int) -> float:
        """What the gateway adds to this percentile."""
        return percentile(self.through, percent) - percentile(self.direct, percent)

    def text(self) -> str:
        def cells(values: Sequence[float]) -> str:
            return ", ".join(f"p{percent} {1e3 * percentile(values, percent):.2f} ms" for percent in (50, 99))

        return (
            f"time to first token of {len(self.direct)} requests: straight to the engine {cells(self.direct)}; "
            f"through the gateway {cells(self.through)}"
        )

    def as_json(self) -> dict:
        return {
            "direct": self.direct,
            "through": self.through,
            "added_p50": self.added(50),
            "added_p99": self.added(99),
        }


class PlatformFailed(RuntimeError):
    """`tunesmith up` ended, or never became ready; the message is the end of its log."""


class Platform:
    """`tunesmith up` on a fresh folder, which goes with it. It ends what it started itself."""

    def __init__(self, executable: Path, engine: Path, threads: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tunesmith-bench-up-")
        self.data = Path(self._folder.name, "data")
        ready, self._log = Path(self._folder.name, "ready.json"), Path(self._folder.name, "log")
        command = [str(executable), "up", "--listen", "127.0.0.1:0", "--data-dir", str(self.data)]
        environment = thread_environment(threads) | {"TUNESMITH_ENGINE": str(engine)}
        # A database or an object store that the caller's shell knows is none of ours.
        for name in ("DATABASE_URL", "S3_ENDPOINT", "S3_BUCKET", "TUNESMITH_DATA_DIR"):
            environment.pop(name, None)
        with open(self._log, "wb") as log:
            self._child = subprocess.Popen(
                [*command, "--ready-file", str(ready), "--supervised"],
                # Closed where this process ends, however it ends, and the platform ends with it.
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
            )
        try:
            facts = self.wait(lambda: json.loads(ready.read_text()) if ready.exists() else None)
        except BaseException:
            self.stop()
            raise
        self.client = Client(facts["api_url"], facts["api_key"])

    def wait(self, look: Callable[[], _Found | None]) -> _Found:
        """Looks until there is something."""
        until = time.monotonic() + _PATIENCE
        while (found := look()) is None:
            if self._child.poll() is not None or time.monotonic() > until:
                raise PlatformFailed(self._log.read_text(errors="replace")[-2000:])
            time.sleep(0.1)
        return found

    def register(self, name: str, model: Path) -> None:
        """Registers a base model from a folder."""
        made = self.client.call_json("POST", "/v1/base-models", {"name": name})
        for file in sorted(model.iterdir()):
            place = f"/v1/base-models/{made['id']}/files/{file.name}"
            self.client.call("PUT", place, file.read_bytes(), "application/octet-stream")
        self.client.call_json("POST", f"/v1/base-models/{made['id']}/complete", {})

    def import_adapter(self, name: str, base: str, folder: Path) -> None:
        """Makes a PEFT folder the next version of an adapter."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for file in sorted(folder.iterdir()):
                tar.add(file, file.name)
        place = f"/v1/adapters/{name}/import?base_model={base}"
        self.client.call("POST", place, archive.getvalue(), "application/x-tar")

    def deploy(self, name: str, base: str) -> None:
        """Makes a deployment and waits until it answers."""
        self.client.call_json("POST", "/v1/deployments", {"name": name, "base_model": base})
        self.wait_for_revision(name)

    def wait_for_revision(self, name: str) -> None:
        """Waits until the deployment's newest revision answers."""

        def active() -> bool | None:
            deployment = self.client.call_json("GET", f"/v1/deployments/{name}")
            latest = deployment["latest_revision"]
            if latest["status"] == "failed":
                raise PlatformFailed(f"the deployment failed: {latest['reason']}")
            return True if latest["status"] == "active" else None

        self.wait(active)

    def engine_url(self, base: str) -> str:
        """Of the engine that serves `base`, as it says itself in its ready file."""

        def find() -> str | None:
            found = next(iter(self.data.rglob(f"engine-{base}-*.json")), None)
            return json.loads(found.read_text())["url"] if found else None

        return self.wait(find)

    def stop(self) -> None:
        self._child.terminate()
        try:
            self._child.wait(60)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._folder.cleanup()

    def __enter__(self) -> "Platform":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def measure_gateway(
    executable: Path, engine: Path, model: Path, threads: int, requests: int, prompt_tokens: int
) -> Overhead:
    """Starts everything, sends `requests` each way in turn, and ends everything."""
    prompts = Prompts(4)
    with Platform(executable, engine, threads) as platform:
        platform.register(_BASE, model)
        platform.deploy(_DEPLOYMENT, _BASE)
        ways = [(Client(platform.engine_url(_BASE)), _BASE), (platform.client, _DEPLOYMENT)]
        times: dict[str, list[float]] = {name: [] for _, name in ways}
        for number in range(requests + 3):
            # Each goes first as often as the other.
            for client, name in ways if number % 2 else reversed(ways):
                body = completion(name, prompts.one(prompt_tokens), 2, stream=True)
                times[name].append(client.ask([body], _PATH)[0].first_token)
    # The first ones open connections and fill caches.
    return Overhead(times[_BASE][3:], times[_DEPLOYMENT][3:])


def refusal(executable: Path) -> str:
    """Why the gateway cannot be measured here, if it cannot."""
    return "" if os.access(executable, os.X_OK) else f"no executable {executable}; run `make build`"
