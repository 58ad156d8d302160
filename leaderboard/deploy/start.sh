#!/bin/sh
# Runs an estbench command; the database's password comes from a file, so that no command line and no `docker inspect`
# shows it. PostgreSQL's client reads PGPASSWORD.
set -eu
if [ -n "${PGPASSWORD_FILE:-}" ]; then
    PGPASSWORD=$(cat "$PGPASSWORD_FILE")
    export PGPASSWORD
fi
exec estbench "$@"
