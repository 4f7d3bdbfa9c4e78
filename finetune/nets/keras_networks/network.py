"""Keras networks as functions of images, like slim's: Keras's layers over variables that are not Keras's."""

import contextlib
import copy
import functools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.common import global_state

from finetune.errors import UserError, first_line
from finetune.nets import layers
from finetune.nets.keras_networks.architecture import (
    Config,
    activation_of_output,
    layers_of,
    names_of_a_new_process,
    output_layer,
    with_activation_of_output,
    with_names_of_a_new_process,
)
from finetune.nets.keras_networks.depth import last_feature_map
from finetune.nets.keras_networks.layers import Normalization, replacement, seeds_of
from finetune.nets.keras_networks.own_head import with_num_classes
from finetune.nets.spec import NetSpec
from finetune.types import Array, Tensor

KerasLayer = Any
KerasModel = Any
KerasVariable = Any

# EfficientNet's published variances of ImageNet's colours are standard deviations; with these weights Keras divides by
# their roots once more (efficientnet of keras.applications).
_DEVIATIONS = (0.229, 0.224, 0.225)
_EFFICIENTNET_FACTOR = tuple(1.0 / math.sqrt(deviation) for deviation in _DEVIATIONS)
# Of a network that is made for what lies before its head.
_ANY_CLASSES = 2
# What Keras calls the variables of the process that wait for their values.
_WAITING = "uninitialized_variables"
# Variables without a name, as ConvNeXt's LayerScale has them, are numbered through the whole process.
_UNNAMED = re.compile(r"^variable(_\d+)?$")


def keras_network(
    images: Tensor, num_classes: int | None, *, is_training: bool, application: str, colours: str = ""
) -> tuple[Tensor, dict[str, Tensor]]:
    """A network of Keras Applications.

    Args:
        images: [B,H,W,C], by the preprocessing of its record.
        num_classes: Number of logits; None: what is behind the last feature map is left out.
        is_training: Of the layers that are not frozen.
        application: Its name in `keras.applications`.
        colours: What is left to be done to the images: `bgr`, their channels the other way round; `deviations`, divided
            by ImageNet's standard deviations of colours in [0, 1].

    Returns:
        The logits [B,num_classes], or the last feature map [B,H,W,C], and the outputs of all layers by name.
    """
    images = in_colours(images, colours)
    height, width, channels = images.shape[1:]
    network = application_network(application, num_classes, height, width, channels, images.dtype.name)
    return network(images, is_training=is_training)


def network_of_file(
    images: Tensor, num_classes: int | None, *, is_training: bool, architecture: str, head: str
) -> tuple[Tensor, dict[str, Tensor]]:
    """A network that somebody wrote into a `.keras` file.

    Args:
        images: [B,H,W,C].
        num_classes: Number of logits; None: what is behind the last feature map is left out.
        is_training: Of the layers that are not frozen.
        architecture: JSON of a functional model to logits, of layers that `plain_model` takes.
        head: Name of its layer that depends on the number of classes.

    Returns:
        The logits [B,num_classes] and the outputs of all layers by name.

    Raises:
        UserError: They can't be computed by what the file says of the layers.
    """
    height, width, channels = images.shape[1:]
    network = file_network(architecture, head, num_classes, height, width, channels, images.dtype.name)
    try:
        return network(images, is_training=is_training)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"--model: {first_line(error)}: with what the file says of its layers they can't compute.",
            "Give a file whose model Keras runs.",
        ) from error


def in_colours(images: Any, colours: str) -> Any:
    """Images [B,H,W,C], a tensor or an array, as Keras's network takes them; `colours` as `keras_network` has it."""
    if colours == "bgr":
        return images[..., ::-1]
    if colours == "deviations":
        return images / np.asarray(deviations(images.shape[-1]), np.float32)
    return images


def deviations(channels: int) -> tuple[float, ...]:
    """ImageNet's standard deviations of colours in [0, 1], one for each channel."""
    return _DEVIATIONS if channels == 3 else _DEVIATIONS[:1]


