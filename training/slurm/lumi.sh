#!/bin/bash -l
# Training on LUMI-G: AMD MI250X, 8 dies (GCDs) a node, Slingshot, Singularity. Not run on LUMI: written from its manual
# (docs.lumi-supercomputer.eu), tried with a stand-in for SLURM.
#
#   CONTAINER=/path/to/pytorch-rocm.sif sbatch --account=project_465000000 FILE
#
# Once, on a login node: an environment inside the container that sees the container's torch (built for ROCm).
#
#   singularity exec "$CONTAINER" python -m venv --system-site-packages "$VENV"
#   singularity exec --bind /flash,/scratch,/projappl "$CONTAINER" "$VENV/bin/pip" install 'estbench[train]'
#
#SBATCH --job-name=@NAME@
#SBATCH --partition=standard-g
#SBATCH --nodes=@NODES@
#SBATCH --ntasks-per-node=@PER_NODE@
#SBATCH --gpus-per-node=@PER_NODE@
#SBATCH --cpus-per-task=7
#SBATCH --mem=480G
#SBATCH --time=2-00:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

# --- what to edit, or to give as variables
CONTAINER="${CONTAINER:?the .sif file of a PyTorch container for ROCm with the aws-ofi-rccl plugin}"
VENV="${VENV:-/projappl/${SLURM_JOB_ACCOUNT:?}/estbench-venv}"
BIND="${BIND:-/flash,/scratch,/projappl,/var/spool/slurmd,/opt/cray,/usr/lib64/libcxi.so.1}"
PER_NODE=@PER_NODE@
# ---

# RCCL over Slingshot: the four network cards, their memory read by the GPUs, and the plugin that uses libfabric. Where
# the container lacks the plugin, naming it ends the job at once; without a name RCCL would be slow and say nothing.
export NCCL_SOCKET_IFNAME="${NCCL_SOCKET_IFNAME:-hsn0,hsn1,hsn2,hsn3}"
export NCCL_NET_GDR_LEVEL="${NCCL_NET_GDR_LEVEL:-PHB}"
export NCCL_NET="${NCCL_NET-AWS Libfabric}"
export FI_CXI_DEFAULT_CQ_SIZE="${FI_CXI_DEFAULT_CQ_SIZE:-131072}"

# Kernels are compiled into caches; Lustre can't hold MIOpen's (no file locks), so that each node has its own.
export CACHES="/tmp/${USER:-estbench}-estbench-${SLURM_JOB_ID:-0}"
export MIOPEN_USER_DB_PATH="$CACHES/miopen" MIOPEN_CUSTOM_CACHE_DIR="$CACHES/miopen"
export TRITON_CACHE_DIR="$CACHES/triton" TORCHINDUCTOR_CACHE_DIR="$CACHES/inductor"

# GCD 0 is next to cores 48-55 and so on (LUMI's manual, "Distribution and binding"); a core in eight is the system's.
EACH=("--cpu-bind=mask_cpu:7e000000000000,7e00000000000000,7e0000,7e000000,7e,7e00,7e00000000,7e0000000000")
((PER_NODE == 8)) || EACH=()
ONE=(--cpus-per-task=56)

# Older containers keep Python behind conda: WITH_CONDA. What is in single quotes is for the inner shell.
# shellcheck disable=SC2016
INSIDE=(singularity exec --bind "$BIND" "$CONTAINER" bash -c '
  venv="$1"
  shift
  if [[ -n "${WITH_CONDA:-}" ]]; then eval "$WITH_CONDA"; fi
  source "$venv/bin/activate"
  exec "$@"' estbench "$VENV")
