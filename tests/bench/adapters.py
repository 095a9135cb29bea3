"""Seeded random LoRA adapters in PEFT's layout, on all linear layers."""

import json
import math
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from models import Shape

RANK = 16
_ALPHA = 32
# B is not zero, so that an adapter acts, and small, so that the activations stay those of the model.
_DEVIATION = 0.02


def make_adapters(shape: Shape, folder: Path, count: int) -> list[Path]:
    """Writes `count` adapters into folders under `folder` unless they are there, and returns those folders."""
    return [
        _make_adapter(shape, folder / f"adapters-{shape.name}-r{RANK}" / f"{seed:03}", seed) for seed in range(count)
    ]


def _make_adapter(shape: Shape, place: Path, seed: int) -> Path:
    if place.exists():
        return place
    aside = place.with_suffix(".partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(shape.layers):
        for name, (rows, columns) in shape.linears().items():
            prefix = f"base_model.model.model.layers.{layer}.{name}"
            a, b = torch.randn(RANK, columns, generator=generator), torch.randn(rows, RANK, generator=generator)
            tensors[f"{prefix}.lora_A.weight"] = a / math.sqrt(columns)
            tensors[f"{prefix}.lora_B.weight"] = b * _DEVIATION
    save_file(tensors, aside / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": shape.name,
        "inference_mode": True,
        "r": RANK,
        "lora_alpha": _ALPHA,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "target_modules": sorted({name.split(".")[-1] for name in shape.linears()}),
    }
    (aside / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    aside.rename(place)
    return place