def for_keras(spec: NetSpec, model: KerasModel, images: Array) -> Array:
    """Images [B,H,W,C] as our network takes them, for Keras's own application with published weights."""
    if takes_efficientnet_factor(spec.arguments["application"], images.shape[-1]):
        (layer,) = (layer for layer in model.layers if isinstance(layer, keras.layers.Normalization))
        mean = np.asarray(layer.adapt_mean) * 255.0
        return np.asarray((images - mean) * np.asarray(_EFFICIENTNET_FACTOR, np.float32) + mean, np.float32)
    return np.asarray(in_colours(images, spec.arguments["colours"]))


def takes_efficientnet_factor(application: str, channels: int) -> bool:
    """Whether an application divides normalised colours once more with weights for ImageNet, and else doesn't."""
    return application.startswith("EfficientNetB") and channels == 3


def with_efficientnet_factor(model: KerasModel) -> KerasModel:
    """Keras's own EfficientNet B, its variables random, as it is with weights for ImageNet."""

    def call(layer: KerasLayer, *arguments: Any, **named: Any) -> Any:
        outputs = layer(*arguments, **named)
        if not isinstance(layer, keras.layers.Normalization):
            return outputs
        return keras.layers.Rescaling(list(_EFFICIENTNET_FACTOR), name="imagenet_factor")(outputs)

    with _keras_defaults("float32"):
        return keras.models.clone_model(model, call_function=call)


@functools.lru_cache(maxsize=8)
def application_network(
    application: str, num_classes: int | None, height: int, width: int, channels: int, dtype: str
) -> "KerasNetwork":
    """The network of an application; made once for each kind of images, in a tenth of a second to two."""
    with _keras_defaults(dtype), _without_values():
        config = application_config(application, num_classes or _ANY_CLASSES, height, width, channels)
        network = KerasNetwork(config if num_classes else _up_to_features(config))
        if takes_efficientnet_factor(application, channels):
            network.normalization.factor = _EFFICIENTNET_FACTOR
    return network


@functools.lru_cache(maxsize=8)
def file_network(
    architecture: str, head: str, num_classes: int | None, height: int, width: int, channels: int, dtype: str
) -> "KerasNetwork":
    """The network of a file; made once for each kind of images.

    Raises:
        UserError: It gives no number for each class.
        ValueError: Its layers don't fit each other, or not for such images.
    """
    config = with_num_classes(json.loads(architecture), head, num_classes or _ANY_CLASSES)
    config["layers"][0]["config"]["batch_shape"] = [None, height, width, channels]
    with _keras_defaults(dtype), _without_values():
        network = KerasNetwork(config if num_classes else _up_to_features(config))
    if num_classes and network.output_shape != (None, num_classes):
        raise UserError(
            f"--model: the network gives {network.output_shape} for {num_classes} classes.",
            "Give one that gives a number for each class.",
        )
    return network


def called_network(spec: NetSpec, num_classes: int, image_size: int, channels: int) -> "KerasNetwork | None":
    """What a record's function calls, up to the last feature map under another head; None: no network of Keras.

    Args:
        spec: The record.
        num_classes: Number of logits.
        image_size: Height and width of the images in pixels.
        channels: Of the images.
    """
    is_headed = spec.head is not None
    body: NetSpec = spec.arguments["body"] if is_headed else spec
    images = image_size, image_size, channels, "float32"
    classes = None if is_headed else num_classes
    if body.function.endswith(f":{keras_network.__name__}"):
        return application_network(body.arguments["application"], classes, *images)
    if body.function.endswith(f":{network_of_file.__name__}"):
        return file_network(body.arguments["architecture"], body.arguments["head"], classes, *images)
    return None


def functional_model(architecture: str, head: str, num_classes: int) -> KerasModel:
    """Keras's own model of what `network_of_file` calls, its variables random."""
    with _keras_defaults("float32"):
        return keras.Model.from_config(with_num_classes(json.loads(architecture), head, num_classes))


