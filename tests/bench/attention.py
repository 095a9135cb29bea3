"""Attention over packed documents for transformers, by the flash kernel that PyTorch itself has.

So PEFT is compared at its best on a machine without the `flash_attn` package too.
"""

import importlib.util
import itertools
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

VARLEN = "tunesmith_bench_varlen"
FLASH = "flash_attention_2"
# Rows padded at the right, no mask: causal attention does not look there, so PyTorch takes its flash kernel.
PADDED = "sdpa"


def attention_modes(device: str) -> list[str]:
    """What this machine may have, the best first."""
    flash = [FLASH] if device.startswith("cuda") and importlib.util.find_spec("flash_attn") else []
    varlen = [VARLEN] if importlib.util.find_spec("torch.nn.attention.varlen") else []
    return [*flash, *varlen, PADDED]


def register_varlen() -> None:
    """Makes `attn_implementation=VARLEN` known to transformers, which then builds no mask."""
    from transformers import AttentionInterface

    AttentionInterface.register(VARLEN, _attend)


def _attend(
    _module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _mask: torch.Tensor | None,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **_named: Any,
) -> tuple[torch.Tensor, None]:
    """`query`, `key`, `value`: [1, heads, tokens, size]; returns [1, tokens, heads, size]."""
    assert cu_seq_lens_q is not None and max_length_q is not None, "the boundaries of the documents must be given"
    rows = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
    if query.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        lengths, longest = cu_seq_lens_q, max_length_q
        attended = varlen_attn(*rows, lengths, lengths, longest, longest, scale=scaling, window_size=(-1, 0))
    else:
        attended = _document_by_document(*rows, cu_seq_lens_q, scaling)
    return attended.unsqueeze(0), None


def _document_by_document(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, boundaries: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """The same on the CPU, where PyTorch has no kernel for packed rows; for dry runs."""
    edges = boundaries.tolist()
    parts = []
    for begin, end in itertools.pairwise(edges):
        q, k, v = (tensor[begin:end].transpose(0, 1)[None] for tensor in (query, key, value))
        part = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True)
        parts.append(part[0].transpose(0, 1))
    return torch.cat(parts)
