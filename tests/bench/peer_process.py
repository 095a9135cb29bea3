"""Another program to compare with, in a Python process of its own that is asked by JSON lines."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from process import end, thread_environment

_HERE = Path(__file__).resolve().parent


class PeerFailed(RuntimeError):
    """The peer ended, or could not do what it was asked; the message is the end of what it printed."""


class Peer:
    """A peer that lives as long as the `with` block; between requests it sleeps."""

    def __init__(self, script: str, settings: dict[str, Any], threads: int) -> None:
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        environment = thread_environment(threads) | {"RAYON_NUM_THREADS": str(threads), "RUST_LOG": "error"}
        self._child = subprocess.Popen(
            [sys.executable, str(_HERE / script), json.dumps(settings | {"threads": threads})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self._child.stdin and self._child.stdout
        try:
            self._child.stdin.write(json.dumps(request) + "\n")
            self._child.stdin.flush()
            answer = self._child.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._child.wait()
            self._log.seek(0)
            raise PeerFailed(self._log.read()[-2000:])
        return json.loads(answer)

    def stop(self) -> None:
        end(self._child)
        self._log.close()

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def serve(handle: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The peer's side: answers each line until standard input ends. What libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        answers.write(json.dumps(handle(json.loads(line))) + "\n")
        answers.flush()
