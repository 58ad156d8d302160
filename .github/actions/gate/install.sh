#!/usr/bin/env bash
# Installs GATE_INSTALL, a requirement a line. An index of one's own: PIP_INDEX_URL, as everywhere.
set -euo pipefail

requirements=()
while read -r line || [ -n "$line" ]; do
    [ -z "$line" ] || requirements+=("$line")
done <<<"$GATE_INSTALL"
"$GATE_PYTHON" -m pip install --disable-pip-version-check -- "${requirements[@]}"
