"""The machine's own rate of dense matrix products at the shapes of a model: `matmul.py THREADS DTYPE DEVICE MODEL`.

It is what training is held against, so each product is taken at its best: PyTorch's `matmul`, and on the CPU oneDNN
with the weight packed beforehand too.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from models import CPU_SHAPES, GPU_SHAPES, TINY_SHAPE, Shape, block_matmuls
from process import thread_environment

# Rows of the activations: tokens that go through a layer at once.
CPU_ROWS = (512, 1024, 2048)
GPU_ROWS = (4096, 8192)
_SECONDS = 0.15
# Without AVX512 or AMX one product in bfloat16 can take minutes, so the probe is small.
_PROBE = 256


def _seconds_per_call(call: Callable[[], object], device: str, seconds: float = _SECONDS) -> float:
    """The least of several calls: what the machine can do when nothing else wants it."""
    is_cuda = device.startswith("cuda")
    synchronize = torch.cuda.synchronize if is_cuda else lambda: None
    # A card takes its work in a queue; waiting for each small product would measure the waiting.
    repeats = 20 if is_cuda else 1
    call()
    synchronize()
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        begin = time.perf_counter()
        for _ in range(repeats):
            call()
        synchronize()
        best = min(best, (time.perf_counter() - begin) / repeats)
    return best


def _ways(x: torch.Tensor, weight: torch.Tensor) -> list[Callable[[], torch.Tensor]]:
    ways = [lambda: torch.matmul(x, weight.t())]
    if x.device.type == "cpu" and torch.backends.mkldnn.is_available():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, x.shape[0])
        ways.append(lambda: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], ""))
    return ways


def rate(shape: Shape, dtype: torch.dtype, device: str, rows: tuple[int, ...]) -> float:
    """Operations per second over the products of one block, each at its best way; the best number of rows."""
    best = 0.0
    for count in rows:
        flops = seconds = 0.0
        for out_size, in_size in block_matmuls(shape):
            x = torch.randn(count, in_size, device=device).to(dtype)
            weight = torch.randn(out_size, in_size, device=device).to(dtype)
            with torch.no_grad():
                seconds += min(_seconds_per_call(way, device) for way in _ways(x, weight))
            flops += 2.0 * count * out_size * in_size
        best = max(best, flops / seconds)
    return best


def bfloat16_gain() -> float:
    """How many times the rate of float32 small products in bfloat16 reach; below one the CPU lacks the instructions."""

    def seconds(dtype: torch.dtype) -> float:
        x = torch.randn(_PROBE, _PROBE).to(dtype)
        return _seconds_per_call(lambda: torch.matmul(x, x), "cpu")

    return seconds(torch.float32) / seconds(torch.bfloat16)


def measure(model: str, dtype: str, threads: int, device: str = "cpu") -> float:
    """`rate` in a process of its own, so that this one stays small and its threads asleep."""
    command = [sys.executable, str(Path(__file__).resolve()), str(threads), dtype, device, model]
    done = subprocess.run(command, capture_output=True, text=True, env=thread_environment(threads), check=True)
    return float(json.loads(done.stdout))


def main() -> None:
    threads, dtype, device, model = sys.argv[1:]
    torch.set_num_threads(int(threads))
    if model == "bfloat16-gain":
        print(json.dumps(bfloat16_gain()))
        return
    shape = (CPU_SHAPES | GPU_SHAPES | {"tiny": TINY_SHAPE})[model]
    print(json.dumps(rate(shape, getattr(torch, dtype), device, GPU_ROWS if device.startswith("cuda") else CPU_ROWS)))


if __name__ == "__main__":
    main()
