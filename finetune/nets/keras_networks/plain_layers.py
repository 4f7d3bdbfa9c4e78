"""What is taken of a Keras model that somebody wrote into a file: layers of Keras's own, and plain values in them.

A file's architecture names classes and functions, which Keras would look up and call. Only those that are listed here
are, and nothing that a file says in their place is imported.
"""

from typing import Any

from finetune.errors import UserError
from finetune.nets.keras_networks.architecture import Config

MODELS = ("Functional", "Sequential")
# Which leave an image as it is but in training.
RANDOM = (
    "RandAugment",
    "RandomBrightness",
    "RandomColorJitter",
    "RandomContrast",
    "RandomErasing",
    "RandomFlip",
    "RandomGaussianBlur",
    "RandomGrayscale",
    "RandomHue",
    "RandomPerspective",
    "RandomRotation",
    "RandomSaturation",
    "RandomSharpness",
    "RandomShear",
    "RandomTranslation",
    "RandomZoom",
)
WITH_VARIABLES = (
    "BatchNormalization",
    "Conv2D",
    "Dense",
    "DepthwiseConv2D",
    "GroupNormalization",
    "LayerNormalization",
    "LayerScale",
    "Normalization",
    "PReLU",
    "SeparableConv2D",
)
_WITHOUT_VARIABLES = (
    "Activation",
    "Add",
    "Average",
    "AveragePooling2D",
    "Concatenate",
    "Cropping2D",
    "Dropout",
    "ELU",
    "Flatten",
    "GlobalAveragePooling2D",
    "GlobalMaxPooling2D",
    "InputLayer",
    "LeakyReLU",
    "MaxPooling2D",
    "Maximum",
    "Minimum",
    "Multiply",
    "Permute",
    "ReLU",
    "Rescaling",
    "Reshape",
    "Resizing",
    "Softmax",
    "SpatialDropout2D",
    "StochasticDepth",
    "Subtract",
    "UnitNormalization",
    "UpSampling2D",
    "ZeroPadding2D",
)
_LAYERS = {*WITH_VARIABLES, *_WITHOUT_VARIABLES, *RANDOM}
_OF_CONVNEXT = ("LayerScale", "StochasticDepth")
_OPERATIONS = {
    "keras.src.ops.numpy": "Absolute Add Clip Concatenate Divide GetItem Maximum Mean Minimum Multiply Negative Power "
    "Sqrt Square Stack Subtract TrueDivide",
    "keras.src.ops.nn": "Elu Gelu HardSigmoid HardSilu LeakyRelu Relu Relu6 Sigmoid Silu Softmax Softplus Tanh",
}
_ACTIVATIONS = (
    "elu exponential gelu hard_sigmoid hard_silu hard_swish leaky_relu linear mish relu relu6 selu sigmoid silu "
    "softmax softplus softsign swish tanh"
)
_INITIALIZERS = (
    "Constant GlorotNormal GlorotUniform HeNormal HeUniform LecunNormal LecunUniform Ones Orthogonal RandomNormal "
    "RandomUniform TruncatedNormal VarianceScaling Zeros"
)
# How Keras writes values that JSON has not.
_FORMS = ("__ellipsis__", "__keras_tensor__", "__numpy__", "__slice__", "__tensor__", "__tuple__")
# Of training alone: what decays and which layers are trained is the run's to say.
_LEFT_OUT = ("regularizer", "constraint")
_OTHER_ARITHMETIC = ("renorm", "lora_rank", "quantization_config")
# Which TensorFlow would find to be something else only when it computes.
_NUMBERS = ("epsilon", "mean", "momentum", "negative_slope", "offset", "rate", "scale", "threshold", "variance")
_MOST_LAYERS = 10_000


def plain_model(found: Any, source: str) -> Config:
    """A model's `class_name` and `config` with nothing in them but what is listed here.

    Args:
        found: What the file holds, whatever that is.
        source: The file, for messages.

    Raises:
        UserError: It is no functional or Sequential model, or holds a layer, a function or a value of another kind.
    """
    kind, module = _word(found, "class_name"), _word(found, "module")
    if kind not in MODELS or not module.startswith("keras"):
        raise UserError(
            f"--model: {source} is a {kind or 'model'} of {module or 'no module'}, whose layers only its code knows.",
            f"Give a model of one of these kinds: {', '.join(MODELS)}.",
        )
    config = found.get("config")
    layers = config.get("layers") if isinstance(config, dict) else None
    if not isinstance(layers, list) or not 0 < len(layers) <= _MOST_LAYERS:
        raise UserError(
            f"--model: {source} holds no list of 1 to {_MOST_LAYERS:,} layers.", "Save it by Keras 3 again."
        )
    plain: Config = {"name": _name(config, source), "layers": [_layer(layer, kind, source) for layer in layers]}
    if kind == "Functional":
        plain.update({ends: _end(config.get(ends), source) for ends in ("input_layers", "output_layers")})
    elif _word(layers[0], "class_name") != "InputLayer":
        raise UserError(f"--model: {source}: {plain['name']} has no Input.", "Put a keras.Input in front and save it.")
    module = "keras.src.models.functional" if kind == "Functional" else "keras"
    return {"module": module, "class_name": kind, "config": plain, "registered_name": None}


