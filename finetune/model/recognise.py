"""What a checkpoint holds, told from names and shapes: network, number of classes, averages, optimizer slots."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping

from finetune.errors import UserError
from finetune.model.checkpoint_names import NOTES_ON_DATA, prefixes_of
from finetune.model.scopes import MOVING_AVERAGE_SUFFIX, NetworkVariable, Shape, in_any_scope, in_scope
from finetune.nets import MODELS, get_spec
from finetune.nets.heads import HEAD_SCOPE, Head, head_in, with_head
from finetune.nets.keras_networks.table import APPLICATIONS
from finetune.nets.spec import NetSpec

VARIABLE = "variable"
STATISTIC = "moving statistic"
AVERAGE = "moving average"
SLOT = "optimizer slot"
COUNTER = "counter"
ON_DATA = "note on data"

LARGEST_IMAGE_SIZE = 1024

IMAGENET_CLASSES = 1000
_STATISTICS = ("moving_mean", "moving_variance")
_KERAS_STATISTICS = (*_STATISTICS, "mean", "variance")


@dataclasses.dataclass(frozen=True)
class Likeness:
    """A network of the table whose trunk a checkpoint holds.

    Attributes:
        spec: Of the network with its own head.
        num_classes: Number of the logits in the checkpoint; None: it has no head.
        head: As `--head` describes the head that is in the checkpoint; None: it is the network's own, or there is none.
    """

    spec: NetSpec
    num_classes: int | None
    head: str | None = None


def kind_of(name: str, names: Iterable[str]) -> str:
    """What a tensor of a checkpoint is. A slot lies in the scope of its variable: `.../weights/Momentum`.

    Args:
        name: The tensor's.
        names: All in the checkpoint; a mapping or set.
    """
    if name.endswith(MOVING_AVERAGE_SUFFIX):
        return AVERAGE
    if name in NOTES_ON_DATA:
        return ON_DATA
    if "/" not in name:
        return COUNTER
    scope, leaf = name.rsplit("/", 1)
    if scope in names:
        return SLOT
    return STATISTIC if leaf in _STATISTICS else VARIABLE


def variable_shapes(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Names and shapes of the network's own variables; an average stands for its variable."""
    kinds = {name: kind_of(name, shapes) for name in shapes}
    return {
        name.removesuffix(MOVING_AVERAGE_SUFFIX): shapes[name]
        for name, kind in kinds.items()
        if kind not in (SLOT, COUNTER, ON_DATA)
    }


def recognise(shapes: Mapping[str, Shape]) -> Likeness | None:
    """The network whose variables, but for those of its heads, are in a checkpoint in the same shapes; None: none is.

    Args:
        shapes: Of a checkpoint's tensors, by name.
    """
    found = variable_shapes(shapes)
    head = head_in(found)
    for own in (*MODELS.values(), *map(get_spec, _keras_networks_of_the_size(found))):
        spec = own if head is None else with_head(own, Head())  # Which other head it is doesn't matter to the trunk.
        if _may_be(spec, found) and _is(spec, found):
            return Likeness(own, count_classes(spec, found), head)
    return None


def recognise_under_prefix(shapes: Mapping[str, Shape]) -> tuple[str, Likeness] | None:
    """As `recognise`, where a prefix stands in front of the names, and that prefix; None: there is none, or no network.

    Args:
        shapes: Of a checkpoint's tensors, by name.
    """
    for prefix in prefixes_of(shapes):
        bare = {name.removeprefix(f"{prefix}/"): shape for name, shape in shapes.items() if in_scope(name, prefix)}
        likeness = recognise(bare)
        if likeness is not None:
            return prefix, likeness
    return None


def other_model(model: str) -> Callable[[Mapping[str, Shape]], str | None]:
    """A function that names the network whose variables a checkpoint holds, where it is another one than `model`."""

    def find(shapes: Mapping[str, Shape]) -> str | None:
        likeness = recognise(shapes)
        return likeness.spec.name if likeness is not None and likeness.spec.name != model else None

    return find


