"""A platform and vLLM servers on loopback. Everything that is started here ends with the program."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("TUNESMITH_BIN", ROOT / "bin"))
# A model on the CPU loads in a minute; a real one on a GPU takes longer.
START_SECONDS = 600
# What the servers want to see of the gateway, and the variable in which it finds that.
KEY, KEY_VARIABLE = "sesame", "TUNESMITH_CONFORMANCE_VLLM_KEY"


def say(text: str) -> None:
    print(f"conformance: {text}", file=sys.stderr, flush=True)


def until(what: str, condition, seconds: float = 60, pause: float = 0.2):
    """The first true value of `condition`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(pause)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Program:
    """A process with all of its children: they are a session of their own, so that none is left behind."""

    running: list["Program"] = []

    def __init__(self, command: list, log: Path, environment: dict[str, str] | None = None):
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen([str(part) for part in command], stdout=output, stderr=output,
                stdin=subprocess.DEVNULL, start_new_session=True, env={**os.environ, **(environment or {})})
        Program.running.append(self)

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def fail(self, why: str) -> None:
        sys.stderr.write(self.log.read_text(errors="replace")[-6000:])
        raise AssertionError(f"{self.process.args[0]} {why}")

    def end(self, first: signal.Signals = signal.SIGTERM, patience: float = 30) -> None:
        group = self.process.pid
        try:
            os.killpg(group, first)
            self.process.wait(patience)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            pass
        # What the leader has left behind.
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        Program.running.remove(self)

    @classmethod
    def end_all(cls) -> None:
        for program in reversed(list(cls.running)):
            program.end()


class Vllm:
    """A vLLM server of `folder` under `name`, on a port that it keeps when it starts anew."""

    FLAGS = ["--enable-lora", "--max-loras", "4", "--max-cpu-loras", "32", "--max-lora-rank", "64"]

    def __init__(self, work: Path, folder: Path, name: str, *flags: str):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log, self.work = work / f"vllm-{name}.log", work
        # `vllm serve` of the builds for CPUs looks for a package by another name; its module does the same.
        self.command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", folder,
            "--served-model-name", name, "--host", "127.0.0.1", "--port", self.port, *self.FLAGS, "--dtype", "float32",
            "--enforce-eager", "--max-num-seqs", "16", "--enable-prompt-tokens-details", *flags]
        self.program: Program | None = None

    def start(self) -> "Vllm":
        began = time.monotonic()
        environment = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1", "VLLM_API_KEY": KEY,
            # What it leaves behind, sockets for one.
            "TMPDIR": str(self.work), "VLLM_CACHE_ROOT": str(self.work / "cache"), "XDG_CONFIG_HOME": str(self.work)}
        self.program = Program(self.command, self.log, environment)

        def is_well() -> bool:
            if not self.program.is_alive():
                self.program.fail("ended")
            try:
                return httpx.get(f"{self.url}/health").is_success
            except httpx.TransportError:
                return False

        until("vLLM is well", is_well, START_SECONDS, 1)
        say(f"vLLM {httpx.get(f'{self.url}/version').json()['version']} started in {time.monotonic() - began:.0f} s")
        return self

    def kill(self) -> None:
        self.program.end(signal.SIGKILL)

    def stop(self) -> None:
        self.program.end()

    def adapters(self) -> list[str]:
        headers = {"authorization": f"Bearer {KEY}"}
        cards = httpx.get(f"{self.url}/v1/models", headers=headers).json()["data"]
        return [card["id"] for card in cards if card["parent"]]

    def count(self, metric: str) -> float:
        """The sum of a metric's series."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0] == f"vllm:{metric}")


class Platform:
    """`tunesmith up` with its data in `work`; the key stays the same when it starts anew."""

    def __init__(self, work: Path):
        self.work = work
        self.log = work / "platform.log"
        self.program: Program | None = None

    def start(self, *replicas: str) -> "Platform":
        ready = self.work / "ready.json"
        ready.unlink(missing_ok=True)
        options = [word for replica in replicas for word in ("--replica", replica)]
        # vLLM opens the adapters under the same path.
        self.program = Program([BIN / "tunesmith", "up", "--data-dir", self.work / "data", "--listen", "127.0.0.1:0",
            "--ready-file", ready, "--replica-cache-dir", self.work / "adapters", *options],
            self.log, {KEY_VARIABLE: KEY})

        def is_ready() -> bool:
            if not self.program.is_alive():
                self.program.fail("ended")
            return ready.exists() and ready.stat().st_size > 0

        until("the platform is ready", is_ready, 120)
        found = json.loads(ready.read_text())
        self.url, self.key = found["api_url"], found["api_key"]
        self.http = httpx.Client(base_url=self.url, headers={"authorization": f"Bearer {self.key}"}, timeout=120)
        return self

    def stop(self) -> None:
        self.http.close()
        self.program.end()

    def run(self, *words: object) -> dict:
        """A command of `tunesmith`, by its JSON."""
        environment = {"TUNESMITH_API_URL": self.url, "TUNESMITH_API_KEY": self.key}
        done = subprocess.run([BIN / "tunesmith", *map(str, words), "--json"], env={**os.environ, **environment},
            capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(map(str, words))}: {done.stderr}"
        return json.loads(done.stdout)

    def call(self, method: str, path: str, body: dict | None = None) -> tuple[int, dict]:
        answer = self.http.request(method, path, json=body)
        return answer.status_code, answer.json()

    def train(self, base: str, dataset: str, adapter: str, **hyperparameters: object) -> str:
        """Queues a job, and gives its id."""
        status, answer = self.call("POST", "/v1/jobs",
            {"base_model": base, "dataset": dataset, "adapter": adapter, "hyperparameters": hyperparameters})
        assert status in (200, 201, 202), answer
        return answer["id"]

    def wait_for_jobs(self, jobs: list[str]) -> None:
        for job in jobs:
            def has_ended(job=job) -> str | None:
                status = self.call("GET", f"/v1/jobs/{job}")[1]["status"]
                return status if status in ("succeeded", "failed", "cancelled") else None

            status = until(f"{job} ends", has_ended, 600, 1)
            assert status == "succeeded", f"{job} is {status}"

    def revision(self, deployment: str) -> dict:
        return self.call("GET", f"/v1/deployments/{deployment}")[1]["latest_revision"]

    def settled(self, deployment: str, seconds: float = 90) -> dict:
        """The newest revision, once it is active or has failed."""
        def ended() -> dict | None:
            revision = self.revision(deployment)
            return revision if revision["status"] in ("active", "failed") else None

        return until(f"{deployment} settles", ended, seconds)

    def silences(self, vllm: Vllm) -> int:
        """How often a server was thought to be gone."""
        return self.log.read_text(errors="replace").count(f"replica does not answer url={vllm.url}")
