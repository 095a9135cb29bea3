#!/usr/bin/env bash
# Write .sqlx anew: every query of crates/store, checked by a real PostgreSQL with all migrations applied.
# With --check, compare instead, and fail where .sqlx is out of date.
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ ${1:-} != --on-server ]]; then
    exec env -u TUNESMITH_TEST_DATABASE_URL scripts/with-postgres.sh scripts/sqlx-prepare.sh --on-server "$@"
fi

made=$(mktemp -d "${TMPDIR:-/tmp}/tunesmith-sqlx.XXXXXX")
trap 'rm -rf "$made"' EXIT

for migration in migrations/*.sql; do
    "$TUNESMITH_POSTGRES_BIN/psql" --quiet --no-psqlrc --single-transaction -v ON_ERROR_STOP=1 \
        "$TUNESMITH_TEST_DATABASE_URL" -f "$migration"
done

# The macros write a file a query while the crate compiles, so it must compile now.
touch crates/store/src/lib.rs
SQLX_OFFLINE=false SQLX_OFFLINE_DIR=$made DATABASE_URL=$TUNESMITH_TEST_DATABASE_URL \
    cargo build --locked --quiet --package tunesmith-store --lib

if [[ ${2:-} == --check ]]; then
    diff --recursive --brief .sqlx "$made" || { echo "sqlx-prepare: .sqlx is out of date; run 'make sqlx'" >&2; exit 1; }
else
    mkdir -p .sqlx
    rm -f .sqlx/query-*.json
    cp "$made"/query-*.json .sqlx/
fi
