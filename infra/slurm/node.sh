#!/bin/sh
# One node of a training on several: the first runs the pipeline, the others lend it their GPUs.
# srun calls it once a node (train.sbatch); its arguments are those of `nanochat run`: a preset and --set options.
set -eu
: "${SLURM_NODEID:?is not set: start this with srun}" "${SLURM_NNODES:?is not set: start this with srun}"
export NANOCHAT_NODE_RANK="$SLURM_NODEID"
if [ -z "${NANOCHAT_RENDEZVOUS:-}" ]; then
    NANOCHAT_RENDEZVOUS="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):29500"
fi
export NANOCHAT_RENDEZVOUS
if [ "$SLURM_NODEID" -eq 0 ]; then
    exec nanochat run "$@" --yes --set "runtime.num_nodes=$SLURM_NNODES"
fi
exec nanochat node "$@" --set "runtime.num_nodes=$SLURM_NNODES"