def model_of_file(architecture: str) -> KerasModel:
    """A model as somebody wrote it, its variables random; `architecture` is JSON of what `plain_model` gives."""
    model = json.loads(architecture)
    kind = keras.Sequential if model["class_name"] == "Sequential" else keras.Model
    with _keras_defaults("float32"):
        return kind.from_config(model["config"])


def make_application(
    application: str,
    num_classes: int,
    *,
    include_top: bool,
    input_shape: tuple[int, int, int] | None = None,
    weights: str | None = None,
) -> KerasModel:
    """Keras's own application: images [B,H,W,C] to logits, or to features.

    Args:
        application: Its name in `keras.applications`.
        num_classes: Number of logits.
        include_top: Whether it has its head.
        input_shape: Of an image; None: as Keras has it.
        weights: "imagenet": those that Keras publishes, downloaded; None: random ones.

    Raises:
        UserError: Keras runs on another engine than TensorFlow.
    """
    arguments = {"classes": num_classes, "classifier_activation": None} if include_top else {"include_top": False}
    with _keras_defaults("float32"):
        return getattr(keras.applications, application)(weights=weights, input_shape=input_shape, **arguments)


def with_softmax(model: KerasModel) -> KerasModel:
    """The same model to probabilities, with copies of its variables, named as the first one of a process.

    It is to be written: a layer that keeps what its variables were when it was built takes up theirs when it is read.
    """
    with _keras_defaults("float32"):
        config = with_names_of_a_new_process(model.get_config())
        if activation_of_output(config) == "linear":
            finished = keras.Model.from_config(with_activation_of_output(config, "softmax"))
        else:
            logits = keras.Model.from_config(config)
            finished = keras.Model(logits.inputs[0], keras.layers.Softmax(name="probabilities")(logits.outputs[0]))
    values = {name: np.asarray(variable.value) for name, variable in variables_as_here(model).items()}
    for name, _, variable in named_variables(finished):
        variable.assign(values[name])
    return finished


def variables_as_here(model: KerasModel) -> dict[str, KerasVariable]:
    """A model's variables of floats by the names that they have here, whatever its place in the process."""
    new = names_of_a_new_process(model.get_config())
    variables = {}
    for name, _, variable in named_variables(model):
        layer, _, rest = name.partition("/")
        variables[f"{new.get(layer, layer)}/{rest}"] = variable
    return variables


@functools.lru_cache(maxsize=8)
def layers_with_variables(application: str, image_size: int, **arguments: float) -> Mapping[str, bool]:
    """By the name of each layer of an application, in the order of `model.layers`, whether it has variables.

    Args:
        application: Its name in `keras.applications`.
        image_size: Height and width of images in pixels.
        arguments: Further ones of its function.

    Raises:
        UserError: As `application_config`.
    """
    with _keras_defaults("float32"), _without_values():
        config = application_config(application, 1000, image_size, image_size, 3, **arguments)
        scopes = {name.partition("/")[0] for name in KerasNetwork(config).variables}
    return {layer.name: layer.name in scopes for layer in layers_of(config) if not layer.is_operation}


def application_config(
    application: str, num_classes: int, height: int, width: int, channels: int, **arguments: float
) -> Config:
    """What an application is, to logits, as data; to be called where no variables are made.

    Args:
        application: Its name in `keras.applications`.
        num_classes: Number of logits.
        height: Of images, in pixels.
        width: The same.
        channels: Of images.
        arguments: Further ones of its function.

    Raises:
        UserError: Keras doesn't have it, or not for such images.
    """
    make = getattr(keras.applications, application, None)
    if make is None:
        raise UserError(f"Keras {keras.__version__} has no keras.applications.{application}.", "Install a later one.")
    try:
        shape = (height, width, channels)
        model = make(weights=None, classes=num_classes, classifier_activation=None, input_shape=shape, **arguments)
    except ValueError as error:
        raise _refused_images(application, height, width, channels, error) from error
    return with_names_of_a_new_process(model.get_config())


