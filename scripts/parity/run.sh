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
"$python" "$here/make_adapters.py" "$golden" "$work/adapters" 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
diff -r "$root/crates/api/tests/golden/adapters" "$work/adapters"

# The options of the trainer that `hyperparameters` of a losses.json stand for.
options() {
    "$python" - "$1" <<'EOF'
import json, sys
names = {"epochs": "epochs", "batch_size": "batch-size", "lr": "lr", "schedule": "schedule", "warmup_ratio": "warmup-ratio",
    "weight_decay": "weight-decay", "max_grad_norm": "max-grad-norm", "max_seq_len": "max-seq-len", "order": "order"}
hyperparameters = json.load(open(sys.argv[1]))["hyperparameters"]
print(*(f"--{option} {hyperparameters[name]}" for name, option in names.items()))
EOF
}

# train FAMILY DTYPE: writes $work/FAMILY-DTYPE (an adapter) and $work/FAMILY-DTYPE.jsonl (the steps log).
train() {
    local training=$golden/$1/training out=$work/$1-$2
    # shellcheck disable=SC2046  # words on purpose
    "$trainer" train --base "$golden/$1/base" --data "$training/train.jsonl" --out "$out" \
        --init-adapter "$training/init-adapter" $(options "$training/losses.json") --dtype "$2" --device cpu \
        --steps-log "$out.jsonl" >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
}

for folder in "$golden"/*/; do
    family=$(basename "$folder")
    say "$family: 30 steps with tunesmith-trainer, judged by PEFT"
    train "$family" float32
    "$python" "$here/compare.py" "$folder/base" "$work/$family-float32" "$folder/training/losses.json" \
        "$work/$family-float32.jsonl" "$folder/training/final-adapter"
    train "$family" bfloat16
    "$python" "$here/bfloat16.py" "$folder" "$work/$family-bfloat16.jsonl"
done
mkdir "$work/exports"
say "adapters, golden probes and merged models, in peft and transformers"
"$python" "$here/check_exports.py" "$trainer" "$golden" "$work/exports"
say "all agree"
