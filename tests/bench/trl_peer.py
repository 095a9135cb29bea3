"""PEFT and TRL's SFTTrainer, in a process of their own: `trl_peer.py REQUEST.json ANSWER.json`.

Loading the model and preparing the data count neither here nor for ours; what the Trainer does between steps counts.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from process import cpu_seconds, peak_bytes
from run import Mark, Run

STARTED = time.perf_counter()


@dataclass(frozen=True)
class Setting:
    """How SFTTrainer is set. None leaves SFTConfig's own default."""

    name: str
    batch: int | None = None
    accumulation: int = 1
    checkpointing: bool | None = False
    packing: bool = False
    padding_free: bool = False
    # Format of the frozen weights, and whether autocast computes in bfloat16.
    weights: str = "float32"
    autocast: bool = False


def config(setting: Setting, request: dict) -> Any:
    from trl import SFTConfig

    optional: dict[str, Any] = {}
    if setting.batch is not None:
        optional["per_device_train_batch_size"] = setting.batch
    if setting.checkpointing is not None:
        optional["gradient_checkpointing"] = setting.checkpointing
    return SFTConfig(
        output_dir=request["scratch"],
        gradient_accumulation_steps=setting.accumulation,
        packing=setting.packing,
        padding_free=setting.padding_free,
        bf16=setting.autocast,
        use_cpu=True,
        # Padding-free batches are not cut, and SFTConfig wants that said; no example is longer anyway.
        max_length=None if setting.padding_free else request["longest"],
        assistant_only_loss=True,
        learning_rate=request["learning_rate"],
        max_steps=request["most_steps"],
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
        **optional,
    )


def make_trainer(setting: Setting, request: dict, marks: list[Mark]) -> Any:
    import torch
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTTrainer

    class CountingTrainer(SFTTrainer):
        """Counts the tokens that go through the model: real ones, not padding."""

        tokens = 0
        supervised = 0

        def training_step(self, model: Any, inputs: dict, *rest: Any, **named: Any) -> Any:
            mask = inputs.get("attention_mask")
            self.tokens += int(mask.sum()) if mask is not None else inputs["input_ids"].numel()
            self.supervised += int((inputs["labels"] != -100).sum())
            return super().training_step(model, inputs, *rest, **named)

    class Clock(TrainerCallback):
        """Reads the clocks after each step, and ends the training when its time is over."""

        def on_step_end(self, _args: Any, _state: Any, control: Any, **_named: Any) -> Any:
            marks.append(Mark(time.perf_counter(), cpu_seconds(), trainer.tokens, trainer.supervised))
            trainer.tokens = trainer.supervised = 0
            warm_up = request["warm_up"]
            if len(marks) > warm_up and marks[-1].wall - marks[warm_up - 1].wall >= request["seconds"]:
                control.should_training_stop = True
            return control

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(request["model"], dtype=getattr(torch, setting.weights))
    trainer = CountingTrainer(
        model=model,
        args=config(setting, request),
        train_dataset=load_dataset("json", data_files=request["data"], split="train", cache_dir=request["scratch"]),
        processing_class=AutoTokenizer.from_pretrained(request["model"]),
        peft_config=LoraConfig(
            r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        callbacks=[Clock()],
    )
    return trainer


def example_counts(dataset: Any) -> list[tuple[int, int]]:
    """Tokens and supervised tokens of each prepared example, in the order of the file (not where it is packed)."""
    return [
        (len(row["input_ids"]), sum(label != -100 for label in row["labels"]))
        for row in dataset.select_columns(["input_ids", "labels"])
    ]


def main() -> None:
    import torch

    request = json.loads(Path(sys.argv[1]).read_text())
    setting = Setting(**request["setting"])
    torch.set_num_threads(request["threads"])
    marks: list[Mark] = []
    trainer = make_trainer(setting, request, marks)
    answer: dict[str, Any] = {"setting": asdict(setting)}
    if request["count_only"]:
        answer["counts"] = example_counts(trainer.train_dataset)
    else:
        trainer.train()
        answer["batch"] = trainer.args.per_device_train_batch_size
        answer["run"] = asdict(Run.of(marks, peak_bytes(), marks[0].wall - STARTED, request["warm_up"]))
    Path(sys.argv[2]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