def image_size_at(spec: NetSpec, channels: int | None) -> Callable[[str, Shape], int | None]:
    """A function that finds the image size at which a variable of a network has a given shape, if there is one.

    Args:
        spec: The network's record.
        channels: Of the images; None: the network's own.
    """

    def shape_at(size: int, name: str) -> Shape:
        try:
            variables = describe_variables(spec, num_classes=1, image_size=size, channels=channels)
        except (UserError, ValueError):  # Too few pixels.
            return (0,)
        return next(variable.shape for variable in variables if variable.name == name)

    def find(name: str, shape: Shape) -> int | None:
        if shape_at(spec.image_size, name) == shape:
            return spec.image_size
        low, high = 1, LARGEST_IMAGE_SIZE
        while low < high:
            middle = (low + high) // 2
            if math.prod(shape_at(middle, name)) < math.prod(shape):
                low = middle + 1
            else:
                high = middle
        return low if shape_at(low, name) == shape else None

    return find


def count_classes(spec: NetSpec, shapes: Mapping[str, Shape]) -> int | None:
    """Number of outputs of a network's head, from its biases; None: they aren't there."""
    for name, shape in shapes.items():
        if name.endswith(("/biases", "/bias")) and in_any_scope(name, spec.logits_scopes[:1]):
            return shape[0]
    return None


def describe_variables(
    spec: NetSpec, num_classes: int, image_size: int | None = None, channels: int | None = None
) -> list[NetworkVariable]:
    """Names and shapes of a network's variables, without giving them values.

    Args:
        spec: The network's record.
        num_classes: Number of logits.
        image_size: Height and width of the images in pixels; None: the network's own.
        channels: Of the images; None: the network's own.
    """
    import tensorflow as tf

    from finetune.model.model import Model

    # Made in a graph, a variable takes no memory.
    with tf.Graph().as_default():
        model = Model(spec, num_classes, image_size=image_size, channels=channels, initialise=False)
    return model.network_variables()


def _keras_networks_of_the_size(found: Mapping[str, Shape]) -> list[str]:
    """Names of Keras's networks that have as many parameters, but for what another number of classes makes of them.

    The records of Keras's networks are made from their layers, each in about a second: too long for all of them.
    """
    if not any(name.endswith("/kernel") for name in found):
        return []
    trained = {
        name: shape
        for name, shape in found.items()
        if name.rpartition("/")[2] not in _KERAS_STATISTICS and not in_scope(name, HEAD_SCOPE)
    }
    num_parameters = sum(math.prod(shape) for shape in trained.values())
    heads = {shape[-2:] for name, shape in trained.items() if name.endswith("/kernel") and set(shape[:-2]) <= {1}}
    # A head of K classes on D features has (D + 1) * K parameters, one that is missing none.
    differences = {(depth + 1) * (IMAGENET_CLASSES - classes) for depth, classes in heads}
    return [
        name
        for name, application in APPLICATIONS.items()
        if (more := application.num_parameters - num_parameters) in differences
        or (more > 0 and more % IMAGENET_CLASSES == 0)
    ]


def _may_be(spec: NetSpec, found: Mapping[str, Shape]) -> bool:
    """Whether the layers, by their scopes, are the network's: quick, but also true of a network of another width."""
    scopes = [scope for group in spec.layer_groups for scope in group]
    trunk = [scope for scope in scopes if not in_any_scope(scope, spec.head_scopes)]
    has_all_layers = all(any(in_any_scope(name, [scope]) for name in found) for scope in trunk)
    return has_all_layers and all(in_any_scope(name, scopes) for name in found)


def _is(spec: NetSpec, found: Mapping[str, Shape]) -> bool:
    expected = describe_variables(spec, num_classes=1)
    return all(
        found.get(variable.name) == variable.shape
        for variable in expected
        if not in_any_scope(variable.name, spec.head_scopes)
    )
