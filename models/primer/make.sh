#!/usr/bin/env bash
# Trains the bundled base model again, from nothing: corpus -> tokenizer -> random weights -> text -> conversations.
# Everything but the weights is the same each time; weights are the same on the CPU, and nearly so on a GPU.
#
# Settings, all optional, from the environment:
#   TRAINER      tunesmith-trainer to use         (bin/tunesmith-trainer of this checkout)
#   DEVICE       cpu, cuda:0 or auto              (auto)
#   DTYPE        float32, bfloat16 or auto        (auto)
#   WORDNET_DIR  folder with data.noun, …         (fetched with apt-get from Debian's wordnet-base)
#   WORK         folder for the corpus            (~/.cache/tunesmith/primer)
#   OUT          folder of the finished model     (this folder)
#   JOBS         processes that write the corpus  (number of cores)
#   TEXT_MB, CHAT_MB          size of the corpus  (300, 300)
#   TEXT_BATCH, CHAT_BATCH    rows of 512 tokens and conversations of an optimizer step  (128, 768)
#   TEXT_STEPS, CHAT_STEPS    stop each phase early, after so many steps                 (one pass)
#   MICRO_BATCH_TOKENS        tokens that are in memory at once                          (65536)
# A small run on two CPU cores: TEXT_MB=8 CHAT_MB=24 TEXT_BATCH=16 CHAT_BATCH=64 MICRO_BATCH_TOKENS=8192
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
trainer=${TRAINER:-$here/../../bin/tunesmith-trainer}
device=${DEVICE:-auto}
dtype=${DTYPE:-auto}
work=${WORK:-${XDG_CACHE_HOME:-$HOME/.cache}/tunesmith/primer}
out=${OUT:-$here}
jobs=${JOBS:-$(nproc)}
text_mb=${TEXT_MB:-300}
chat_mb=${CHAT_MB:-300}
micro=${MICRO_BATCH_TOKENS:-65536}
seed=1

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

write_corpus() {
    local wordnet=$1 corpus=$work/corpus pids=() i
    rm -rf "$corpus" && mkdir -p "$corpus"
    say "writing ${text_mb} MB of text and ${chat_mb} MB of conversations with $jobs processes"
    for ((i = 1; i <= jobs; i++)); do
        python3 "$here/make_corpus.py" --wordnet "$wordnet" --out "$corpus" --text-mb "$text_mb" --chat-mb "$chat_mb" \
            --seed "$seed" --shard "$i/$jobs" 2>>"$corpus/log" &
        pids+=($!)
    done
    for i in "${pids[@]}"; do wait "$i" || { cat "$corpus/log" >&2; return 1; }; done
    head -c 12000000 "$corpus/text-01.jsonl" | sed '$d' >"$corpus/sample.jsonl"
    head -c 12000000 "$corpus/chat-01.jsonl" | sed '$d' >>"$corpus/sample.jsonl"
    cat "$corpus"/text-*.jsonl >"$corpus/text.jsonl" && rm "$corpus"/text-*.jsonl
    cat "$corpus"/chat-*.jsonl >"$corpus/chat.jsonl" && rm "$corpus"/chat-*.jsonl
}

train() { # name, data, base, steps ("" is one pass), the rest goes to the trainer
    local name=$1 data=$2 base=$3 steps=$4 length=(--epochs 1)
    shift 4
    [[ -n $steps ]] && length=(--max-steps "$steps")
    say "training on $name"
    rm -rf "$work/$name"
    "$trainer" train --full --base "$base" --data "$data" --out "$work/$name" "${length[@]}" --device "$device" \
        --dtype "$dtype" --micro-batch-tokens "$micro" --max-grad-norm 1.0 --weight-decay 0.1 --eval-fraction 0.002 \
        --checkpoint-every 0 --seed "$seed" --steps-log "$work/$name.jsonl" "$@"
}

mkdir -p "$work"
wordnet=${WORDNET_DIR:-$(fetch_wordnet)}
write_corpus "$wordnet"

say "making the tokenizer"
vocabulary=$(python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["vocab_size"])' "$here/config.json")
rm -rf "$work/tokenizer" "$work/start"
"$trainer" tokenizer --data "$work/corpus/sample.jsonl" --vocab-size "$vocabulary" --out "$work/tokenizer"
"$trainer" init --config "$here/config.json" --tokenizer "$work/tokenizer/tokenizer.json" \
    --chat-template "$here/chat_template.jinja" --seed "$seed" --out "$work/start"
cp "$here/tokenizer_config.json" "$here/generation_config.json" "$here/chat_template.jinja" "$work/start/"
python3 "$here/check_tokenizer.py" "$work/start"

train text "$work/corpus/text.jsonl" "$work/start" "${TEXT_STEPS:-}" --pack-text 512 --batch-size "${TEXT_BATCH:-128}" \
    --lr 2e-3 --schedule constant --warmup-ratio 0.05 --max-seq-len 512 --save-dtype float32
cp "$here/tokenizer_config.json" "$here/generation_config.json" "$here/chat_template.jinja" "$work/text/"
train chat "$work/corpus/chat.jsonl" "$work/text" "${CHAT_STEPS:-}" --batch-size "${CHAT_BATCH:-768}" \
    --length-buckets --lr 2e-3 --schedule linear --warmup-ratio 0.02 --max-seq-len 512 --save-dtype bfloat16

mkdir -p "$out"
install -m 644 "$work/chat/model.safetensors" "$work/chat/tokenizer.json" "$out/"
for name in config.json tokenizer_config.json generation_config.json chat_template.jinja; do
    [[ $here -ef $out ]] || cp "$here/$name" "$out/"
done
say "the model is in $out: $(du -bc "$out"/{model.safetensors,tokenizer.json} | tail -1 | cut -f1) bytes"
