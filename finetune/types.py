"""Types of what is handed around: of TensorFlow, which declares none itself, as much as can be said.

NumPy isn't loaded for the sake of a name.
"""

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy.typing as npt

    # An array of NumPy's; docstrings say of which type and shape.
    Array: TypeAlias = npt.NDArray[Any]
else:
    Array = Any

# An eager tensor, or one of a graph.
Tensor: TypeAlias = Any
# A graph of a traced function, and a node of it.
FuncGraph: TypeAlias = Any
Operation: TypeAlias = Any


class Variable(Protocol):
    """A variable of TensorFlow's, of one device or of several.

    Attributes:
        name: In a model, slim's name, without TensorFlow's `:0`.
        shape: Known in full.
        trainable: Whether gradients may reach it.
        handle: The resource that a graph captures.
        dtype: Of its values.
    """

    name: str
    shape: Any
    trainable: bool
    handle: Any
    dtype: Any

    def numpy(self) -> Array:
        """Its value."""
        ...

    def read_value(self) -> Tensor:
        """Its value as a tensor."""
        ...

    def assign(self, value: Any) -> Any:
        """Sets its value."""
        ...

    def assign_sub(self, value: Any) -> Any:
        """Takes something from its value."""
        ...
