"""Our program and the peer's on the same photographs: their command lines, and what they say of themselves."""

import dataclasses
import itertools
import json
import shutil
import statistics
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring import HERE, ONEDNN, Finished, command, run, say, script
from photographs import VALIDATION_FRACTION, link_splits

from finetune.nets import get_spec

BATCH_SIZE = 32
HEAD_CONFIG = HERE.parents[1] / "configs" / "flowers_head.toml"
KERAS_NAMES = {"mobilenet_v2": "MobileNetV2", "inception_v3": "InceptionV3"}
NETWORKS = tuple(KERAS_NAMES)
# The first steps trace graphs, choose kernels and fill buffers.
STEPS_OF_WARMING_UP = 5


@dataclasses.dataclass(frozen=True)
class Photographs:
    """The same photographs for both programs.

    Attributes:
        records: Those of finetune-convert.
        folders: Train and validation folders of class folders.
        conversion_seconds: What finetune-convert took.
    """

    records: Path
    folders: Path
    conversion_seconds: float


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a training came to.

    Attributes:
        seconds: From the program's start to its end.
        accuracy: Of the last validation, 0 to 1.
        num_steps: How many it made.
    """

    seconds: float
    accuracy: float
    num_steps: int

    def __str__(self) -> str:
        return f"{self.seconds:.1f} seconds, accuracy {self.accuracy:.4f}"


def prepare_photographs(images_dir: Path, folder: Path) -> Photographs:
    """Converts the photographs for our program and lays out the same splits for the peer."""
    records, folders = folder / "records", folder / "photographs"
    conversion = run(
        command(
            "finetune-convert",
            *("--images-dir", images_dir, "--dataset-dir", records),
            *("--dataset-name", "benchmark", "--validation-fraction", str(VALIDATION_FRACTION)),
        )
    )
    link_splits(images_dir, folders)
    return Photographs(records, folders, conversion.seconds)


def starting_weights(network: str, checkpoint: Path, folder: Path) -> tuple[Path, Path | None]:
    """A checkpoint for our program, and the same weights for the peer: None where both start from random ones."""
    if network == "mobilenet_v2":
        keras_weights = folder / f"{network}.weights.h5"
        if not keras_weights.exists():
            run(script("weights.py", "keras", checkpoint, keras_weights))
        return checkpoint, keras_weights
    prefix = folder / network / "random.ckpt"
    if not prefix.parent.exists():
        run(script("weights.py", "random", network, prefix))
    return prefix, None


def head_words(network: str, checkpoint: Path) -> list[str]:
    """The settings of configs/flowers_head.toml for a network: a new head on a frozen trunk."""
    head_scopes = ",".join(get_spec(network).head_scopes)
    return [
        *("--config", str(HEAD_CONFIG), "--model", network, "--checkpoint", str(checkpoint)),
        *("--exclude-scopes", head_scopes, "--trainable-scopes", head_scopes),
    ]


def finetune_train(records: Path, run_folder: Path, *words: str) -> Finished:
    """Runs finetune-train in a new folder."""
    shutil.rmtree(run_folder, ignore_errors=True)
    return run(command("finetune-train", "--dataset-dir", records, "--train-dir", run_folder, *words))


def last_accuracy(run_folder: Path) -> float:
    """Of a run's last validation."""
    return float([line["accuracy"] for line in _metrics(run_folder) if "accuracy" in line][-1])


def finetune_rate(records: Path, run_folder: Path, steps: int, *words: str) -> float:
    """Images a second of the training steps of finetune-train, with their input, as it logs them itself."""
    log_every = max(1, (steps - STEPS_OF_WARMING_UP) // 5)
    options = [*words, *("--max-steps", str(steps), "--log-every", str(log_every), "--eval-every", "0")]
    finetune_train(records, run_folder, *options)
    rates = [line["images_per_second"] for line in _metrics(run_folder) if line.get("images_per_second")]
    return float(statistics.median(rates[1:]))


def precision_of(run_folder: Path) -> str:
    """What a run computed in."""
    return str(tomllib.loads((run_folder / "config.toml").read_text(encoding="utf-8"))["precision"])


def keras_words(network: str, weights: Path | None) -> list[str]:
    """The network for the peer's script."""
    words = ["--application", KERAS_NAMES[network], "--image-size", str(get_spec(network).image_size)]
    return [*words, "--weights", str(weights)] if weights is not None else words


def keras_rate(folders: Path, steps: int, *words: str, onednn: bool = False) -> float:
    """Images a second of the peer's training steps, each with its input: nothing cached, flips alone, as ours."""
    options = ["--steps", str(steps), "--no-validate", "--no-cache", "--no-rotate", "--batch-size", str(BATCH_SIZE)]
    environment = {ONEDNN: "1"} if onednn else {}
    result = run(script("keras_transfer.py", folders, *options, *words), **environment).result
    return BATCH_SIZE / statistics.median(step_seconds(result))


def step_seconds(keras_result: Any) -> list[float]:
    """How long each of the peer's steps took, those of warming up left out."""
    durations = [end - start for start, end in itertools.pairwise(keras_result["step_ends"])]
    return durations[STEPS_OF_WARMING_UP:]


def bare_rate(network: str, what: str, *words: str) -> float:
    """Images a second of the network alone, see bare.py."""
    rate = float(run(script("bare.py", network, what, "--batch-size", str(BATCH_SIZE), *words)).result)
    say(f"{network}, {what} alone: {rate:.1f}")
    return rate


def _metrics(run_folder: Path) -> Sequence[dict[str, Any]]:
    return [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
