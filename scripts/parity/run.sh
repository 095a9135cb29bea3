#!/usr/bin/env bash
# `make parity`: compare with transformers and peft themselves. README.md beside this script says how.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
golden=$root/crates/model/tests/golden
trainer=${TUNESMITH_TRAINER:-$root/bin/tunesmith-trainer}
venv=${TUNESMITH_PARITY_VENV:-$root/.venv-parity}
python=$venv/bin/python

say() { echo "parity: $*" >&2; }

install_packages() {
    if [ "$(cat "$venv/installed.txt" 2>/dev/null)" = "$(cat "$here/requirements.txt")" ]; then return; fi
    say "installing the pinned packages into $venv (about 3 GB the first time)"
    python3 -m venv "$venv"
    local wheels=${XDG_CACHE_HOME:-$HOME/.cache}/tunesmith/wheels
    # `make setup` has the torch wheel already.
    "$venv/bin/pip" install --quiet --find-links "$wheels" --requirement "$here/requirements.txt"
    cp "$here/requirements.txt" "$venv/installed.txt"
}

if [ ! -x "$trainer" ]; then
    say "no executable $trainer; run \`make build\`, or name one in TUNESMITH_TRAINER"
    exit 1
fi
install_packages
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1 TOKENIZERS_PARALLELISM=false PYTHONWARNINGS=ignore

say "making the golden files anew"
"$python" "$here/make_golden.py" "$work/golden" 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
"$python" "$here/check_golden.py" "$golden" "$work/golden"
"$python" "$here/make_templates.py" "$work/templates"
diff -r "$root/crates/dataset/tests/golden/templates" "$work/templates"
"$python" "$here/make_shapes.py" "$work/shapes.json" 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
diff "$root/crates/api/tests/golden/shapes.json" "$work/shapes.json"

for family in llama mistral qwen; do
    say "$family: 20 steps with tunesmith-trainer, judged by PEFT"
    training=$golden/$family/training
    "$trainer" train --base "$golden/$family/base" --data "$training/train.jsonl" --out "$work/$family" \
        --init-adapter "$training/init-adapter" --order file --epochs 4 --batch-size 4 --lr 0.01 --schedule cosine \
        --warmup-ratio 0.1 --weight-decay 0.01 --max-grad-norm 1 --max-seq-len 256 --dtype float32 --device cpu \
        --steps-log "$work/$family.jsonl" >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
    "$python" "$here/compare.py" "$golden/$family/base" "$work/$family" "$training/losses.json" "$work/$family.jsonl" \
        "$training/final-adapter"
done
say "all agree"
