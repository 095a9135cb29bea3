#!/usr/bin/env python3
"""Compare what tunesmith-trainer writes with peft and transformers: adapter folders, golden probes and merged models.

    check_exports.py TRAINER GOLDEN WORK

TRAINER    the executable
GOLDEN     the folder of golden families
WORK       an empty folder

For each family an adapter is trained for six steps and merged. Then
- peft loads the folder, and gives the log-probabilities of probes.json, of base and adapter, within 1e-4;
- transformers loads the merged model, and gives the logits of base and adapter by peft within 1e-4 of the largest logit,
  in float32; merged to bfloat16 and float16 it has the bits of those float32 weights, rounded by torch.
"""

import json
import subprocess
import sys
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

LOGPROB_TOLERANCE = 1e-4
LOGIT_TOLERANCE = 1e-4
ROUNDED = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def run(*arguments: str) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(arguments)}\n{done.stderr}")


def load(folder: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def logits(model: torch.nn.Module, tokens: list[int]) -> torch.Tensor:
    return model(input_ids=torch.tensor([tokens])).logits[0].double()


def probe_difference(model: torch.nn.Module, probes: list[dict], field: str) -> float:
    worst = 0.0
    for probe in probes:
        # From the tokens before it only, as it was generated: longrope chooses its factors by the length of the whole.
        for place, (token, wanted) in enumerate(zip(probe["completion"], probe[field])):
            scores = logits(model, probe["prompt"] + probe["completion"][:place])[-1].log_softmax(-1)
            worst = max(worst, abs(scores[token].item() - wanted))
    return worst


def check(name: str, found: float, allowed: float) -> None:
    print(f"{name}: {found:.2e} (allowed {allowed:.0e})")
    if not found <= allowed:
        sys.exit(f"{name} is not equal")


def merge(trainer: str, base: Path, adapter: Path, dtype: str) -> Path:
    merged = adapter.with_name(f"{adapter.name}-{dtype}")
    run(trainer, "merge", "--base", str(base), "--adapter", str(adapter), "--out", str(merged), "--dtype", dtype,
        "--max-shard-bytes", "100000")
    return merged


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def main() -> None:
    trainer, golden, work = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    for folder in sorted(path for path in golden.iterdir() if (path / "training").is_dir()):
        family, base = folder.name, folder / "base"
        out = work / family
        run(trainer, "train", "--base", str(base), "--data", str(folder / "training/train.jsonl"), "--out", str(out),
            "--max-steps", "6", "--batch-size", "4", "--rank", "4", "--lr", "0.01", "--max-seq-len", "256", "--device", "cpu",
            "--dtype", "float32")
        probes = json.loads((out / "probes.json").read_text())
        model = load(base)
        check(f"{family}: base log-probabilities", probe_difference(model, probes, "base_logprobs"), LOGPROB_TOLERANCE)
        prompts = [probe["prompt"] + probe["completion"] for probe in probes]
        adapted = PeftModel.from_pretrained(model, out).eval()
        check(f"{family}: adapter log-probabilities", probe_difference(adapted, probes, "logprobs"), LOGPROB_TOLERANCE)
        wanted = [logits(adapted, prompt) for prompt in prompts]
        largest = max(scores.abs().max().item() for scores in wanted)
        merged = merge(trainer, base, out, "float32")
        found = load(merged)
        difference = max((logits(found, p) - w).abs().max().item() for p, w in zip(prompts, wanted))
        check(f"{family}: merged logits, of the largest", difference / largest, LOGIT_TOLERANCE)
        exact = weights(merged)
        for dtype, kind in ROUNDED.items():
            rounded = weights(merge(trainer, base, out, dtype))
            wrong = [name for name, tensor in exact.items()
                     if not torch.equal(rounded.pop(name).view(torch.int16), tensor.to(kind).view(torch.int16))]
            check(f"{family}: tensors that are not the merge rounded to {dtype}", len(wrong) + len(rounded), 0)


main()
