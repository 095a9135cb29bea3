"""Seeded random models in Hugging Face layout, read by both sides from the same folder.

The files are written without transformers, tokenizers or safetensors, so that a bare machine with PyTorch alone can
make them.
"""

import ctypes
import hashlib
import itertools
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from vocabulary import write_tokenizer


@dataclass(frozen=True)
class Shape:
    """Sizes of a transformer of Llama's kind."""

    name: str
    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    intermediate: int
    vocabulary: int
    tied: bool = True
    attention_bias: bool = False
    rope_theta: float = 10000.0
    norm_epsilon: float = 1e-5

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads

    @property
    def attention_width(self) -> int:
        """Columns of the queries, all heads together."""
        return self.heads * self.head_size

    def linears(self) -> dict[str, tuple[int, int]]:
        """`[out, in]` of the linear layers of one block."""
        key_value = self.key_value_heads * self.head_size
        return {
            "self_attn.q_proj": (self.attention_width, self.hidden),
            "self_attn.k_proj": (key_value, self.hidden),
            "self_attn.v_proj": (key_value, self.hidden),
            "self_attn.o_proj": (self.hidden, self.attention_width),
            "mlp.gate_proj": (self.intermediate, self.hidden),
            "mlp.up_proj": (self.intermediate, self.hidden),
            "mlp.down_proj": (self.hidden, self.intermediate),
        }

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes of all weights, in the order of the file."""
        yield "model.embed_tokens.weight", (self.vocabulary, self.hidden)
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}."
            for name, shape in self.linears().items():
                yield f"{prefix}{name}.weight", shape
                if self.attention_bias and name.endswith(("q_proj", "k_proj", "v_proj")):
                    yield f"{prefix}{name}.bias", shape[:1]
            yield f"{prefix}input_layernorm.weight", (self.hidden,)
            yield f"{prefix}post_attention_layernorm.weight", (self.hidden,)
        yield "model.norm.weight", (self.hidden,)
        if not self.tied:
            yield "lm_head.weight", (self.vocabulary, self.hidden)

    def parameters(self) -> int:
        return sum(torch.Size(shape).numel() for _, shape in self.tensors())

    def config(self, dtype: str) -> dict:
        """`config.json`; Qwen 2 where queries, keys and values have biases, else Llama."""
        family = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
        if not self.attention_bias:
            family = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False}
        return family | {
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
            "hidden_act": "silu",
            "max_position_embeddings": 4096,
            "rms_norm_eps": self.norm_epsilon,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tied,
            "initializer_range": 0.02,
            "bos_token_id": None,
            "eos_token_id": 2,
            "pad_token_id": 0,
            "torch_dtype": dtype,
        }


CPU_SHAPES = {
    "15m": Shape("15m", 256, 8, 8, 4, 832, 32000),
    "110m": Shape("110m", 768, 12, 12, 12, 2048, 32000),
}
GPU_SHAPES = {
    "qwen2.5-0.5b": Shape("qwen2.5-0.5b", 896, 24, 14, 2, 4864, 151936, True, True, 1e6, 1e-6),
    "qwen2.5-1.5b": Shape("qwen2.5-1.5b", 1536, 28, 12, 2, 8960, 151936, True, True, 1e6, 1e-6),
    "llama-3-8b": Shape("llama-3-8b", 4096, 32, 32, 8, 14336, 128256, False, False, 5e5, 1e-5),
}
# Goes through all code of the GPU benchmark on a machine without one.
TINY_SHAPE = Shape("tiny", 64, 2, 4, 2, 128, 2048, True, True)

_DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16"}


def make_model(shape: Shape, folder: Path, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> Path:
    """Writes the model into a folder under `folder` unless it is there, and returns that folder."""
    name = str(dtype).removeprefix("torch.")
    # A folder that was made by another version of this file must not be taken for this one's.
    recipe = json.dumps([asdict(shape), name, seed, device.split(":")[0], _fingerprint()])
    place = folder / f"{shape.name}-{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:8]}"
    if place.exists():
        return place
    aside = place.with_suffix(".partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    (aside / "config.json").write_text(json.dumps(shape.config(name), indent=2) + "\n")
    write_tokenizer(aside, shape.vocabulary)
    with open(aside / "model.safetensors", "wb") as file:
        _write_weights(file, shape, dtype, torch.Generator(device=device).manual_seed(seed))
    aside.rename(place)
    return place


def _fingerprint() -> str:
    here = Path(__file__).resolve().parent
    text = b"".join((here / name).read_bytes() for name in ("models.py", "vocabulary.py"))
    return hashlib.sha256(text).hexdigest()[:8]


def _write_weights(file: BinaryIO, shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> None:
    """safetensors: length of the header, header, tensors one after another. One tensor is in memory at a time."""
    header: dict = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, size in shape.tensors():
        begin, end = end, end + torch.Size(size).numel() * dtype.itemsize
        header[name] = {"dtype": _DTYPE_NAMES[dtype], "shape": list(size), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name, size in shape.tensors():
        _write_tensor(file, _initial(name, size, dtype, generator))


def _initial(name: str, size: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    if name.endswith("norm.weight"):
        return torch.ones(size, dtype=dtype)
    values = torch.empty(size, dtype=dtype, device=generator.device)
    return values.normal_(0.0, 0.02, generator=generator).cpu()


def _write_tensor(file: BinaryIO, tensor: torch.Tensor) -> None:
    # Through the address, since PyTorch shows bytes of bfloat16 only through numpy, which may be absent.
    size = tensor.numel() * tensor.itemsize
    file.write((ctypes.c_char * size).from_address(tensor.contiguous().data_ptr()))


def block_matmuls(shape: Shape) -> list[tuple[int, int]]:
    """`[out, in]` of the matmuls of one block, with those that read the same input joined."""
    linears = shape.linears()
    joined = [("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), ("self_attn.o_proj",)]
    joined += [("mlp.gate_proj", "mlp.up_proj"), ("mlp.down_proj",)]
    return [(sum(linears[name][0] for name in names), linears[names[0]][1]) for names in joined]


def lora_parameters(shape: Shape, rank: int) -> int:
    """Weights of a LoRA adapter on all linear layers."""
    return shape.layers * sum(rank * (rows + columns) for rows, columns in shape.linears().values())


def frozen_linear_parameters(shape: Shape) -> int:
    """Weights of the linear layers in all blocks."""
    return shape.layers * sum(itertools.starmap(lambda rows, columns: rows * columns, shape.linears().values()))