def _layer(found: Any, kind_of_model: str, source: str) -> Config:
    kind, module = _word(found, "class_name"), _word(found, "module")
    config = found.get("config") if isinstance(found, dict) else None
    name = _name(config, source)
    if kind in MODELS:
        plain = plain_model(found, f"{name} in {source}")
    elif not _is_known(kind, module):
        raise _refused(name, f"is a {kind} of {module or 'no module'}", source)
    else:
        plain = {
            "module": module,
            "class_name": kind,
            "config": _values(config, kind, name, source),
            "registered_name": None if module == "keras.layers" else kind,
        }
    if kind_of_model == "Functional":
        plain["name"] = name
        plain["inbound_nodes"] = _nodes(found.get("inbound_nodes"), kind, name, source)
    return plain


def _is_known(kind: str, module: str) -> bool:
    if module == "keras.layers":
        return kind in _LAYERS
    if module == "keras.src.applications.convnext":
        return kind in _OF_CONVNEXT
    return kind in _OPERATIONS.get(module, "").split()


def _values(config: Any, kind: str, layer: str, source: str) -> Config:
    values = {}
    for key, value in config.items():
        if key == "dtype" or value is None or key.endswith(_LEFT_OUT):
            continue  # The type is the run's.
        if key.endswith("activation") and value not in _ACTIVATIONS.split():
            raise _refused(layer, f"has the {key} {_shown(value)}", source)
        if key == "data_format" and value != "channels_last":
            raise _refused(layer, f"has the data_format {_shown(value)}", source)
        if (key in _OTHER_ARITHMETIC and value) or (
            kind == "BatchNormalization" and key == "axis" and not _is_last(value)
        ):
            raise _refused(layer, f"has {key} {_shown(value)}", source)
        if key in _NUMBERS and not _is_of_numbers(value):
            raise _refused(layer, f"has {key} {_shown(value)}", source)
        values[key] = _value(value, layer, source)
    return values


def _is_of_numbers(value: Any) -> bool:
    return all(map(_is_of_numbers, value)) if isinstance(value, list) else isinstance(value, int | float)


def _is_last(axis: Any) -> bool:
    return axis in (-1, 3, [-1], [3])


def _value(value: Any, layer: str, source: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [_value(one, layer, source) for one in value]
    assert isinstance(value, dict)
    kind, module = value.get("class_name"), value.get("module")
    if kind is None:
        return {key: _value(one, layer, source) for key, one in value.items()}
    is_initializer = module == "keras.initializers" and kind in _INITIALIZERS.split()
    if not is_initializer and kind not in _FORMS:
        raise _refused(layer, f"holds a {_shown(kind)} of {_shown(module)}", source)
    if kind == "__keras_tensor__":
        return {"class_name": kind, "config": _tensor(value["config"], layer, source)}
    plain = {"class_name": kind, "config": _value(value.get("config"), layer, source)}
    return {**plain, "module": module, "registered_name": None} if is_initializer else plain


def _tensor(config: Any, layer: str, source: str) -> Config:
    """A layer's output, [layer, 0, 0]; Keras finds its shape anew."""
    history = config["keras_history"]
    if not isinstance(history, list) or len(history) != 3 or not isinstance(history[0], str) or history[1:] != [0, 0]:
        raise _refused(layer, f"takes {_shown(history)}", source)
    return {"shape": [None], "dtype": "float32", "keras_history": history}


def _nodes(found: Any, kind: str, layer: str, source: str) -> list[Config]:
    """How a layer is called: once, or not at all where it is the input."""
    if kind == "InputLayer":
        return []
    if not isinstance(found, list) or len(found) != 1:
        raise _refused(layer, "is called several times, or never", source)
    if not isinstance(found[0], dict) or not isinstance(found[0].get("args"), list):
        raise UserError(
            f"--model: {source} is of Keras 2, whose calls of layers are written otherwise.",
            "Load it by Keras 3 and save it again.",
        )
    named = found[0].get("kwargs")
    arguments = {key: value for key, value in dict(named or {}).items() if key not in ("training", "mask")}
    node: Config = _value({"args": found[0]["args"], "kwargs": arguments}, layer, source)
    return [node]


def _end(found: Any, source: str) -> list[Any]:
    """The only input or output, [layer, 0, 0]."""
    ends = [found] if isinstance(found, list) and found and isinstance(found[0], str) else found
    if not isinstance(ends, list) or len(ends) != 1 or not isinstance(ends[0], list):
        raise UserError(
            f"--model: {source} has several inputs or outputs, or names them.", "Give one from images to classes."
        )
    return [str(ends[0][0]), 0, 0]


def _name(config: Any, source: str) -> str:
    name = config.get("name") if isinstance(config, dict) else None
    if not isinstance(name, str) or not name.replace("_", "a").replace(".", "a").replace("-", "a").isalnum():
        raise UserError(
            f"--model: {source} has a layer called {_shown(name)}.",
            "Give it a name of letters, numbers, _, . and -, and save it again.",
        )
    if not name.isascii() or name[0] in "_-":
        raise UserError(f"--model: {source} has a layer called {_shown(name)}.", "Let its name begin with a letter.")
    return name


def _refused(layer: str, what: str, source: str) -> UserError:
    return UserError(
        f"--model: {source}: the layer {layer} {what}, which isn't taken from a file: it could run any code, or isn't "
        "known here.",
        "Give a model of Keras's own layers, without Lambda and custom ones.",
    )


def _word(found: Any, key: str) -> str:
    value = found.get(key) if isinstance(found, dict) else None
    return value if isinstance(value, str) else ""


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        value = value.get("config") if isinstance(value.get("config"), str) else value.get("class_name")
    return repr(value)[:100]
