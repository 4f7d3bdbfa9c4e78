"""Which layer of a Keras application is which layer of a slim network, told by their names; no TensorFlow.

Layers that bear a name in Keras are translated by rules. Those that Keras numbers (`conv2d_17`,
`batch_normalization_17`) are taken in the order of their numbers: both libraries make them from the stem to the last
block, branch by branch.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

from finetune.errors import UserError
from finetune.model.scopes import in_any_scope
from finetune.nets.spec import NetSpec

Rules = Sequence[tuple[str, str]]

_CELL = r"(?P<cell>(?:stem_|reduce_|)\d+)"


@dataclasses.dataclass(frozen=True)
class Application:
    """A network of Keras Applications whose arithmetic is a slim network's.

    Attributes:
        name: Of the function in `keras.applications`.
        rules: Pattern of a layer's whole name in Keras, and the slim scope below the root scope.
        width_argument: What Keras calls slim's `depth_multiplier`; None: it comes in one width.
        pads_with_zeros: Whether the pooling of its reduction cells takes the border for zeros, which slim leaves out.
    """

    name: str
    rules: Rules
    width_argument: str | None = None
    pads_with_zeros: bool = False


_VGG: Rules = (
    (r"block(\d)_conv(\d)", r"conv\1/conv\1_\2"),
    (r"fc1", "fc6"),
    (r"fc2", "fc7"),
    (r"predictions", "fc8"),
)
_INCEPTION_V3: Rules = ((r"predictions", "Logits/Conv2d_1c_1x1"),)
_INCEPTION_RESNET_V2: Rules = (
    (r"block35_(\d+)_conv", r"Repeat/block35_\1/Conv2d_1x1"),
    (r"block17_(\d+)_conv", r"Repeat_1/block17_\1/Conv2d_1x1"),
    (r"block8_10_conv", "Block8/Conv2d_1x1"),
    (r"block8_(\d+)_conv", r"Repeat_2/block8_\1/Conv2d_1x1"),
    (r"conv_7b", "Conv2d_7b_1x1"),
    (r"conv_7b_bn", "Conv2d_7b_1x1/BatchNorm"),
    (r"predictions", "Logits/Logits"),
)
_MOBILENET: Rules = (
    (r"conv1", "Conv2d_0"),
    (r"conv1_bn", "Conv2d_0/BatchNorm"),
    (r"conv_dw_(\d+)", r"Conv2d_\1_depthwise"),
    (r"conv_dw_(\d+)_bn", r"Conv2d_\1_depthwise/BatchNorm"),
    (r"conv_pw_(\d+)", r"Conv2d_\1_pointwise"),
    (r"conv_pw_(\d+)_bn", r"Conv2d_\1_pointwise/BatchNorm"),
    (r"conv_preds", "Logits/Conv2d_1c_1x1"),
)
_MOBILENET_V2: Rules = (
    (r"Conv1", "Conv"),
    (r"bn_Conv1", "Conv/BatchNorm"),
    (r"expanded_conv_(depthwise|project)", r"expanded_conv/\1"),
    (r"expanded_conv_(depthwise|project)_BN", r"expanded_conv/\1/BatchNorm"),
    (r"block_(\d+)_(expand|depthwise|project)", r"expanded_conv_\1/\2"),
    (r"block_(\d+)_(expand|depthwise|project)_BN", r"expanded_conv_\1/\2/BatchNorm"),
    (r"Conv_1", "Conv_1"),
    (r"Conv_1_bn", "Conv_1/BatchNorm"),
    (r"predictions", "Logits/Conv2d_1c_1x1"),
)
# `{cell}` is filled in with the cell's scope in slim, `{place}` with a combination's place in its cell, counted from 0.
_NASNET: Rules = (
    (r"stem_conv1", "conv0"),
    (r"stem_bn1", "conv0_bn"),
    (rf"(?:normal|reduction)_conv_1_{_CELL}", "{cell}/1x1"),
    (rf"(?:normal|reduction)_bn_1_{_CELL}", "{cell}/beginning_bn"),
    (rf"adjust_conv_(?P<n>[12])_{_CELL}", "{cell}/path{n}_conv"),
    (rf"adjust_conv_projection_{_CELL}", "{cell}/prev_1x1"),
    (rf"adjust_bn_{_CELL}", "{cell}/final_path_bn|{cell}/prev_bn"),
    # The fifth combination of a reduction cell is the fourth with weights, and so called in Keras.
    (rf"separable_conv_(?P<n>[12])_reduction_left4_{_CELL}", "{cell}/comb_iter_4/left/separable_{n}"),
    (rf"separable_conv_(?P<n>[12])_bn_reduction_left4_{_CELL}", "{cell}/comb_iter_4/left/bn_sep_{n}"),
    (
        rf"separable_conv_(?P<n>[12])_(?:normal|reduction)_(?P<side>left|right)(?P<place>\d)_{_CELL}",
        "{cell}/comb_iter_{place}/{side}/separable_{n}",
    ),
    (
        rf"separable_conv_(?P<n>[12])_bn_(?:normal|reduction)_(?P<side>left|right)(?P<place>\d)_{_CELL}",
        "{cell}/comb_iter_{place}/{side}/bn_sep_{n}",
    ),
    (r"predictions", "final_layer/FC"),
)

APPLICATIONS = {
    "vgg_16": Application("VGG16", _VGG),
    "vgg_19": Application("VGG19", _VGG),
    "inception_v3": Application("InceptionV3", _INCEPTION_V3),
    "inception_resnet_v2": Application("InceptionResNetV2", _INCEPTION_RESNET_V2),
    **{f"mobilenet_v1{width}": Application("MobileNet", _MOBILENET, "alpha") for width in ("", "_075", "_050", "_025")},
    **{f"mobilenet_v2{width}": Application("MobileNetV2", _MOBILENET_V2, "alpha") for width in ("", "_140", "_035")},
    "nasnet_mobile": Application("NASNetMobile", _NASNET, pads_with_zeros=True),
    "nasnet_large": Application("NASNetLarge", _NASNET, pads_with_zeros=True),
}

_RESNET_V2_DIFFERENCES = (
    "its pooling windows lie one pixel further to the upper left, and its batch norm has an epsilon of 1.001e-5, not "
    "1e-5"
)
_RESNET_V1_DIFFERENCES = (
    f"{_RESNET_V2_DIFFERENCES}; its convolutions have biases, and its stages begin with the convolution of stride 2 "
    "that slim has at the end of the stage before"
)
# Networks that Keras has under the name of slim's, and what they compute otherwise.
NAMESAKES = {
    **{f"resnet_v1_{depth}": _RESNET_V1_DIFFERENCES for depth in (50, 101, 152)},
    **{f"resnet_v2_{depth}": _RESNET_V2_DIFFERENCES for depth in (50, 101, 152)},
}


def get_application(spec: NetSpec) -> Application:
    """The Keras application of a network.

    Raises:
        UserError: There is none, or it computes something else.
    """
    if spec.head is not None:
        raise UserError(
            f"Keras's applications have heads of their own, not {spec.head.flags}.",
            "Take another format: --format saved_model holds any network.",
        )
    if spec.name in APPLICATIONS:
        return APPLICATIONS[spec.name]
    if spec.name in NAMESAKES:
        raise UserError(
            f"Keras's {spec.name} is another network under the same name: {NAMESAKES[spec.name]}.",
            f"Take the published checkpoint instead: finetune-download {spec.name}.",
        )
    raise UserError(f"Keras Applications has no {spec.name}.", f"It has {', '.join(APPLICATIONS)}.")


def scopes_in_keras(spec: NetSpec, variables: Iterable[str]) -> list[str]:
    """Scopes of the layers that an application has too, below the root scope; those of auxiliary heads it has not.

    Args:
        spec: The slim network's record.
        variables: Names of all its variables, in the order in which it makes them.
    """
    root = f"{spec.root_scope}/" if spec.root_scope else ""
    needed = (name for name in variables if not in_any_scope(name, spec.head_scopes[1:]))
    return list(dict.fromkeys(name.removeprefix(root).rpartition("/")[0] for name in needed))


def width_arguments(spec: NetSpec) -> dict[str, float]:
    """What an application must be told to come in a network's width."""
    width_argument = get_application(spec).width_argument
    return {width_argument: spec.arguments.get("depth_multiplier", 1.0)} if width_argument else {}


