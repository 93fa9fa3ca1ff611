#!/bin/bash
# A vLLM server on each node, from weights that are in the node's memory before the job begins:
#   sbatch --preload=org/llama -N8 --ntasks-per-node=1 --gpus-per-node=8 examples/serve_vllm.sh org/llama
set -eu
model=$1
# shellcheck disable=SC2016 # each node looks for itself
srun bash -c 'vllm serve "$(python3 -m slurmext.staging --wait 600 "$0")" \
    --served-model-name "$0" --load-format safetensors --tensor-parallel-size "${SLURM_GPUS_ON_NODE:-1}"' "$model"
