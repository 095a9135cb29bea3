#!/usr/bin/env bash
# `make bench`, `bench-gpu` and `bench-inference`: run.sh bench.py|bench_gpu.py|inference.py [options]. README.md says more.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
program=$1
shift

say() { echo "bench: $*" >&2; }

# TUNESMITH_BENCH_PYTHON or TUNESMITH_BENCH_VENV name a Python that has the packages; nothing is installed then.
find_python() {
    if [ -n "${TUNESMITH_BENCH_PYTHON:-}" ]; then echo "$TUNESMITH_BENCH_PYTHON"; return; fi
    if [ -n "${TUNESMITH_BENCH_VENV:-}" ]; then echo "$TUNESMITH_BENCH_VENV/bin/python"; return; fi
    # A bare GPU machine: its own PyTorch is the one to measure, and the rest may be absent.
    if [ "$program" = bench_gpu.py ] && python3 -c 'import torch' 2>/dev/null; then echo python3; return; fi
    local venv=$root/.venv-bench
    if ! cmp --silent "$venv/installed.txt" "$here/requirements.txt"; then
        say "installing the pinned packages into $venv (about 3 GB the first time)"
        python3 -m venv "$venv"
        # Wheels that lie here are taken first.
        local wheels=${XDG_CACHE_HOME:-$HOME/.cache}/tunesmith/wheels
        "$venv/bin/pip" install --quiet --find-links "$wheels" --requirement "$here/requirements.txt" >&2
        cp "$here/requirements.txt" "$venv/installed.txt"
    fi
    echo "$venv/bin/python"
}

python=$(find_python)
exec "$python" "$here/$program" "$@"
