# shellcheck shell=bash
# For other scripts to source: a virtual environment with this package in it.
#
#     source scripts/environment.sh
#     make_environment dev,demo    # extras of pyproject.toml
#
# The active environment is used, else .venv, made by the first suitable Python on PATH. Installing is done once for
# each state of pyproject.toml and of constraints.txt, which holds the versions that were tested.

make_environment() {
  local extras=$1 stamp
  if [[ -z ${VIRTUAL_ENV:-} ]]; then
    if [[ ! -x .venv/bin/pip ]]; then
      local python
      python=$(find_python) || return
      echo "== making a virtual environment in .venv with $("$python" --version)"
      "$python" -m venv .venv
    fi
    # shellcheck disable=SC1091
    source .venv/bin/activate
  fi
  stamp=$VIRTUAL_ENV/.finetune-${extras//,/-}
  if ! cat pyproject.toml constraints.txt | cmp --silent - "$stamp"; then
    echo "== installing the package with its extras $extras"
    python -m pip install --quiet --constraint constraints.txt --editable ".[$extras]"
    cat pyproject.toml constraints.txt >"$stamp"
  fi
}

find_python() {
  local python
  for python in python3.13 python3.12 python3.11 python3 python; do
    if "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
      echo "$python"
      return
    fi
  done
  echo "No Python 3.11, 3.12 or 3.13 is on PATH: install one (python.org, or the package manager)." >&2
  return 2
}
