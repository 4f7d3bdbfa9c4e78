"""Figures of slim's own networks (tests/reference/networks), and the weights and images they were measured with."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

NETWORKS_DIR = Path(__file__).parent / "reference" / "networks"


def load_reference(name: str) -> dict[str, Any]:
    """Figures of a network with `num_classes` logits for images of `image_size` and `channels`.

    `trainable` and `non_trainable` hold the shape of each variable, `training_only` the names of those not made for
    inference, `end_points` shapes at batch 2, `golden` the logits of `reference_images` under `reference_weight`.
    """
    reference: dict[str, Any] = json.loads((NETWORKS_DIR / f"{name}.json").read_text())
    return reference


def reference_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The value of a variable, a function of its name alone: spread so that activations keep their size."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    values = random.standard_normal(shape)
    leaf = name.rsplit("/", 1)[-1]
    if leaf == "gamma":
        values = (0.5 if "resnet_v" in name else 1.0) * (1 + 0.1 * values)
    elif leaf == "moving_variance":
        values = 1 + 0.1 * np.abs(values)
    elif leaf in ("beta", "biases", "moving_mean"):
        values = 0.1 * values
    else:
        fan_in = np.prod(shape[:2]) if leaf == "depthwise_weights" else np.prod(shape[:-1])
        values = values * np.sqrt(2.0 / fan_in)
    return values.astype(np.float32)


def assign_reference_weights(variables: Mapping[str, Any]) -> None:
    """Gives each variable the value that goes with its name."""
    for name, variable in variables.items():
        variable.assign(reference_weight(name, tuple(variable.shape)))


def reference_images(image_size: int, channels: int) -> np.ndarray:
    """Two images of noise [2,image_size,image_size,channels] in [-1,1]."""
    return np.random.RandomState(0).uniform(-1, 1, [2, image_size, image_size, channels]).astype(np.float32)
