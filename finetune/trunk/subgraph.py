"""A part of a traced graph as a function that can be called in another graph."""

from collections.abc import Mapping, Sequence

import tensorflow as tf

from finetune.types import FuncGraph, Operation, Tensor, Variable

# By them `tf.custom_gradient` marks an operation; gradients that are registered by another name go with a copy.
_GRADIENT_ATTRIBUTE = "_gradient_op_type"
_GRADIENT_IN_PYTHON = b"CustomGradient"


class Subgraph:
    """The operations between given tensors and the operations wanted; calling it puts a copy of them into a graph.

    What the graph captured of variables is bound anew at each call, by the variables' handles in the context of the
    call, so that a copy reads and trains the same variables.
    """

    def __init__(
        self,
        graph: FuncGraph,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        variables: Mapping[str, Variable],
        effects: Sequence[Operation] = (),
    ) -> None:
        """Cuts the part out.

        Args:
            graph: Where the pass was traced.
            inputs: Tensors that a call gives values for.
            outputs: Tensors that a call returns.
            variables: Those that the graph may have captured, by any name.
            effects: Operations to be run besides, such as updates of variables.
        """
        self._input_names = [tensor.name for tensor in inputs]
        self._output_names = [tensor.name for tensor in outputs]
        wanted = operations_between(inputs, [*(tensor.op for tensor in outputs), *effects])
        by_handle = {id(variable.handle): variable for variable in variables.values()}
        self._captured = {
            inner.name: by_handle.get(id(outer), outer) for outer, inner in graph.captures if inner.op.name in wanted
        }
        placeholders = {name.split(":")[0] for name in [*self._input_names, *self._captured]}
        self._definition = graph.as_graph_def()
        kept = [node for node in self._definition.node if node.name in wanted and node.name not in placeholders]
        del self._definition.node[:]
        self._definition.node.extend(kept)
        names = {node.name for node in kept}
        for node in self._definition.node:
            data = [name for name in node.input if not name.startswith("^")]
            order = [name for name in node.input if name.startswith("^") and name[1:] in names]
            del node.input[:]
            node.input.extend([*data, *order])

    def gradients_in_python(self) -> list[str]:
        """Names of operations whose gradients are functions of Python's: bound to the first graph, lost in a copy."""
        marked = [node for node in self._definition.node if _GRADIENT_ATTRIBUTE in node.attr]
        return [node.name for node in marked if node.attr[_GRADIENT_ATTRIBUTE].s.startswith(_GRADIENT_IN_PYTHON)]

    def __call__(self, *values: Tensor) -> list[Tensor]:
        """Puts a copy into the current graph.

        Args:
            values: One for each of `inputs`.

        Returns:
            One tensor for each of `outputs`.
        """
        given = dict(zip(self._input_names, values, strict=True))
        for name, captured in self._captured.items():
            given[name] = captured.handle if hasattr(captured, "handle") else captured
        passed_on = {name: given[name] for name in self._output_names if name in given}
        computed = [name for name in self._output_names if name not in given]
        needed = {_tensor_name(name) for node in self._definition.node for name in node.input}
        tensors = tf.graph_util.import_graph_def(
            self._definition,
            input_map={name: tf.convert_to_tensor(value) for name, value in given.items() if name in needed},
            return_elements=computed,
            name="",
        )
        return [passed_on[name] if name in passed_on else tensors[computed.index(name)] for name in self._output_names]


def operations_between(inputs: Sequence[Tensor], wanted: Sequence[Operation]) -> set[str]:
    """Names of the operations that the wanted ones need, themselves included, up to the inputs."""
    names: set[str] = set()
    given = {tensor.name for tensor in inputs}
    pending = list(wanted)
    while pending:
        operation = pending.pop()
        if operation.name not in names:
            names.add(operation.name)
            pending += [tensor.op for tensor in operation.inputs if tensor.name not in given]
    return names


def _tensor_name(name: str) -> str:
    return name if ":" in name else f"{name}:0"
