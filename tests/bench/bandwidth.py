"""The rate at which the machine's threads read memory together: `bandwidth.py THREADS`. Decoding one sequence reads
every weight once per token, so it is what tokens per second at batch 1 are held against.

A loop in C where there is a compiler, else numpy's sum, which may not reach the machine's rate.
"""

import ctypes
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from process import thread_environment

_BYTES = 512 * 2**20
_LINE = 64
_TIMES = 12


def _compiled_reader() -> Callable[[int, int], object] | None:
    source = Path(__file__).resolve().parent / "bandwidth.c"
    with tempfile.TemporaryDirectory(prefix="tunesmith-bench-") as folder:
        library = Path(folder, "bandwidth.so")
        command = ["cc", "-O3", "-march=native", "-shared", "-fPIC", "-o", str(library), str(source)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        # The file may go once it is loaded. ctypes lets other threads run while a call lasts.
        read = ctypes.CDLL(str(library)).read_memory
    read.argtypes, read.restype = [ctypes.c_void_p, ctypes.c_size_t], ctypes.c_uint64
    return lambda address, size: read(address, size // _LINE)


def _sum(address: int, size: int) -> object:
    import numpy

    return numpy.ctypeslib.as_array((ctypes.c_double * (size // 8)).from_address(address)).max()


def rate(threads: int) -> float:
    """Bytes per second, the best of several."""
    # Written once, so that all pages are there and are pages of their own.
    memory = torch.ones(_BYTES // 8 + _LINE, dtype=torch.int64)
    begin = -(-memory.data_ptr() // _LINE) * _LINE
    read = _compiled_reader() or _sum
    share = _BYTES // threads // _LINE * _LINE
    best = float("inf")
    for _ in range(_TIMES):
        readers = [threading.Thread(target=read, args=(begin + place * share, share)) for place in range(threads)]
        began = time.perf_counter()
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        best = min(best, time.perf_counter() - began)
    return share * threads / best


def measure(threads: int) -> float:
    """`rate` in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, env=thread_environment(threads), check=True)
    return float(json.loads(done.stdout))


if __name__ == "__main__":
    print(json.dumps(rate(int(sys.argv[1]))))
