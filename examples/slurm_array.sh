#!/bin/bash
# A study as a Slurm array: each task runs one shard, on one core a trial.
#
#   STUDY=my-study.toml sbatch --array=1-8 examples/slurm_array.sh
#
# Tasks are numbered from 1. Each shard has a folder of its own, shards/I, so that nodes need share nothing but this
# one; when all are through:
#
#   weight-feedback merge results/NAME shards/*/NAME
#   weight-feedback run my-study.toml          # trains nothing more: swaps, pictures and report
#
# A task that was cut short (time limit, preemption) goes on where it was when it is given again. For some tasks alone,
# say how many there are in all:
#
#   STUDY=my-study.toml SHARDS=8 sbatch --array=3,5 examples/slurm_array.sh
#
#SBATCH --job-name=weight-feedback
#SBATCH --array=1-8
#SBATCH --cpus-per-task=4
#SBATCH --mem-per-cpu=1G
#SBATCH --time=04:00:00
#SBATCH --requeue
set -euo pipefail

: "${STUDY:?expected the name or the file of a study in the variable STUDY}"
shard=${SLURM_ARRAY_TASK_ID:?expected a Slurm array: sbatch --array=1-8}
exec weight-feedback run "$STUDY" --shard "$shard/${SHARDS:-$SLURM_ARRAY_TASK_COUNT}" --out "shards/$shard" \
    --jobs "${SLURM_CPUS_PER_TASK:-1}"
