#!/bin/bash
# Training on Leonardo Booster: 4 A100 of 64 GB a node, InfiniBand. Not run there: written from CINECA's pages
# (leonardo-supercomputer.cineca.eu), tried with a stand-in for SLURM.
#
#   sbatch --account=PROJECT FILE
#
#SBATCH --job-name=@NAME@
#SBATCH --partition=boost_usr_prod
#SBATCH --nodes=@NODES@
#SBATCH --ntasks-per-node=@PER_NODE@
#SBATCH --gpus-per-node=@PER_NODE@
#SBATCH --cpus-per-task=8
#SBATCH --mem=0
#SBATCH --exclusive
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
ONE=(--cpus-per-task=32)
INSIDE=(env "PATH=$VENV/bin:$PATH")
