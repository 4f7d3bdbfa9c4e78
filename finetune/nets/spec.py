"""What is known of a network beside its arithmetic: one frozen record for each, TensorFlow not needed."""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any

from finetune.nets.heads import LOGITS_SCOPE, Head


@dataclasses.dataclass(frozen=True)
class NetSpec:
    """A network of the table.

    Attributes:
        name: As `--model` takes it; slim's `--model_name`.
        function: "module:function". Called as `function(images, num_classes, is_training=..., **arguments)` inside
            `finetune.nets.layers.layer_modes`; returns the logits [B,num_classes] and the end points by name. With
            `num_classes` None, where there are `num_top_groups`, it returns the last feature map [B,H,W,C] in place of
            the logits, and makes no layer behind it.
        root_scope: The first component of all its variables' names.
        image_size: Height and width in pixels where none are asked for: slim's default.
        head_scopes: Scopes of the layers that depend on the number of classes.
        layer_groups: Scopes from input to output, every variable in exactly one: for freezing by depth and for
            learning-rate multipliers.
        num_top_groups: How many of the groups, counted from the output, lie behind the last feature map, for which
            another head is put in place: 1 where that is the own head alone. None: the network takes no other.
        head: What was put in place of its own head; None: it has its own.
        preprocessing: The row of the preprocessing table that fits the published weights.
        paper: Where the network is from.
        arguments: Further arguments of the function.
        channels: Of the images that the published weights take.
        has_auxiliary_logits: Whether there is an end point `AuxLogits` in training.
        label_offset: What must be taken off ImageNet's 1001 labels (0 is background) to fit the published weights: 1
            for networks with 1000 outputs.
        num_parameters: Trained values, with the head for ImageNet, or for ten classes where the images have 32 pixels
            or less; without an auxiliary head.
        published_image_size: Height and width in pixels that the published weights were trained at, where they are
            not `image_size`.
        published_file: Address of the archive with the published checkpoint, or None.
        top_1: Published ImageNet accuracy in percent, or None.
        top_5: Likewise.
        batch_norm_epsilon: What its batch norms add to the variance.
    """

    name: str
    function: str
    root_scope: str
    image_size: int
    head_scopes: tuple[str, ...]
    layer_groups: tuple[tuple[str, ...], ...]
    preprocessing: str
    paper: str
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    num_top_groups: int | None = None
    head: Head | None = None
    channels: int = 3
    has_auxiliary_logits: bool = False
    label_offset: int = 0
    num_parameters: int | None = None
    published_image_size: int | None = None
    published_file: str | None = None
    top_1: float | None = None
    top_5: float | None = None
    batch_norm_epsilon: float = 0.001

    @property
    def logits_scopes(self) -> tuple[str, ...]:
        """Scopes of the layers that give logits, the main ones first: of another head not the hidden layers."""
        return self.head_scopes if self.head is None else (LOGITS_SCOPE,)

    def load_function(self) -> Callable[..., tuple[Any, dict[str, Any]]]:
        """Imports the network's function, and with it TensorFlow."""
        module_name, _, function_name = self.function.partition(":")
        function: Callable[..., tuple[Any, dict[str, Any]]] = getattr(
            importlib.import_module(module_name), function_name
        )
        return function
