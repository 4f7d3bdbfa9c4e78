#!/usr/bin/env bash
# Sets up a virtual environment where there is none, and runs all checks and tests. Arguments go to pytest:
#   bash scripts/test.sh -m 'not slow'
#   bash scripts/test.sh --matrix    # Python 3.11 to 3.13, lowest and highest versions, through uv; --dry-run: only shown
set -euo pipefail
cd "$(dirname "$0")/.."

source scripts/environment.sh
if [[ ${1:-} == --matrix ]]; then
  exec "$(find_python)" scripts/matrix.py "${@:2}"
fi
make_environment dev,demo

echo "== ruff"
ruff check .
ruff format --check .
echo "== mypy"
mypy
echo "== pip-audit"
python scripts/audit.py
echo "== pytest"
# Groups of tests that share what takes long to make, the longest first: tests/conftest.py. A process that dies ends the
# run: pytest-xdist may wait for ever for what it has handed to one that replaced another.
python -m pytest -n 2 --no-loadscope-reorder --max-worker-restart=0 "$@"
