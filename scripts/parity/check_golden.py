#!/usr/bin/env python3
"""Fail where committed golden files do not agree with freshly made ones.

    check_golden.py COMMITTED FRESH

Texts must be equal. Numbers, random ones too, may differ as much as two processors do.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

# Absolute for tensors, relative for the numbers of losses.json.
WEIGHT_TOLERANCE = 1e-6
TOLERANCES = {
    "logits.safetensors": 2e-5,
    "training/first-gradient.safetensors": 2e-6,
    "training/final-adapter/adapter_model.safetensors": 2e-3,
}
LOSS_TOLERANCE = 1e-4


def tensor_difference(committed: Path, fresh: Path) -> float:
    ours, theirs = load_file(committed), load_file(fresh)
    if ours.keys() != theirs.keys():
        return float("inf")
    differences = [
        (ours[name].double() - theirs[name].double()).abs().max().item() if ours[name].shape == theirs[name].shape else float("inf")
        for name in ours
    ]
    return max(differences)


def loss_difference(committed: Path, fresh: Path) -> float:
    ours, theirs = (json.loads(path.read_text()) for path in (committed, fresh))
    if ours["hyperparameters"] != theirs["hyperparameters"]:
        return float("inf")
    pairs = [(a["loss"], b["loss"]) for a, b in zip(ours["steps"], theirs["steps"], strict=True)]
    return max(abs(a - b) / abs(b) for a, b in pairs)


def main() -> None:
    committed, fresh = Path(sys.argv[1]), Path(sys.argv[2])
    listing = lambda folder: sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    complaints = [] if listing(committed) == listing(fresh) else ["the folders do not hold the same files"]
    for name in sorted(set(listing(committed)) & set(listing(fresh))):
        tail = name.relative_to(name.parts[0]).as_posix()
        if name.suffix == ".safetensors":
            difference, allowed = tensor_difference(committed / name, fresh / name), TOLERANCES.get(tail, WEIGHT_TOLERANCE)
        elif tail == "training/losses.json":
            difference, allowed = loss_difference(committed / name, fresh / name), LOSS_TOLERANCE
        else:
            difference, allowed = float((committed / name).read_bytes() != (fresh / name).read_bytes()), 0.0
        if difference > allowed:
            complaints.append(f"{name}: differs by {difference:.2e}, allowed is {allowed:.0e}")
        elif difference > 0:
            print(f"  {name}: differs by {difference:.1e}")
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    sys.exit(bool(complaints))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
