"""Heads in the place of a network's own: what is asked for, and the record of a network that has one.

TensorFlow is not needed; the arithmetic is in `finetune.nets.headed`.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from finetune.errors import UserError

if TYPE_CHECKING:
    from finetune.nets.spec import NetSpec

# Of all variables of such a head, and of the layer that gives its logits.
HEAD_SCOPE = "head"
LOGITS_SCOPE = "head/logits"

LINEAR = "linear"
DEFAULT_POOLING = "avg"

Shapes = Mapping[str, tuple[int, ...]]
Groups = tuple[tuple[str, ...], ...]

_HIDDEN_BIASES = re.compile(rf"{HEAD_SCOPE}/hidden_(\d{{1,4}})/biases", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Head:
    """A head on the last feature map: pooling, hidden layers with ReLU, logits.

    Attributes:
        hidden_sizes: Units of each hidden layer, from the map to the logits.
        dropout: Probability that a value is dropped, in training, before each dense layer.
        pooling: What the map is pooled by, over all of the image: "avg", "max", or "concat", both side by side.
    """

    hidden_sizes: tuple[int, ...] = ()
    dropout: float = 0.0
    pooling: str = DEFAULT_POOLING

    @property
    def description(self) -> str:
        """As `--head` takes it."""
        return f"mlp:{','.join(map(str, self.hidden_sizes))}" if self.hidden_sizes else LINEAR

    @property
    def flags(self) -> str:
        """By which the same network is made, without its dropout, which has no variables."""
        pooling = f" --head-pooling {self.pooling}" if not self.hidden_sizes or self.pooling != DEFAULT_POOLING else ""
        return f"--head {self.description}{pooling}"


class DescribesHead(Protocol):
    """Settings that say which head there is: `--head`, `--head-dropout`, `--head-pooling`."""

    @property
    def head(self) -> str:
        """`linear`, or `mlp:` and the hidden layers' sizes, parted by commas."""

    @property
    def head_dropout(self) -> float:
        """As `Head.dropout`."""

    @property
    def head_pooling(self) -> str | None:
        """As `Head.pooling`; None: it isn't said."""


class DescribesNetwork(DescribesHead, Protocol):
    """Settings that also name the network."""

    @property
    def model(self) -> str:
        """As `--model` takes it."""


def head_of(described: DescribesHead) -> Head | None:
    """The head that settings, whose form has been checked, describe; None: the network's own.

    A linear head is the network's own unless its pooling or its dropout is said: the own heads of some networks are
    three layers on a map that isn't pooled, and to change one of the two in them would be another thing in each.
    """
    sizes = described.head.partition(":")[2]
    head = Head(
        tuple(int(size) for size in sizes.split(",")) if sizes else (),
        described.head_dropout,
        described.head_pooling or DEFAULT_POOLING,
    )
    is_own = described.head_pooling is None and head == Head()
    return None if is_own else head


def head_in(shapes: Shapes) -> str | None:
    """The description of the head among variables, by their names and shapes; None: there is none but the network's.

    What isn't seen there is how it pools.
    """
    if not any(name.startswith(f"{LOGITS_SCOPE}/") for name in shapes):
        return None
    vectors = {name: shape for name, shape in shapes.items() if len(shape) == 1}  # A file may say anything.
    found = {int(match[1]): size for name, (size,) in vectors.items() if (match := _HIDDEN_BIASES.fullmatch(name))}
    return Head(tuple(found[number] for number in sorted(found))).description


def flags_for_head_in(there: Shapes, here: Shapes) -> str:
    """In words, the flags by which a network gets the head of a checkpoint; empty where it has it already.

    Args:
        there: Names and shapes in the checkpoint.
        here: Those of the network.
    """
    head, own = head_in(there), head_in(here)
    if head is None:
        return "the network's own, without --head, --head-dropout and --head-pooling" if own is not None else ""
    if own is None:
        return f"--head {head} --head-pooling avg, max or concat, as it was trained"
    # Twice as many features as the map has channels: that is concat.
    num_there, num_here = _num_features(there), _num_features(here)
    pooling = "" if num_there == num_here else "concat" if num_there > num_here else "avg or max, as it was trained"
    if head == own:
        return pooling and f"--head-pooling {pooling}"
    return f"--head {head} --head-pooling {pooling}" if pooling else f"--head {head}"


def _num_features(shapes: Shapes) -> int:
    kernels = (f"{HEAD_SCOPE}/hidden_1/weights", f"{LOGITS_SCOPE}/weights")
    return next((shapes[name][0] for name in kernels if len(shapes.get(name, ())) == 2), 0)


def with_head(spec: "NetSpec", head: Head | None) -> "NetSpec":
    """The record of a network with a head in the place of its own, and of all else behind its last feature map.

    Args:
        spec: Of the network with its own head.
        head: None: it stays.

    Raises:
        UserError: The network's record doesn't say that another head can be put on.
    """
    if head is None:
        return spec
    if spec.num_top_groups is None:
        raise UserError(
            f"{head.flags}: {spec.name} takes no other head than its own, by its record.",
            "Leave out --head, --head-dropout and --head-pooling. Or, in a record of your own, add num_top_groups, the "
            "number of layer_groups behind the last feature map, and let its function return that map [B,H,W,C] in "
            "place of the logits where num_classes is None.",
        )
    return dataclasses.replace(
        spec,
        function="finetune.nets.headed:headed",
        arguments={"body": spec, "head": head},
        head=head,
        head_scopes=(HEAD_SCOPE,),
        layer_groups=(*_groups(spec)[0], (HEAD_SCOPE,)),
        num_top_groups=None,
        has_auxiliary_logits=False,
        num_parameters=None,
        top_1=None,
        top_5=None,
    )


def head_in_words(spec: "NetSpec") -> str:
    """What a network with another head than its own has, and in place of what."""
    assert spec.head is not None
    body: NetSpec = spec.arguments["body"]
    replaced = [scope for group in _groups(body)[1] for scope in group]
    dropout = f", dropout {spec.head.dropout:g}" if spec.head.dropout else ""
    return (
        f"Head: {spec.head.description}{dropout}, on the last feature map of {spec.name}, pooled by "
        f"{spec.head.pooling}, in place of {', '.join(replaced)}"
        f"{', and so without auxiliary logits' if body.has_auxiliary_logits else ''}."
    )


def _groups(spec: "NetSpec") -> tuple[Groups, Groups]:
    """Those up to the last feature map, and those behind it."""
    num_body_groups = len(spec.layer_groups) - (spec.num_top_groups or 0)
    return spec.layer_groups[:num_body_groups], spec.layer_groups[num_body_groups:]
