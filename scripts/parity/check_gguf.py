#!/usr/bin/env python3
"""Read a GGUF adapter with the `gguf` package and compare it with the PEFT folder that it was made from.

    check_gguf.py FILE.gguf ADAPTER [HEADS KEY_VALUE_HEADS]

s · B A of every module, by llama.cpp's rule (`adapter.lora.alpha / rank`, rows of a Llama's queries and keys put back),
must be PEFT's within 1e-5 of its largest value, 4e-3 in float16.
"""

import json
import math
import sys
from pathlib import Path

import gguf
import numpy
from safetensors.numpy import load_file

PREFIX = "base_model.model."


def names(architecture: str, wanted: dict) -> dict[str, str]:
    """PEFT's modules by the names that the `gguf` package has for them."""
    known = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}
    stems = {name.rsplit(".lora_", 1)[0] for name in wanted}
    layers = 1 + max(int(stem.split(".layers.")[1].split(".")[0]) for stem in stems)
    table = gguf.get_tensor_name_map(known[architecture], layers)
    return {table.get_name(stem.removeprefix(PREFIX)): stem for stem in stems}


def main() -> None:
    reader, folder = gguf.GGUFReader(sys.argv[1]), Path(sys.argv[2])
    config = json.loads((folder / "adapter_config.json").read_text())
    wanted = load_file(folder / "adapter_model.safetensors")
    text = lambda key: bytes(reader.fields[key].parts[-1]).decode()
    assert (text("general.type"), text("adapter.type")) == ("adapter", "lora")
    architecture, alpha = text("general.architecture"), float(reader.fields["adapter.lora.alpha"].parts[-1][0])
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    heads = {"attn_q": int(sys.argv[3]), "attn_k": int(sys.argv[4])} if len(sys.argv) > 4 else {}
    stems = names(architecture, wanted)
    worst, modules = 0.0, 0
    for name in sorted(name for name in tensors if name.endswith(".lora_a")):
        a = numpy.asarray(tensors[name].data, dtype=numpy.float64)
        b = numpy.asarray(tensors[name.removesuffix("a") + "b"].data, dtype=numpy.float64)
        part = name.removesuffix(".weight.lora_a").split(".")[-1]
        if architecture == "llama" and part in heads:
            # The inverse of convert_hf_to_gguf.py's permute().
            b = b.reshape(heads[part], b.shape[0] // heads[part] // 2, 2, b.shape[1]).swapaxes(1, 2).reshape(b.shape)
        found = alpha / b.shape[1] * b @ a
        stem = stems[name.removesuffix(".weight.lora_a")]
        peft_a, peft_b = (wanted[f"{stem}.lora_{side}.weight"].astype(numpy.float64) for side in "AB")
        rank = peft_a.shape[0]
        scale = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
        product = scale * peft_b @ peft_a
        worst = max(worst, abs(found - product).max() / abs(product).max())
        modules += 1
    allowed = 4e-3 if reader.tensors[0].tensor_type.name == "F16" else 1e-5
    print(f"{architecture}, {reader.tensors[0].tensor_type.name}: {modules} modules, {worst:.2e} (allowed {allowed:.0e})")
    if modules * 2 != len(wanted) or not worst <= allowed:
        sys.exit("they are not equal")


main()
