"""Writes the names and shapes of the tensors that transformers saves for each family of models.

    make_shapes.py OUT.json

`crates/api/tests/golden/shapes.json` is what it wrote; the check of a registered model is tested against it. Each entry
has the `config.json` exactly as `save_pretrained` writes it, so that the family's defaults are covered too.
"""

import json
import struct
import sys
import tempfile
from pathlib import Path

import transformers

SIZES = dict(
    vocab_size=32,
    hidden_size=8,
    intermediate_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
)
LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0], "long_factor": [2.0],
            "original_max_position_embeddings": 32, "partial_rotary_factor": 0.5}
MODELS = {
    "llama": transformers.LlamaConfig(**SIZES),
    "llama-bias-tied": transformers.LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "mistral": transformers.MistralConfig(**SIZES, head_dim=6),
    "qwen2": transformers.Qwen2Config(**SIZES),
    "qwen3": transformers.Qwen3Config(**SIZES),
    "qwen3-bias-tied": transformers.Qwen3Config(**SIZES, head_dim=4, attention_bias=True, tie_word_embeddings=True),
    "gemma2": transformers.Gemma2Config(**SIZES),
    "gemma2-untied": transformers.Gemma2Config(**SIZES, head_dim=4, tie_word_embeddings=False),
    "gemma3": transformers.Gemma3TextConfig(**SIZES),
    "gemma3-bias": transformers.Gemma3TextConfig(**SIZES, head_dim=4, attention_bias=True),
    "phi3": transformers.Phi3Config(**SIZES, pad_token_id=0),
    "phi3-longrope-tied": transformers.Phi3Config(
        **{**SIZES, "hidden_size": 16}, pad_token_id=0, tie_word_embeddings=True, rope_parameters=LONGROPE
    ),
}


def header(path: Path) -> dict:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        entries = json.loads(file.read(length))
    entries.pop("__metadata__", None)
    return {name: entry["shape"] for name, entry in sorted(entries.items())}


def main(out: Path) -> None:
    shapes = {}
    for name, config in MODELS.items():
        model = transformers.AutoModelForCausalLM.from_config(config)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            saved = json.loads((Path(folder) / "config.json").read_text())
            saved.pop("transformers_version")
            shapes[name] = {"config": saved, "tensors": header(Path(folder) / "model.safetensors")}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(shapes, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
