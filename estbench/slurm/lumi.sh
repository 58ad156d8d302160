# shellcheck shell=bash
# How programs are started on LUMI-G (AMD MI250X, Singularity). Not run on LUMI: check it against the machine's guide.
# Name it in a recipe with PROFILE=/path/to/lumi.sh, and give sbatch your project and partition:
#
#   PROFILE=$PWD/lumi.sh sbatch --account=project_465000000 --partition=small-g slices.sbatch
#
# Once, on a login node: an environment inside the container that sees the container's torch (built for ROCm).
#
#   singularity exec "$CONTAINER" python -m venv --system-site-packages "$VENV"
#   singularity exec --bind /flash,/scratch,/projappl "$CONTAINER" "$VENV/bin/pip" install 'estbench[hf]'

PROJECT="${PROJECT:-${SLURM_JOB_ACCOUNT:?the project, such as project_465000000}}"
CONTAINER="${CONTAINER:?the .sif file of a PyTorch container for ROCm}"
VENV="${VENV:-/projappl/$PROJECT/estbench-venv}"
BIND="${BIND:-/flash,/scratch,/projappl}"
FLASH="${FLASH:-/flash/$PROJECT}"                    # fast, billed more: models and caches while they are used
export HF_HOME="${HF_HOME:-$FLASH/huggingface}"

# SLURM names GPUs for ROCm's runtime; torch and Ray look at HIP's variable, and Ray refuses to start with both.
if [[ -n "${ROCR_VISIBLE_DEVICES:-}" ]]; then
  export HIP_VISIBLE_DEVICES="$ROCR_VISIBLE_DEVICES"
  unset ROCR_VISIBLE_DEVICES
fi

# Kernels are compiled into a cache; the home directory is too small and too slow for all jobs' caches.
export MIOPEN_USER_DB_PATH="/tmp/${USER:-estbench}-miopen-${SLURM_JOB_ID:-0}"
export MIOPEN_CUSTOM_CACHE_DIR="$MIOPEN_USER_DB_PATH"
export NCCL_SOCKET_IFNAME="${NCCL_SOCKET_IFNAME:-hsn0,hsn1,hsn2,hsn3}"

# Options of srun come first, then the program: run --nodes=1 ray start ... Older containers keep Python behind conda.
run() {
  local options=()
  while [[ "${1:-}" == --* ]]; do
    options+=("$1")
    shift
  done
  # What is in single quotes is for the inner shell.
  # shellcheck disable=SC2016
  srun "${options[@]}" singularity exec --bind "$BIND" "$CONTAINER" bash -c '
    venv="$1"
    shift
    if [[ -n "${WITH_CONDA:-}" ]]; then eval "$WITH_CONDA"; fi
    source "$venv/bin/activate"
    exec "$@"' estbench "$VENV" "$@"
}
