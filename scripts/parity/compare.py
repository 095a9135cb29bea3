#!/usr/bin/env python3
"""Load an adapter folder that tunesmith-trainer wrote in PEFT, and compare it and its loss curve with PEFT's own run.

    compare.py BASE ADAPTER LOSSES STEPS_LOG REFERENCE

BASE       a model's folder
ADAPTER    the adapter folder to judge: it must load in PEFT without a missing or unexpected tensor
LOSSES     losses.json of PEFT's run (README.md)
STEPS_LOG  what `--steps-log` wrote
REFERENCE  the adapter at the end of PEFT's run, with which the logits are compared
"""

import json
import sys
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

# Relative, for each step's loss.
LOSS_TOLERANCE = 1e-3
# Of the logits after 30 steps in which rounding has had time to grow, relative to the largest logit.
LOGIT_TOLERANCE = 1e-3
# Of all tensors after 30 steps, relative Frobenius norm.
ADAPTER_TOLERANCE = 1e-2
LENGTH = 40


@torch.no_grad()
def logits(base: Path, adapter: Path | None) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    tokens = torch.randint(model.config.vocab_size, (1, LENGTH), generator=torch.Generator().manual_seed(1))
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
        # PEFT only warns where tensors are missing or unexpected.
        odd = get_peft_model_state_dict(model, save_embedding_layers=False).keys() ^ load_file(adapter / "adapter_model.safetensors").keys()
        if odd:
            sys.exit(f"{adapter}: PEFT and the file disagree on {sorted(odd)}")
    return model(input_ids=tokens).logits[0]


def curve_difference(losses: Path, steps_log: Path) -> float:
    expected = json.loads(losses.read_text())["steps"]
    lines = [json.loads(line) for line in steps_log.read_text().splitlines()]
    found = [line for line in lines if "loss" in line]
    if [line["step"] for line in found] != [line["step"] for line in expected]:
        sys.exit(f"the steps log has {len(found)} steps, PEFT's run has {len(expected)}")
    return max(abs(a["loss"] - b["loss"]) / abs(b["loss"]) for a, b in zip(found, expected))


def adapter_difference(adapter: Path, reference: Path) -> float:
    """Norm of the difference of all tensors over the norm of all tensors."""
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (adapter, reference))
    if ours.keys() != theirs.keys():
        sys.exit(f"{adapter}: has not the tensors of {reference}: {sorted(ours.keys() ^ theirs.keys())}")
    norm = lambda tensors: sum(tensor.double().square().sum() for tensor in tensors).sqrt().item()
    return norm(ours[name] - theirs[name] for name in theirs) / norm(theirs.values())


def main() -> None:
    base, adapter, losses, steps_log, reference = map(Path, sys.argv[1:6])
    curve = curve_difference(losses, steps_log)
    plain, ours, theirs = logits(base, None), logits(base, adapter), logits(base, reference)
    effect = (theirs - plain).abs().max().item()
    difference = (ours - theirs).abs().max().item() / theirs.abs().max().item()
    print(f"  loss curve: largest relative difference {curve:.1e}")
    print(f"  logits in PEFT: largest difference {difference:.1e} of the largest logit; the adapter moves them by {effect:.1f}")
    weights = adapter_difference(adapter, reference)
    print(f"  adapter: differs by {weights:.1e} of its norm")
    if weights > ADAPTER_TOLERANCE:
        sys.exit(f"too far apart: allowed is {ADAPTER_TOLERANCE}")
    if curve > LOSS_TOLERANCE or difference > LOGIT_TOLERANCE:
        sys.exit(f"too far apart: allowed are {LOSS_TOLERANCE} and {LOGIT_TOLERANCE}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
