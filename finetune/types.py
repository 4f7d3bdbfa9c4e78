"""Types of what TensorFlow hands around, for which it declares none: the names say what a value is."""

from typing import Any, TypeAlias

# An eager tensor, or one of a graph.
Tensor: TypeAlias = Any
# A graph of a traced function, and a node of it.
FuncGraph: TypeAlias = Any
Operation: TypeAlias = Any
