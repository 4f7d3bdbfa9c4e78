#!/usr/bin/env bash
# A training on several nodes under Slurm, one process for each GPU:
#
#     sbatch scripts/launch/slurm.sh runs/all --dataset-dir records --model resnet_v1_50 --checkpoint resnet_v1_50.ckpt
#
# The run's folder, and the records, lie on a file system that all nodes share. Processes find each other by Slurm's
# variables. Put back into the queue, after a node failed or the time was up, the same job goes on from the newest
# checkpoint.
#SBATCH --job-name=finetune
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@300
set -euo pipefail

run=$1
shift
if [[ -e $run/checkpoint ]]; then
  set -- --resume "$@"
fi
# A process that ends before the others ends the job: the others can't make a step without it.
exec srun --kill-on-bad-exit=1 finetune-train --train-dir "$run" "$@"
