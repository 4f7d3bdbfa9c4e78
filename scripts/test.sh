#!/usr/bin/env bash
# Sets up a virtual environment where there is none, and runs all checks and tests. Arguments go to pytest:
#   bash scripts/test.sh -m 'not slow'
set -euo pipefail
cd "$(dirname "$0")/.."

source scripts/environment.sh
make_environment dev,demo

echo "== ruff"
ruff check .
ruff format --check .
echo "== mypy"
mypy
echo "== pytest"
# Groups of tests that share what takes long to make, the longest first: tests/conftest.py.
python -m pytest -n 2 --no-loadscope-reorder "$@"
