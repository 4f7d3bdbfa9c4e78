#!/usr/bin/env bash
# Fine-tunes MobileNet V1 on photographs of solar cells, from nothing to an accuracy on cells it has not seen.
#
#     bash scripts/quickstart.sh
#
# Needs Python 3.11 to 3.13 with pip, and the network at the first run. Everything goes into .venv and quickstart/; what
# is finished is not done again, so an interrupted run is simply started anew. Remove quickstart/ to begin from scratch.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

readonly work=quickstart
readonly weights=$work/weights/mobilenet_v1/mobilenet_v1_1.0_224.ckpt
# Of nudity-0.2.3.tar.gz: another file is refused.
readonly package_sha256=d26e10346f00ad76b1166a221f1b56877d154ca343e82c6e6c8e738ca5f27d5f

main() {
  mkdir -p "$work"
  make_environment demo
  get_images
  get_weights
  convert_images
  train_network
  evaluate_network
}

say() {
  printf '\n== %s\n' "$1"
}

get_images() {
  if [[ ! -d $work/cells ]]; then
    python scripts/quickstart_data.py "$work/cells"
  fi
}

# The published archive; where it can't be reached, the same weights out of a package of PyPI.
get_weights() {
  if [[ -f $weights.index ]]; then
    return
  fi
  say "Getting MobileNet V1, trained on ImageNet"
  if finetune-download mobilenet_v1 --output-dir "$work/weights"; then
    return
  fi
  echo "Taking the same weights from the PyPI package nudity 0.2.3 (MIT) instead."
  mkdir -p "$work/weights"
  echo "nudity==0.2.3 --hash=sha256:$package_sha256" >"$work/weights/requirements.txt"
  python -m pip download --quiet --no-deps --no-binary :all: --require-hashes --dest "$work/weights" \
    --requirement "$work/weights/requirements.txt"
  tar -xzf "$work/weights/nudity-0.2.3.tar.gz" -C "$work/weights" nudity-0.2.3/nudity/files/retrained_graph.pb
  finetune-import "$work/weights/nudity-0.2.3/nudity/files/retrained_graph.pb" --model mobilenet_v1 --output "$weights"
}

convert_images() {
  if [[ ! -f $work/records/dataset.json ]]; then
    say "Converting the photographs, a quarter of each class for validation"
    finetune-convert --images-dir "$work/cells" --dataset-dir "$work/records" --dataset-name cells \
      --validation-fraction 0.25
  fi
}

train_network() {
  if [[ -f $work/run.done ]]; then
    return
  fi
  say "Training"
  if compgen -G "$work/run/model.ckpt-*.index" >/dev/null; then
    finetune-train --resume --train-dir "$work/run"
  else
    rm -rf "${work:?}/run"
    finetune-train --config configs/quickstart.toml
  fi
  touch "$work/run.done"
}

evaluate_network() {
  say "Evaluating on the cells kept aside"
  finetune-eval --checkpoint "$work/run" --dataset-dir "$work/records" --split validation
  echo
  echo "Where to look:"
  printf '  %-42s %s\n' \
    "$work/run/eval_validation/report.html" "the evaluation: figures, plots, mistaken photographs" \
    "$work/run" "checkpoints, settings, metrics.jsonl; curves: tensorboard --logdir $work/run" \
    "configs/quickstart.toml" "the settings to start your own from"
}

main
