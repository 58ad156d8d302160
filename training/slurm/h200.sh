#!/bin/bash
# Training on nodes of 8 H100 or H200 under SLURM. Not run: written from SLURM's manual, tried with a stand-in. Where a
# cluster wants a partition or an account, give them to sbatch.
#
#   sbatch --partition=gpu FILE
#
#SBATCH --job-name=@NAME@
#SBATCH --nodes=@NODES@
#SBATCH --ntasks-per-node=@PER_NODE@
#SBATCH --gpus-per-node=@PER_NODE@
#SBATCH --cpus-per-task=12
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

# --- what to edit, or to give as variables
VENV="${VENV:-@VENV@}"
PER_NODE=@PER_NODE@
# ---

export PYTORCH_CUDA_ALLOC_CONF="${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}"
export CACHES="/tmp/${USER:-estbench}-estbench-${SLURM_JOB_ID:-0}"
export TRITON_CACHE_DIR="$CACHES/triton" TORCHINDUCTOR_CACHE_DIR="$CACHES/inductor"
EACH=()
ONE=(--cpus-per-task=96)
INSIDE=(env "PATH=$VENV/bin:$PATH")