def _up_to_features(config: Config) -> Config:
    """The model up to its last feature map, which it must have; to be called where no variables are made."""
    features = last_feature_map(layers_of(config))
    model = keras.Model.from_config(copy.deepcopy(config))
    (output,) = (operation.output for operation in model.operations if operation.name == features)
    return dict(keras.Model(model.inputs, output).get_config())


class KerasNetwork:
    """A Keras functional model that is called with variables got by `tf.compat.v1.get_variable`.

    Attributes:
        config: The model as data.
        output_shape: With None for the number of images.
        output_shapes: Of each layer by its name, without the number of images.
        variables: Its variables by their names, in its order: each with the name, shape and initialiser that it has in
            Keras, and no values.
    """

    def __init__(self, config: Config) -> None:
        """Makes the layers; to be called where no variables are made."""
        self.config = config
        model = keras.Model.from_config(copy.deepcopy(config))
        model.trainable = True
        self.output_shape = tuple(model.output_shape)
        self.output_shapes = {layer.name: tuple(layer.output.shape[1:]) for layer in model.layers}
        self.variables = {name: variable for name, _, variable in named_variables(model)}
        self._model = self._with_our_layers(model)
        self._keras_variables = [(name, variable) for name, _, variable in named_variables(self._model)]

    def __call__(self, images: Tensor, *, is_training: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """One pass within `layer_modes`.

        Args:
            images: [B,H,W,C].
            is_training: Of the layers that are not frozen.

        Returns:
            The logits [B,num_classes] and the outputs of all layers by name.
        """
        values = {name: _get_variable(name, variable) for name, variable in self.variables.items()}
        state = [(variable, values[name]) for name, variable in self._keras_variables]
        if is_training:
            state += self._seeds()
        with keras.StatelessScope(state, initialize_variables=False):
            end_points = self._model(images, training=is_training)
        return end_points[output_layer(self.config)], end_points

    @property
    def normalization(self) -> Normalization:
        """The only layer of the kind."""
        (layer,) = (layer for layer in self._model.layers if isinstance(layer, Normalization))
        return layer

    def _with_our_layers(self, model: KerasModel) -> KerasModel:
        """The same network, with our layers in place of some, that gives the outputs of all by name."""
        scopes = dict(_scopes(model, ""))
        beside = _scopes_beside(model, self.config)
        ours = keras.models.clone_model(
            model,
            clone_function=lambda layer: replacement(
                layer, scopes.get(id(layer), layer.name), beside.get(layer.name, "")
            ),
        )
        outputs = {layer.name: layer.output for layer in ours.layers if not isinstance(layer, keras.layers.InputLayer)}
        return keras.Model(ours.inputs, {**outputs, output_layer(self.config): ours.outputs[0]})

    def _seeds(self) -> list[tuple[KerasVariable, Tensor]]:
        """What the layers' random generators hold in this pass: a function of the pass's seed and the layer's name.

        These are of kinds of which nothing is known: what they draw depends on how a batch is parted.
        """
        seed = layers.pass_seed()
        of_part = tf.random.experimental.stateless_fold_in(seed[:2], seed[2])
        return [
            (state, tf.cast(layers.fold_in_name(of_part, f"{layer.name}/{number}"), state.dtype))
            for layer in self._model.layers
            for number, state in enumerate(seeds_of(layer))
        ]


def named_variables(model: KerasModel, prefix: str = "") -> Iterator[tuple[str, Any, KerasVariable]]:
    """A model's variables of floats: name, layer, variable; within a model that is a layer, its name stands in front.

    Keras's own paths of these depend on whether the model was made or loaded; variables that a layer leaves unnamed
    (ConvNeXt's) Keras counts through the whole process, here each layer counts its own.
    """
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from named_variables(layer, f"{prefix}{layer.name}/")
            continue
        for number, variable in enumerate(layer.weights):
            if variable.dtype == "float32":
                _, _, own = f"/{variable.path}".partition(f"/{layer.name}/")
                name = _UNNAMED.sub(f"variable_{number}" if number else "variable", own or variable.name)
                yield f"{prefix}{layer.name}/{name}", layer, variable


def _scopes(model: KerasModel, prefix: str) -> Iterator[tuple[int, str]]:
    for layer in model.layers:
        yield id(layer), f"{prefix}{layer.name}"
        if hasattr(layer, "layers"):
            yield from _scopes(layer, f"{prefix}{layer.name}/")


def _scopes_beside(model: KerasModel, config: Config) -> dict[str, str]:
    """By a layer's name the layer with variables that it belongs to: before the head the one before it, else behind."""
    names = [layer.name for layer in layers_of(config)]
    with_variables = {layer.name for layer in model.layers if layer.weights}
    features = last_feature_map(layers_of(config))
    of_head = names.index(features) + 1 if features else len(names)
    beside = _last_met(names[:of_head], with_variables)
    return {**beside, **_last_met(names[of_head:][::-1], with_variables)}


def _last_met(names: list[str], with_variables: set[str]) -> dict[str, str]:
    met, last = {}, ""
    for name in names:
        last = name if name in with_variables else last
        met[name] = last
    return met


def _get_variable(name: str, variable: KerasVariable) -> Any:
    """The model's variable that stands for one of Keras's, made at first sight."""
    is_statistic = not variable.trainable
    own = tf.compat.v1.get_variable(
        name,
        shape=variable.shape,
        dtype=tf.float32,
        initializer=_seeded(variable._initializer),
        trainable=not is_statistic,
        **(_STATISTIC if is_statistic else {}),
    )
    if name.endswith("kernel"):
        layers.decayed(own)
    return own


_STATISTIC = {
    "synchronization": tf.VariableSynchronization.ON_READ,
    "aggregation": tf.VariableAggregation.MEAN,
}


def _seeded(initializer: Any) -> Callable[..., Tensor]:
    """An initialiser of Keras whose values depend on TensorFlow's seed alone; its own seed is drawn from that."""

    def initialise(shape: Any, dtype: Any) -> Tensor:
        config = initializer.get_config()
        if "seed" in config:
            config["seed"] = int(tf.random.uniform([], maxval=2**31 - 1, dtype=tf.int32))
        return tf.cast(type(initializer).from_config(config)(tuple(shape), "float32"), dtype)

    return initialise


@contextlib.contextmanager
def _without_values() -> Iterator[None]:
    """Within it layers are no part of a graph, and their variables have no values, nor get them later.

    Keras notes variables without values for the whole process and gives them theirs with those of the next model that
    anyone makes, which would take the memory of every network made before.
    """
    waiting = list(global_state.get_global_attribute(_WAITING) or [])
    try:
        with tf.__internal__.eager_context.eager_mode(), keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        global_state.set_global_attribute(_WAITING, waiting)


@contextlib.contextmanager
def _keras_defaults(dtype: str) -> Iterator[None]:
    """Within it a user's settings of Keras (`~/.keras/keras.json`, a global policy) don't hold, and layers have a type.

    Raises:
        UserError: Keras runs on another engine than TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise UserError(
            f"Keras runs on {keras.backend.backend()} here, by KERAS_BACKEND or ~/.keras/keras.json; its networks are "
            "needed on TensorFlow.",
            "Set KERAS_BACKEND=tensorflow.",
        )
    policy, data_format = keras.config.dtype_policy(), keras.config.image_data_format()
    keras.config.set_dtype_policy("float32" if dtype == "float32" else f"mixed_{dtype}")
    keras.config.set_image_data_format("channels_last")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)
        keras.config.set_image_data_format(data_format)


def _refused_images(application: str, height: int, width: int, channels: int, error: ValueError) -> UserError:
    return UserError(
        f"--image-size: keras.applications.{application} takes no images of {height}×{width} pixels and {channels} "
        f"channels, as Keras says: {error}",
        "Give a larger --image-size, or leave it out.",
    )