def match_layers(rules: Rules, layers: Sequence[str], scopes: Sequence[str]) -> dict[str, str]:
    """Finds the slim scope of each Keras layer.

    Args:
        rules: Of the application.
        layers: Names of its layers that have weights.
        scopes: Of the slim network's layers, below the root scope, in the order of creation.

    Returns:
        A scope by layer name, for the layers that have one.
    """
    cells = _number_cells(layers)
    by_plain_scope = {_without_kernel_size(scope): scope for scope in scopes}
    matches = {}
    for layer in layers:
        for candidate in _translate(layer, rules, cells):
            if candidate in by_plain_scope:
                matches[layer] = by_plain_scope[candidate]
    left = [scope for scope in scopes if scope not in matches.values()]
    normalisations = [scope for scope in left if scope.endswith("/BatchNorm")]
    convolutions = [scope for scope in left if scope not in normalisations]
    matches.update(zip(_numbered("conv2d", layers), convolutions, strict=False))
    matches.update(zip(_numbered("batch_normalization", layers), normalisations, strict=False))
    return matches


def _translate(layer: str, rules: Rules, cells: Mapping[str, str]) -> list[str]:
    for pattern, template in rules:
        match = re.fullmatch(pattern, layer)
        if match:
            parts = match.groupdict()
            if "cell" in parts:
                parts["cell"] = cells[parts["cell"]]
            if "place" in parts:
                parts["place"] = str(int(parts["place"]) - 1)
            return match.expand(template).format(**parts).split("|")
    return []


def _number_cells(layers: Iterable[str]) -> dict[str, str]:
    """The scope of each of NASNet's cells. Keras counts normal cells and reduction cells as one series, slim as two."""
    found = {match[1] for layer in layers if (match := re.search(r"_((?:stem_|reduce_|)\d+)$", layer))}
    cells = {}
    for prefix, scope in (("stem_", "cell_stem"), ("reduce_", "reduction_cell"), ("", "cell")):
        numbers = sorted(int(name.removeprefix(prefix)) for name in found if re.fullmatch(rf"{prefix}\d+", name))
        cells.update({f"{prefix}{number}": f"{scope}_{index}" for index, number in enumerate(numbers)})
    return cells


def _without_kernel_size(scope: str) -> str:
    """A scope of NASNet without the kernel's size, which Keras doesn't name: `separable_1` for `separable_5x5_1`."""
    return re.sub(r"(separable|bn_sep)_\dx\d_", r"\1_", scope)


def _numbered(kind: str, layers: Iterable[str]) -> list[str]:
    """The layers that Keras named itself, in the order of their numbers; the first one ever made has none."""
    matches = [match for layer in layers if (match := re.fullmatch(rf"{kind}(?:_(\d+))?", layer))]
    return [match[0] for match in sorted(matches, key=lambda match: int(match[1] or 0))]
