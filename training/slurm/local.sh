#!/bin/bash
# Training on this machine, without SLURM: bash FILE. Ctrl-C or a SIGTERM stores the state; the same command goes on.
set -euo pipefail

# --- what to edit, or to give as variables
VENV="${VENV:-@VENV@}"
PER_NODE=@PER_NODE@
# ---

INSIDE=(env "PATH=$VENV/bin:$PATH")

EACH=()
ONE=()
LATER=10 # seconds that the stand-in for srun has to end its processes in

# A stand-in for srun: as many processes as --ntasks-per-node says; the exit code is the highest of theirs.
srun() {
  local count=1 rank one status=0 code
  local -a pids=()
  while [[ "${1:-}" == --* ]]; do
    if [[ "$1" == --ntasks-per-node=* ]]; then count="${1#*=}"; fi
    shift
  done
  timer=""
  trap 'ask_all' TERM
  for ((rank = 0; rank < count; rank++)); do
    SLURM_PROCID="$rank" SLURM_LOCALID="$rank" SLURM_NTASKS="$count" "$@" &
    pids+=("$!")
  done
  for one in "${pids[@]}"; do
    code=0
    await "$one" || code=$?
    if ((code > status)); then status=$code; fi
    # One that failed takes the others with it: they would wait for it.
    if ((code != 0 && code != 75)); then kill -TERM "${pids[@]}" 2>/dev/null || true; fi
  done
  in_time
  exit "$status"
}

ask_all() {
  if ((${#pids[@]} == 0)); then return 0; fi
  kill -TERM "${pids[@]}" 2>/dev/null || true
  if [[ -z "$timer" ]]; then
    LATER=0
    late "${pids[@]}" >/dev/null 2>&1 &
    timer=$!
  fi
}
scontrol() { hostname; }
