#!/usr/bin/env bash
# Trains the bundled base model again, from nothing: corpus -> tokenizer -> random weights -> all tokens -> answers only.
# The committed weights were made by this script with its default settings.
#
# Settings, all optional, from the environment:
#   TRAINER      tunesmith-trainer to use         (bin/tunesmith-trainer of this checkout)
#   DEVICE       cpu, cuda:0 or auto              (cpu)
#   WORDNET_DIR  folder with data.noun, …         (fetched with apt-get from Debian's wordnet-base)
#   WORK         folder for the corpus            (~/.cache/tunesmith/primer)
#   OUT          folder of the finished model     (this folder)
#   TEXT_MB, CHAT_MB    size of the corpus        (10, 40)
#   STEPS, CHAT_STEPS   optimizer steps of the two phases  (1400, 260)
#   BATCH, CHAT_BATCH   rows of 256 tokens, and conversations, of a step  (16, 64)
#   MICRO_BATCH_TOKENS  tokens that are in memory at once  (4096)
# With a GPU and more time: DEVICE=cuda:0 TEXT_MB=300 CHAT_MB=300 STEPS=20000 BATCH=128 MICRO_BATCH_TOKENS=65536
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
trainer=${TRAINER:-$here/../../bin/tunesmith-trainer}
device=${DEVICE:-cpu}
work=${WORK:-${XDG_CACHE_HOME:-$HOME/.cache}/tunesmith/primer}
out=${OUT:-$here}
corpus=$work/corpus
micro=${MICRO_BATCH_TOKENS:-4096}
seed=1
# Threads that sleep while they wait; spinning ones starve each other on a busy machine.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

say() { printf '%s %s\n' "$(date +%H:%M:%S)" "$*" >&2; }

fetch_wordnet() {
    local files=$work/wordnet/usr/share/wordnet
    if [[ ! -e $files/data.noun ]]; then
        say "fetching WordNet 3.0 (Debian's wordnet-base)"
        rm -rf "$work/fetch" && mkdir -p "$work/fetch" "$work/wordnet"
        (cd "$work/fetch" && apt-get download -q wordnet-base >&2 && dpkg -x wordnet-base_*.deb "$work/wordnet")
        rm -rf "$work/fetch"
    fi
    printf '%s' "$files"
}

# The corpus depends on the number of parts, so that number is fixed.
write_corpus() {
    local parts=2 pids=() i
    rm -rf "$corpus" && mkdir -p "$corpus"
    say "writing the corpus"
    for ((i = 1; i <= parts; i++)); do
        python3 "$here/make_corpus.py" --wordnet "$1" --out "$corpus" --text-mb "${TEXT_MB:-10}" \
            --chat-mb "${CHAT_MB:-40}" --seed "$seed" --shard "$i/$parts" 2>>"$corpus/log" &
        pids+=($!)
    done
    for i in "${pids[@]}"; do wait "$i" || { cat "$corpus/log" >&2; return 1; }; done
    python3 "$here/mix_corpus.py" "$corpus"/text-0?.jsonl "$corpus"/chat-0?.jsonl --out "$corpus/mixed.jsonl"
    cat "$corpus"/chat-0?.jsonl | grep '^{"messages"' | shuf --random-source=<(yes) >"$corpus/chat.jsonl"
    head -c 16000000 "$corpus/mixed.jsonl" | sed '$d' >"$corpus/sample.jsonl"
}

copy_text_files() {
    cp "$here/tokenizer_config.json" "$here/generation_config.json" "$here/chat_template.jinja" "$1/"
}

train() { # name, data, base, steps; the rest goes to the trainer
    local name=$1 data=$2 base=$3 steps=$4
    shift 4
    say "training: $name"
    rm -rf "${work:?}/$name"
    "$trainer" train --full --base "$base" --data "$data" --out "$work/$name" --max-steps "$steps" \
        --device "$device" --dtype float32 --micro-batch-tokens "$micro" --schedule linear --warmup-ratio 0.03 \
        --weight-decay 0.1 --max-grad-norm 1.0 --eval-fraction 0.002 --checkpoint-every 0 --seed "$seed" \
        --steps-log "$work/$name.steps.jsonl" "$@"
    copy_text_files "$work/$name"
}

mkdir -p "$work"
wordnet=${WORDNET_DIR:-$(fetch_wordnet)}
write_corpus "$wordnet"

say "making the tokenizer"
vocabulary=$(python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["vocab_size"])' "$here/config.json")
rm -rf "$work/tokenizer" "$work/start"
"$trainer" tokenizer --data "$corpus/sample.jsonl" --vocab-size "$vocabulary" --out "$work/tokenizer"
"$trainer" init --config "$here/config.json" --tokenizer "$work/tokenizer/tokenizer.json" \
    --chat-template "$here/chat_template.jinja" --seed "$seed" --out "$work/start"
copy_text_files "$work/start"
python3 "$here/check_tokenizer.py" "$work/start"

train everything "$corpus/mixed.jsonl" "$work/start" "${STEPS:-1400}" --batch-size "${BATCH:-16}" --pack-text 256 \
    --max-seq-len 256 --lr 3e-3 --save-dtype float32
train answers "$corpus/chat.jsonl" "$work/everything" "${CHAT_STEPS:-260}" --batch-size "${CHAT_BATCH:-64}" \
    --length-buckets --max-seq-len 512 --lr 1e-3 --save-dtype bfloat16

mkdir -p "$out"
install -m 644 "$work/answers/model.safetensors" "$work/answers/tokenizer.json" "$out/"
for name in config.json tokenizer_config.json generation_config.json chat_template.jinja; do
    [[ $here -ef $out ]] || cp "$here/$name" "$out/"
done
say "the model is in $out: $(du -bc "$out"/{model.safetensors,tokenizer.json} | tail -1 | cut -f1) bytes"
