"""Starts `tunesmith-engine serve` and talks to it."""

import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from http_load import Client
from process import end, thread_environment

BASE_NAME = "base"
_PATIENCE = 180.0


class EngineFailed(RuntimeError):
    """The engine ended before it was ready; the message is the end of its log."""


class Engine:
    """A running engine, which ends with the `with` block, and with this process in any case."""

    def __init__(
        self,
        executable: Path,
        model: Path,
        dtype: str,
        threads: int,
        adapters: Sequence[tuple[str, Path]] = (),
        more: Sequence[str] = (),
    ) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="tunesmith-bench-")
        ready, self._log = Path(self._scratch.name, "ready.json"), Path(self._scratch.name, "log")
        command = [str(executable), "serve", "--base", str(model), "--model-name", BASE_NAME]
        command += ["--listen", "127.0.0.1:0", "--ready-file", str(ready), "--supervised"]
        # Room for those that are swapped in beside the ones of the start.
        command += ["--dtype", dtype, "--device", "cpu", "--threads", str(threads), "--max-adapters", "80"]
        for name, folder in adapters:
            command += ["--adapter", f"{name}={folder}"]
        with open(self._log, "wb") as log:
            # Its own choice of how OpenMP's threads wait is part of what is measured, so nothing is said about it here.
            self._child = subprocess.Popen(
                [*command, *more],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=thread_environment(threads),
            )
        try:
            self.url = self._wait(ready)
        except BaseException:
            self.stop()
            raise
        self.client = Client(self.url)

    def _wait(self, ready: Path) -> str:
        until = time.monotonic() + _PATIENCE
        while not ready.exists():
            if self._child.poll() is not None or time.monotonic() > until:
                raise EngineFailed(self._log.read_text(errors="replace")[-2000:])
            time.sleep(0.05)
        return json.loads(ready.read_text())["url"]

    def load(self, name: str, folder: Path) -> float:
        """Loads an adapter and returns the seconds until the engine said that it serves it."""
        began = time.perf_counter()
        body = {"lora_name": name, "lora_path": str(folder)}
        self.client.call("POST", "/v1/load_lora_adapter", json.dumps(body).encode())
        return time.perf_counter() - began

    def unload(self, name: str) -> None:
        self.client.call("POST", "/v1/unload_lora_adapter", json.dumps({"lora_name": name}).encode())

    def http_seconds(self, times: int = 50) -> float:
        """The least time of a request that the model has no part in."""

        def one() -> float:
            began = time.perf_counter()
            self.client.call("GET", "/health")
            return time.perf_counter() - began

        return min(one() for _ in range(times))

    def stop(self) -> None:
        # The end of its standard input tells it to end.
        end(self._child)
        self._scratch.cleanup()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
