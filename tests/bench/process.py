"""What Linux says about a process: its peak memory and its CPU time."""

import os
import subprocess
from pathlib import Path

_TICK = 1 / os.sysconf("SC_CLK_TCK")


def peak_bytes(pid: int | str = "self") -> int:
    """VmHWM: the most memory that was resident at once. (`ru_maxrss` would count the parent before `exec` too.)"""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    # A process that has ended, and was not waited for yet, has no memory.
    return 0


def cpu_seconds(pid: int | str = "self") -> float:
    """User and system time of all threads. OpenMP's threads spin a while before they sleep; that counts too."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * _TICK


def thread_environment(threads: int) -> dict[str, str]:
    """This process's environment, with the number of threads for OpenMP and MKL and no access to the network's hubs."""
    number = str(threads)
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
    quiet |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONWARNINGS": "ignore", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    return os.environ | quiet | {"OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number}


def end(child: subprocess.Popen) -> None:
    """Ends a child that goes when its standard input does; one that does not is killed."""
    if child.stdin:
        child.stdin.close()
    try:
        child.wait(10)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
