#!/usr/bin/env python3
"""Stands in for `tunesmith-trainer gang` where a test needs a child that crashes, hangs or lies at a given moment.

The first line of a job's data is its script: {"total": steps, "fresh": [...], "resumed": [...]}, each a list of
actions; every job has a thread of its own. The base model's config.json may hold {"loading": [...]}, actions before
the child is ready. It speaks the trainer's protocol; an "adapter" depends on nothing but the number of steps, so a
resumed run ends with the bytes of an unbroken one.
"""

import json
import os
import queue
import signal
import struct
import sys
import threading
import time

output = threading.Lock()


def say(text):
    with output:
        sys.stdout.write(text)
        sys.stdout.flush()


def emit(event, job=None, **fields):
    say(json.dumps({**({"job": job} if job else {}), "event": event, **fields}) + "\n")


class Ended(Exception):
    """The job has said its last word."""


class Actions:
    """What a script may ask for, of the child as a whole or of one job."""

    id = None

    def run(self, actions):
        for name, *arguments in actions:
            getattr(self, name)(*arguments)

    def emit(self, event, **fields):
        emit(event, self.id, **fields)

    def wait(self, seconds):
        time.sleep(seconds)

    def log(self, text):
        print(text, file=sys.stderr, flush=True)

    def chatter(self):
        say("this is not an event\n" + json.dumps({"event": "of the future"}) + "\n")

    def flood(self):
        say("x" * 1_000_000)
        self.hang()

    def crash(self):
        os.kill(os.getpid(), signal.SIGSEGV)

    def exit(self, code):
        os._exit(code)

    def give_up(self, code, message):
        emit("failed", code=code, message=message)
        os._exit(1)

    def hang(self):
        while True:
            time.sleep(3600)


class Job(Actions):
    def __init__(self, spec):
        self.spec = spec
        self.id = spec["id"]
        self.commands = queue.Queue()
        self.step = 0

    def train(self):
        with open(self.spec["data"], encoding="utf-8") as data:
            script = json.loads(data.readline())
        self.total = script["total"]
        resume = self.spec["resume"]
        if resume:
            with open(os.path.join(resume, "state.json"), encoding="utf-8") as state:
                self.step = json.load(state)["step"]
        self.resumed_from = self.step
        try:
            self.run(script["resumed" if resume else "fresh"])
        except Ended:
            pass
        jobs.pop(self.id)

    def start(self):
        self.emit("started", total_steps=self.total, train_examples=8, eval_examples=1, trainable_parameters=4,
                  device="cpu", dtype="float32", resumed_from_step=self.resumed_from)

    def steps(self, until):
        while self.step < until:
            self.step += 1
            self.emit("step", step=self.step, total_steps=self.total, epoch=self.step / self.total, loss=1 / self.step,
                      lr=1e-3, grad_norm=1.0, tokens=10, supervised_tokens=5, seconds=0.001)

    def evaluate(self):
        self.emit("evaluation", step=self.step, loss=0.5, token_accuracy=0.25, tokens=5)

    def write_adapter(self, folder, numbers):
        rank = self.spec["hyperparameters"]["rank"]
        with open(os.path.join(folder, "adapter_config.json"), "w", encoding="utf-8") as config:
            json.dump({"peft_type": "LORA", "r": rank}, config)
        header = {"m.q_proj.lora_A.weight": {"dtype": "F32", "shape": [len(numbers)],
                                             "data_offsets": [0, 4 * len(numbers)]}}
        text = json.dumps(header).encode()
        with open(os.path.join(folder, "adapter_model.safetensors"), "wb") as tensors:
            tensors.write(struct.pack("<Q", len(text)) + text + struct.pack(f"<{len(numbers)}f", *numbers))

    def checkpoint(self):
        folder = os.path.join(self.spec["checkpoint_dir"], f"step-{self.step:08}")
        os.makedirs(folder, exist_ok=True)
        self.write_adapter(folder, [float(self.step)] * 4)
        with open(os.path.join(folder, "optimizer.safetensors"), "wb") as optimizer:
            optimizer.write(os.urandom(64))
        with open(os.path.join(folder, "state.json"), "w", encoding="utf-8") as state:
            json.dump({"step": self.step}, state)
        self.emit("checkpoint", step=self.step, path=folder)
        return folder

    def finish(self, number=None):
        self.steps(self.total)
        folder = self.spec["out"]
        os.makedirs(folder)
        self.write_adapter(folder, [float(self.step) if number is None else float(number)] * 4)
        self.emit("finished", steps=self.step, path=folder, delivered_step=self.step, stopped_early=False)
        raise Ended

    def obey(self):
        """Waits for a command and does what it says."""
        self.do(self.commands.get())

    def obey_before_start(self):
        """As `obey`, of a job whose data is not loaded yet."""
        self.commands.get()
        self.emit("stopped", step=0, reason="drained", checkpoint=self.spec["resume"])
        raise Ended

    def step_until_told(self):
        """Takes slow steps until a command comes."""
        while self.commands.empty():
            self.steps(self.step + 1)
            time.sleep(0.02)
        self.obey()

    def do(self, command):
        if command == "cancel":
            self.emit("stopped", step=self.step, reason="cancelled", checkpoint=None)
        else:
            self.steps(self.step + 1)
            self.emit("stopped", step=self.step, reason="drained", checkpoint=self.checkpoint())
        raise Ended

    def fail(self, code, message):
        self.emit("failed", code=code, message=message)
        raise Ended

    def say_pid(self):
        self.emit("warning", message=f"pid {os.getpid()}")

    def say_environment(self):
        self.emit("warning", message="environment " + " ".join(sorted(os.environ)))

    def say_company(self):
        """How many jobs are in the child now."""
        self.emit("warning", message=f"{len(jobs)} jobs")

    def wait_for_company(self, number):
        """Goes on once so many jobs have been in the child."""
        while seen < number:
            time.sleep(0.01)


jobs = {}
seen = 0


def read_commands():
    global seen
    for line in sys.stdin:
        command = json.loads(line)
        name = command["command"]
        if name == "join":
            job = Job(command["job"])
            jobs[job.id] = job
            seen += 1
            threading.Thread(target=job.train, daemon=True).start()
        elif name == "finish":
            assert not jobs
            os._exit(0)
        elif command["job"] in jobs:
            jobs[command["job"]].commands.put(name)
    os._exit(9)


def main():
    assert sys.argv[1:3] == ["gang", "--supervised"], sys.argv
    with open(sys.argv[3], encoding="utf-8") as file:
        spec = json.load(file)
    assert spec["jobs"] == [] and spec["base_name"]
    with open(os.path.join(spec["base"], "config.json"), encoding="utf-8") as config:
        Actions().run(json.load(config).get("loading", []))
    emit("ready", device="cpu", dtype="float32", seconds=0.0)
    read_commands()


if __name__ == "__main__":
    main()
