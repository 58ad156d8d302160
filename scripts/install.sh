#!/bin/sh
# Create or refresh the virtual environment with the pins of requirements/demo.txt or requirements/dev.txt.
#
#   scripts/install.sh demo|dev          (the Makefile calls it; VENV, PYTHON and VENV_FLAGS as there)
#
# uv where there is one (bootstrapped into the environment), else pip. A torch that was there before is never replaced:
# with VENV_FLAGS=--system-site-packages the new environment sees the one of the site's container.
set -eu
part=$1
venv=${VENV:-.venv}
log=$venv/install.log
own_torch=$venv/.torch-installed-here
start=$(date +%s)

fail() {
    echo "$1" >&2
    exit 4
}

create_venv() {
    for python in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
        python=
    done
    # shellcheck disable=SC2086  # VENV_FLAGS may hold several
    if [ -n "$python" ] && "$python" -m venv ${VENV_FLAGS:-} "$venv" 2>/dev/null; then
        :
    elif command -v uv >/dev/null 2>&1; then
        uv venv --quiet --seed --allow-existing --python "${python:->=3.11}" ${VENV_FLAGS:-} "$venv"
    elif [ -z "$python" ]; then
        fail "estbench needs Python 3.11 or newer: make $part PYTHON=/path/to/python3"
    else
        fail "$python can't make a virtual environment in $venv. On Debian and Ubuntu: apt-get install python3-venv"
    fi
    case ${VENV_FLAGS:-} in
    *--system-site-packages*) see_parent ;;
    esac
}

# Containers often have their torch in a virtual environment. Python shows a child environment the site packages of the
# base installation only, so name the parent's folder in a .pth file.
see_parent() {
    "${python:-python3}" - "$venv"/lib/python3*/site-packages <<'PYTHON'
import pathlib, sys, sysconfig

if sys.prefix != sys.base_prefix:
    pathlib.Path(sys.argv[1], "_parent_environment.pth").write_text(sysconfig.get_path("purelib") + "\n")
PYTHON
}

# uv does not read pip's settings; hand over those that decide where packages come from.
find_uv() {
    uv="$venv/bin/python -m uv"
    if command -v uv >/dev/null 2>&1; then
        uv=uv
    elif ! $uv --version >/dev/null 2>&1; then
        "$venv/bin/python" -m pip install --quiet "$(grep '^uv==' requirements/dev.txt)" >>"$log" 2>&1 || uv=
    fi
    index=${PIP_INDEX_URL:-$("$venv/bin/python" -m pip config get global.index-url 2>/dev/null || true)}
    [ -z "$index" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$index}"
    [ -z "${PIP_FIND_LINKS:-}" ] || export UV_FIND_LINKS="${UV_FIND_LINKS:-$PIP_FIND_LINKS}"
    [ -w "${HOME:-/nonexistent}" ] || export UV_CACHE_DIR="${UV_CACHE_DIR:-$venv/.uv-cache}"
}

install() {
    [ -n "$uv" ] && $uv pip install --python "$venv/bin/python" "$@" >>"$log" 2>&1 && return
    "$venv/bin/python" -m pip install --disable-pip-version-check "$@" >>"$log" 2>&1 && return
    tail -n 25 "$log" >&2
    fail "The installation failed; all of its output is in $log"
}

[ -x "$venv/bin/python" ] || create_venv
: >"$log"
find_uv
if [ ! -e "$own_torch" ] && torch=$("$venv/bin/python" -c 'import torch; print(torch.__version__)' 2>>"$log"); then
    echo "torch $torch was here before and stays"
    install --no-deps -r "requirements/$part.txt"
else
    touch "$own_torch"
    install -r requirements/torch.txt -r "requirements/$part.txt"
fi
install --no-deps --no-build-isolation --editable .
echo "Installed into $venv in $(($(date +%s) - start)) s"
