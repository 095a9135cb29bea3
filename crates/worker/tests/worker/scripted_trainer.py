#!/usr/bin/env python3
"""Stands in for tunesmith-trainer where a test needs a child that crashes, hangs or lies at a given moment.

The first line of the data is its script: {"total": steps, "fresh": [...], "resumed": [...]}, each a list of actions.
It speaks the trainer's protocol; its "adapter" depends on nothing but the number of steps, so a resumed run ends with
the bytes of an unbroken one.
"""

import json
import os
import queue
import signal
import struct
import sys
import threading
import time


def option(name, default=None):
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default


def emit(event, **fields):
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


commands = queue.Queue()


def read_commands():
    for line in sys.stdin:
        commands.put(json.loads(line)["command"])
    os._exit(9)


class Trainer:
    def __init__(self):
        with open(option("--data"), encoding="utf-8") as data:
            self.script = json.loads(data.readline())
        self.total = self.script["total"]
        self.step = 0
        resume = option("--resume")
        if resume:
            with open(os.path.join(resume, "state.json"), encoding="utf-8") as state:
                self.step = json.load(state)["step"]
        self.resumed_from = self.step
        self.actions = self.script["resumed" if resume else "fresh"]

    def run(self):
        for name, *arguments in self.actions:
            getattr(self, name)(*arguments)

    def start(self):
        emit("started", total_steps=self.total, train_examples=8, eval_examples=1, trainable_parameters=4,
             device="cpu", dtype="float32", resumed_from_step=self.resumed_from)

    def steps(self, until):
        while self.step < until:
            self.step += 1
            emit("step", step=self.step, total_steps=self.total, epoch=self.step / self.total, loss=1 / self.step,
                 lr=1e-3, grad_norm=1.0, tokens=10, supervised_tokens=5, seconds=0.001)

    def evaluate(self):
        emit("evaluation", step=self.step, loss=0.5, token_accuracy=0.25, tokens=5)

    def write_adapter(self, folder, numbers):
        rank = int(option("--rank"))
        with open(os.path.join(folder, "adapter_config.json"), "w", encoding="utf-8") as config:
            json.dump({"peft_type": "LORA", "r": rank}, config)
        header = {"m.q_proj.lora_A.weight": {"dtype": "F32", "shape": [len(numbers)],
                                             "data_offsets": [0, 4 * len(numbers)]}}
        text = json.dumps(header).encode()
        with open(os.path.join(folder, "adapter_model.safetensors"), "wb") as tensors:
            tensors.write(struct.pack("<Q", len(text)) + text + struct.pack(f"<{len(numbers)}f", *numbers))

    def checkpoint(self):
        folder = os.path.join(option("--checkpoint-dir"), f"step-{self.step:08}")
        os.makedirs(folder, exist_ok=True)
        self.write_adapter(folder, [float(self.step)] * 4)
        with open(os.path.join(folder, "optimizer.safetensors"), "wb") as optimizer:
            optimizer.write(os.urandom(64))
        with open(os.path.join(folder, "state.json"), "w", encoding="utf-8") as state:
            json.dump({"step": self.step}, state)
        emit("checkpoint", step=self.step, path=folder)
        return folder

    def finish(self, number=None):
        self.steps(self.total)
        folder = option("--out")
        os.makedirs(folder)
        self.write_adapter(folder, [float(self.step) if number is None else float(number)] * 4)
        emit("finished", steps=self.step, path=folder)
        sys.exit(0)

    def obey(self):
        """Waits for a command and does what it says."""
        if commands.get() == "cancel":
            emit("stopped", step=self.step, reason="cancelled", checkpoint=None)
        else:
            self.steps(self.step + 1)
            emit("stopped", step=self.step, reason="drained", checkpoint=self.checkpoint())
        sys.exit(0)

    def say_pid(self):
        emit("warning", message=f"pid {os.getpid()}")

    def say_environment(self):
        emit("warning", message="environment " + " ".join(sorted(os.environ)))

    def chatter(self):
        print("this is not an event")
        print(json.dumps({"event": "of the future"}))

    def flood(self):
        sys.stdout.write("x" * 1_000_000)
        sys.stdout.flush()
        self.hang()

    def log(self, text):
        print(text, file=sys.stderr, flush=True)

    def crash(self):
        os.kill(os.getpid(), signal.SIGSEGV)

    def exit(self, code):
        sys.exit(code)

    def fail(self, code, message):
        emit("failed", code=code, message=message)
        sys.exit(1)

    def hang(self):
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    threading.Thread(target=read_commands, daemon=True).start()
    Trainer().run()
