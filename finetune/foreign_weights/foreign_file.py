"""What every reader of foreign weights gives, whatever the format."""

import abc
import dataclasses
from collections.abc import Mapping

from finetune.model.scopes import Shape
from finetune.nets.spec import NetSpec
from finetune.types import Array


@dataclasses.dataclass(frozen=True)
class FoundWeights:
    """What a file holds of a network.

    Attributes:
        values: Arrays by the network's names, in the network's shapes.
        leftovers: Names in the file that are none of the network's.
        remarks: What the user must know about these weights; a sentence each.
        absent: Names of the network's that such a file may lack, which the remarks tell.
    """

    values: dict[str, Array]
    leftovers: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()


class ForeignFile(abc.ABC):
    """A file of weights that another program wrote."""

    @abc.abstractmethod
    def num_classes(self, spec: NetSpec) -> int | None:
        """Number of the head's outputs; None: it can't be seen in the file."""

    @abc.abstractmethod
    def find_weights(self, spec: NetSpec, shapes: Mapping[str, Shape]) -> FoundWeights:
        """Those of the variables that the file holds, which need not be all.

        Args:
            spec: The network's record.
            shapes: Of all the network's variables by name, in the order in which it makes them.

        Raises:
            UserError: A variable has another shape in the file, or the file is of another network.
        """

    def image_size(self) -> int | None:
        """Height and width in pixels of the images that the file's own network takes; None: any."""
        return None

    def logits(self, images: Array) -> Array | None:
        """The file's own network: float32 [1,H,W,C], preprocessed → logits [num_classes]; None: it has weights only.

        To be called after `find_weights`.

        Raises:
            UserError: The file's network can't be run.
        """
        return None
