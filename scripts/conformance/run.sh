#!/usr/bin/env bash
# `make conformance`: the official openai package and litellm against a platform on loopback. CONTRIBUTING.md says more.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
bin=${TUNESMITH_BIN:-$root/bin}
venv=${TUNESMITH_CONFORMANCE_VENV:-$root/.venv-conformance}

say() { echo "conformance: $*" >&2; }

# start FILE COMMAND...: runs it until this script ends, and waits until it has written FILE.
started=()
start() {
    local ready=$1
    shift
    "$@" >"$ready.log" 2>&1 &
    started+=($!)
    for _ in $(seq 600); do
        if [ -s "$ready" ]; then return; fi
        kill -0 "${started[-1]}" 2>/dev/null || break
        sleep 0.2
    done
    say "$1 did not start:"
    cat "$ready.log" >&2
    exit 1
}

stop() {
    for process in "${started[@]}"; do kill "$process" 2>/dev/null || true; done
    for process in "${started[@]}"; do wait "$process" 2>/dev/null || true; done
    rm -rf "$work"
}

field() { "$venv/bin/python" -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$1" "$2"; }

for program in tunesmith tunesmith-engine; do
    [ -x "$bin/$program" ] || { say "no executable $bin/$program; run \`make build\`, or name the folder in TUNESMITH_BIN"; exit 1; }
done
if [ "$(cat "$venv/installed.txt" 2>/dev/null)" != "$(cat "$here/requirements.txt")" ]; then
    say "installing the clients into $venv"
    [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --requirement "$here/requirements.txt"
    cp "$here/requirements.txt" "$venv/installed.txt"
fi
work=$(mktemp -d)
trap stop EXIT

# A narrow engine, so that a burst of requests meets its limit.
start "$work/engine.json" "$bin/tunesmith-engine" serve --base "$root/models/primer" --listen 127.0.0.1:0 \
    --ready-file "$work/engine.json" --max-sequences 4 --max-waiting 4
start "$work/platform.json" "$bin/tunesmith" up --data-dir "$work/data" --listen 127.0.0.1:0 \
    --ready-file "$work/platform.json" --replica "primer=$(field "$work/engine.json" url),kind=engine"
TUNESMITH_API_URL=$(field "$work/platform.json" api_url)
TUNESMITH_API_KEY=$(field "$work/platform.json" api_key)
export TUNESMITH_API_URL TUNESMITH_API_KEY
# The bundled template knows no tools; a model with one that does gets an engine from the platform.
mkdir "$work/caller"
cp "$root"/models/primer/*.json "$root/models/primer/model.safetensors" "$work/caller"
cp "$root/scripts/parity/templates/qwen2.5.jinja" "$work/caller/chat_template.jinja"
"$bin/tunesmith" base-models register "$work/caller" --name caller >/dev/null
for client in openai litellm; do
    say "$client $("$venv/bin/pip" list 2>/dev/null | awk -v name="$client" '$1 == name {print $2}')"
    "$venv/bin/python" -W ignore "$here/check_$client.py"
done
say "all agree"
