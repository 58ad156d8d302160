
# --- from here on, the same on all machines
RECIPE=@RECIPE@
OUTPUT=@OUTPUT@
export ESTBENCH_HOME="${ESTBENCH_HOME:-@HOME@}"
MOST_RESTARTS="${MOST_RESTARTS:-200}"
WORDS=(@WORDS@)

# Compute nodes have no network: everything was fetched before, and nothing tries.
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"
if [[ -n "${SLURM_CPUS_PER_TASK:-}" ]]; then export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"; fi # srun no longer asks

# The processes meet at the first node. There is no torchrun between srun and them: it gives them 30 s after a SIGTERM,
# and ends with 1 where they end with 75.
hosts="$(scontrol show hostnames "${SLURM_JOB_NODELIST:-}")"
export MASTER_ADDR="${hosts%%$'\n'*}" MASTER_PORT="${MASTER_PORT:-$((20000 + ${SLURM_JOB_ID:-$$} % 20000))}" LOCAL_WORLD_SIZE="$PER_NODE"

# What is in single quotes is for the shell of each process.
# shellcheck disable=SC2016
RANKED=(bash -c 'export RANK="$SLURM_PROCID" LOCAL_RANK="$SLURM_LOCALID" WORLD_SIZE="$SLURM_NTASKS"
  if [[ -n "${CACHES:-}" ]]; then mkdir -p "$CACHES/miopen"; fi
  exec "$@"' rank)

# One process on the first node: preparing data, sampling.
alone() {
  exec_srun --nodes=1 --ntasks=1 --ntasks-per-node=1 "${ONE[@]}" \
    "${INSIDE[@]}" python -m estbench_training recipe="$RECIPE" output_dir="$OUTPUT" stage="$1" "${WORDS[@]}"
}

# Looks whether stages that need a network were done before: else the job ends here, and no node waits in vain.
prepared() {
  exec_srun --nodes=1 --ntasks=1 --ntasks-per-node=1 "${ONE[@]}" \
    "${INSIDE[@]}" python -m estbench_training.slurm recipe="$RECIPE" output_dir="$OUTPUT" stage="$1" "${WORDS[@]}"
}

# A process for each GPU of all nodes. When the first one has ended, the others have two minutes.
together() {
  exec_srun --ntasks-per-node="$PER_NODE" --wait=120 "${EACH[@]}" \
    "${RANKED[@]}" "${INSIDE[@]}" python -m estbench_training recipe="$RECIPE" output_dir="$OUTPUT" stage="$1" "${WORDS[@]}"
}

# In place of the shell, so that a signal reaches it; local.sh has a function of that name.
exec_srun() {
  if [[ "$(type -t srun)" == function ]]; then srun "$@"; else exec srun "$@"; fi
}

# SLURM sends SIGTERM to this script 300 s before the time is up. It goes to all processes; they store their state and
# end with 75, the job is queued again and goes on from there. A stage that is done is not run again. What has not ended
# after GRACE seconds is ended, for SLURM would take this script with it: then the job goes on from an earlier state.
child="" asked="" timer=""
GRACE="${GRACE:-240}"
trap 'ask' TERM INT

ask() {
  asked=yes
  if [[ -n "$child" ]]; then
    kill -TERM "$child" 2>/dev/null || true
    if [[ -z "$timer" ]]; then
      late "$child" >/dev/null 2>&1 &
      timer=$!
    fi
  fi
}

# Ends processes after GRACE seconds, unless it is ended itself.
late() {
  local sleeping
  sleep "$GRACE" "${LATER:-0}" &
  sleeping=$!
  trap 'kill "$sleeping" 2>/dev/null; exit 0' TERM
  wait "$sleeping"
  kill -KILL "$@" 2>/dev/null || true
}

in_time() {
  if [[ -n "$timer" ]]; then kill -TERM "$timer" 2>/dev/null || true; fi
  timer=""
}

again() {
  if [[ -z "${SLURM_JOB_ID:-}" ]]; then
    echo "Stored; the same command goes on from here." >&2
    exit 75
  fi
  if ((${SLURM_RESTART_COUNT:-0} >= MOST_RESTARTS)); then
    echo "Queued again $MOST_RESTARTS times already: send it once more if that is meant (MOST_RESTARTS)." >&2
    exit 75
  fi
  echo "Stored; the job is queued again." >&2
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
}

# The exit code of a process, however often a signal ends `wait`.
await() {
  local code last=0
  while :; do
    code=0
    wait "$1" || code=$?
    kill -0 "$1" 2>/dev/null || break
  done
  wait "$1" 2>/dev/null || last=$?
  if ((last != 127)); then code=$last; fi
  return "$code"
}

stage() {
  local status=0
  if [[ -n "$asked" ]]; then again; fi
  "$1" "$2" &
  child=$!
  await "$child" || status=$?
  child=""
  in_time
  if ((status == 75)) || { ((status != 0)) && [[ -n "$asked" ]]; }; then again; fi
  if ((status != 0)); then
    echo "$2 ended with $status." >&2
    exit "$status"
  fi
}

@STAGES@
