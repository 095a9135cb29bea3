#!/usr/bin/env python3
"""Judge a loss curve of tunesmith-trainer in bfloat16 by how far PEFT's own curves lie apart.

    bfloat16.py GOLDEN STEPS_LOG

GOLDEN     the golden folder of a family
STEPS_LOG  what `--steps-log` wrote in a run with `--dtype bfloat16`, everything else as in the golden run

PEFT repeats its run in bfloat16 in four ways that are the same in exact arithmetic: same order, same steps, same adapter
to begin with, but attention by matrices or by the fused kernel, and each example alone or all of a step padded to one
length. With its golden run in float32 these are five curves of one training that differ by rounding alone. The spread is
the largest distance of two of them, where the distance is the root mean square of the relative differences of the steps'
losses. Ours must be within twice the spread of each of them.
"""

import itertools
import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, get_cosine_schedule_with_warmup

ALLOWED_SPREADS = 2.0


def step_loss(model: torch.nn.Module, batch: list[dict], padded: bool) -> torch.Tensor:
    """Cross-entropy summed over the supervised tokens of a step's examples."""
    length = max(len(example["input_ids"]) for example in batch)
    groups = [batch] if padded else [[example] for example in batch]
    total = torch.zeros(())
    for group in groups:
        width = length if padded else len(group[0]["input_ids"])
        fill = lambda name, value: torch.tensor([example[name] + [value] * (width - len(example[name])) for example in group])
        mask = torch.tensor([[1] * len(e["input_ids"]) + [0] * (width - len(e["input_ids"])) for e in group])
        logits = model(input_ids=fill("input_ids", 0), attention_mask=mask).logits[:, :-1].float()
        labels = fill("labels", -100)[:, 1:]
        total = total + torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")
    return total


def curve(folder: Path, attention: str, padded: bool) -> list[float]:
    training = folder / "training"
    asked = json.loads((training / "losses.json").read_text())["hyperparameters"]
    examples = json.loads((training / "examples.json").read_text())
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.bfloat16, attn_implementation=attention)
    model = PeftModel.from_pretrained(base, training / "init-adapter", is_trainable=True)
    leaves = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(leaves, lr=asked["lr"], betas=(0.9, 0.999), eps=1e-8, weight_decay=asked["weight_decay"])
    steps, size = asked["steps"], asked["batch_size"]
    schedule = get_cosine_schedule_with_warmup(optimizer, -int(-asked["warmup_ratio"] * steps // 1), steps)
    losses = []
    for step in range(steps):
        batch = [examples[(step * size + number) % len(examples)] for number in range(size)]
        supervised = sum(label != -100 for example in batch for label in example["labels"][1:])
        optimizer.zero_grad()
        loss = step_loss(model, batch, padded) / supervised
        loss.backward()
        torch.nn.utils.clip_grad_norm_(leaves, asked["max_grad_norm"])
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def distance(ours: list[float], theirs: list[float]) -> float:
    relative = torch.tensor([(a - b) / b for a, b in zip(ours, theirs, strict=True)], dtype=torch.float64)
    return relative.square().mean().sqrt().item()


def main() -> None:
    folder, steps_log = Path(sys.argv[1]), Path(sys.argv[2])
    lines = [json.loads(line) for line in steps_log.read_text().splitlines()]
    ours = [line["loss"] for line in lines if "loss" in line]
    softcapped = json.loads((folder / "base" / "config.json").read_text()).get("attn_logit_softcapping") is not None
    # The fused kernel leaves the cap out.
    attentions = ["eager"] if softcapped else ["eager", "sdpa"]
    curves = [curve(folder, attention, padded) for attention in attentions for padded in (False, True)]
    curves.append([step["loss"] for step in json.loads((folder / "training" / "losses.json").read_text())["steps"]])
    spread = max(distance(a, b) for a, b in itertools.combinations(curves, 2))
    farthest = max(distance(ours, theirs) for theirs in curves)
    print(f"  bfloat16: {farthest:.1e} from the farthest of PEFT's {len(curves)} curves, which lie {spread:.1e} apart")
    if farthest > ALLOWED_SPREADS * spread:
        sys.exit(f"too far apart: allowed are {ALLOWED_SPREADS} times {spread:.1e}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
