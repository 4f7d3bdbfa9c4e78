"""Figures of slim's own networks (tests/reference/networks), and networks with weights that anyone can make again."""

import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from finetune.model.model import Model
from finetune.nets import MODELS

NETWORKS_DIR = Path(__file__).parent / "reference" / "networks"

# Others are left out of the quick round.
QUICK_NETWORKS = ("lenet", "cifarnet", "inception_v1", "mobilenet_v1_025", "mobilenet_v2_035")
EVERY_NETWORK = [name if name in QUICK_NETWORKS else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]


def _one_of_each_function() -> list[Any]:
    """The smallest network of each, the others having more layers of the same kinds, and one that squeezes."""
    by_size = sorted(MODELS.items(), key=lambda item: -item[1].num_parameters)
    chosen = {*{spec.function: name for name, spec in by_size}.values(), "mobilenet_v3_small"}
    chosen.remove("nasnet_cifar")  # Its cells are those of nasnet_mobile.
    return [network for network in EVERY_NETWORK if getattr(network, "values", (network,))[0] in chosen]


ONE_OF_EACH_FUNCTION = _one_of_each_function()

# Image sizes of families that take long at three quarters of their own.
SMALL_SIZES = {
    **dict.fromkeys(("inception_v3", "inception_v4", "inception_resnet"), 139),
    **dict.fromkeys(("nasnet_mobile", "nasnet_large", "pnasnet"), 96),
    "resnet": 64,
}


def load_reference(name: str) -> dict[str, Any]:
    """Figures of a network with `num_classes` logits for images of `image_size` and `channels`.

    `trainable` and `non_trainable` hold the shape of each variable, `training_only` the names of those not made for
    inference, `end_points` shapes at batch 2, `golden` the logits of `reference_images` under `reference_weight`.
    """
    reference: dict[str, Any] = json.loads((NETWORKS_DIR / f"{name}.json").read_text())
    return reference


def reference_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The value of a variable, a function of its name alone: spread so that activations keep their size."""
    return _spread(name, np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)).astype(np.float32)


def quick_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """As `reference_weight`, where no figures are to be met: drawn in a fifth of the time."""
    return _spread(name, np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32))


def assign_reference_weights(variables: Mapping[str, Any]) -> None:
    """Gives each variable the value that goes with its name."""
    for name, variable in variables.items():
        variable.assign(reference_weight(name, tuple(variable.shape)))


def reference_images(image_size: int, channels: int) -> np.ndarray:
    """Two images of noise [2,image_size,image_size,channels] in [-1,1]."""
    return np.random.RandomState(0).uniform(-1, 1, [2, image_size, image_size, channels]).astype(np.float32)


class ReferenceModel(Model):
    """A model whose variables start with a value that goes with their name, where a random start would be drawn first.

    Its own initialisers are called for one value alone, so that one that can't be called is found all the same.
    """

    def __init__(
        self,
        *arguments: Any,
        weight: Callable[..., np.ndarray] = reference_weight,
        given: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        """As a model, with `reference_weight` or `quick_weight`, and the `given` variables where the shapes agree."""
        self._weight = weight
        self._given = given or {}
        super().__init__(*arguments, **settings)

    def initialise(self, names: Iterable[str]) -> None:
        for name in names:
            variable = self.model_variables[name]
            if variable is not self._given.get(name):
                self._initializers[name]([1] * len(variable.shape), tf.float32)
                variable.assign(self._weight(name, tuple(variable.shape)))

    def _get_variable(self, getter: Any, name: str, *, shape: Any, **options: Any) -> Any:
        if name in self._given and self._given[name].shape == shape:
            self.model_variables.setdefault(name, self._given[name])
        return super()._get_variable(getter, name, shape=shape, **options)


def make_small_network(network: Model) -> ReferenceModel:
    """The same of two classes, for smaller images of the other number of channels than its own."""
    spec = network.spec
    sizes = (size for family, size in SMALL_SIZES.items() if spec.name.startswith(family))
    image_size = next(sizes, spec.image_size * 3 // 4)
    variables = network.model_variables
    return ReferenceModel(
        spec, 2, image_size=image_size, channels=4 - spec.channels, weight=quick_weight, given=variables
    )


def _spread(name: str, noise: np.ndarray) -> np.ndarray:
    leaf = name.rsplit("/", 1)[-1]
    if leaf == "gamma":
        return (0.5 if "resnet_v" in name else 1.0) * (1 + 0.1 * noise)
    if leaf == "moving_variance":
        return 1 + 0.1 * np.abs(noise)
    if leaf in ("beta", "biases", "moving_mean"):
        return 0.1 * noise
    fan_in = np.prod(noise.shape[:2]) if leaf == "depthwise_weights" else np.prod(noise.shape[:-1])
    return noise * float(np.sqrt(2.0 / fan_in))
