#!/usr/bin/env bash
# A training on several machines that ssh reaches without a password, one process on each, the first being the chief:
#
#     bash scripts/launch/ssh.sh node1,node2 runs/all --dataset-dir records --model mobilenet_v2
#
# On each of them this folder lies in the same place with its virtual environment, on a file system that all share.
# PORT, 29400 if not set, is free on all; RESTARTS, 0 if not set, is how often all are started again after one died.
set -euo pipefail

hosts=${1//,/ } run=$2
shift 2
workers=
for host in $hosts; do
  workers+=,$host:${PORT:-29400}
done

start_all() {
  local words=(--train-dir "$run" --workers "${workers#,}" "$@") index=0 status=0 process processes=()
  if [[ -e $run/checkpoint ]]; then
    words+=(--resume)
  fi
  for host in $hosts; do
    # shellcheck disable=SC2029 # What stands here is meant to be expanded here.
    ssh -o BatchMode=yes "$host" "cd $(printf %q "$PWD") && exec env PATH=$(printf %q "$PATH") finetune-train \
      $(printf '%q ' "${words[@]}") --worker-index $index" &
    processes+=($!)
    index=$((index + 1))
  done
  for process in "${processes[@]}"; do
    wait "$process" || status=$?
  done
  return "$status"
}

for ((restart = 0; ; restart++)); do
  status=0
  start_all "$@" || status=$?
  if ((status == 0 || status > 128 || restart >= ${RESTARTS:-0})); then
    exit "$status"
  fi
  echo "== a process ended with status $status: all are started again" >&2
done
