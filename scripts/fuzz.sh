#!/usr/bin/env bash
# Gives every reader of files and answers inputs that it never saw, and expects nothing but the errors that it declares:
#   bash scripts/fuzz.sh 200000            # so many in all, in the active environment
#   bash scripts/fuzz.sh 5000 -k images    # arguments go to pytest
set -euo pipefail
cd "$(dirname "$0")/.."

FINETUNE_FUZZ_RUNS=${1:?how many runs?} exec python -m pytest -q --timeout 0 tests/test_fuzz.py "${@:2}"
