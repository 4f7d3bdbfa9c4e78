"""What a checkpoint holds, and how two differ: as data, and as people read it."""

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from finetune.errors import visible
from finetune.types import Array

if TYPE_CHECKING:
    from rich.table import Table

    from finetune.model.checkpoint import Checkpoint

Description = dict[str, Any]


def describe_checkpoint(checkpoint: "Checkpoint") -> Description:
    """What a checkpoint holds, and which network it looks like."""
    from finetune.model.recognise import kind_of, recognise, recognise_under_prefix

    likeness = recognise(checkpoint.shapes)
    prefixed = recognise_under_prefix(checkpoint.shapes) if likeness is None else None
    if prefixed is not None:
        likeness = prefixed[1]
    return {
        "checkpoint": checkpoint.prefix,
        "model": likeness.spec.name if likeness else None,
        "checkpoint_prefix": prefixed[0] if prefixed else None,
        "num_classes": likeness.num_classes if likeness else None,
        "head": likeness.head if likeness else None,
        "global_step": checkpoint.step(),
        "tensors": [
            {
                "name": name,
                "kind": kind_of(name, checkpoint.shapes),
                "shape": list(shape),
                "num_values": math.prod(shape),
            }
            for name, shape in checkpoint.shapes.items()
        ],
    }


def describe_difference(first: "Checkpoint", second: "Checkpoint") -> Description:
    """What two checkpoints do not share: names, shapes, values (with the largest difference of two)."""
    shared = [name for name in first.shapes if name in second.shapes]
    same_shape = [name for name in shared if first.shapes[name] == second.shapes[name]]
    largest = {name: _largest_difference(first.read(name), second.read(name)) for name in same_shape}
    return {
        "first": first.prefix,
        "second": second.prefix,
        "only_in_first": [name for name in first.shapes if name not in second.shapes],
        "only_in_second": [name for name in second.shapes if name not in first.shapes],
        "other_shape": [
            {"name": name, "first": list(first.shapes[name]), "second": list(second.shapes[name])}
            for name in shared
            if name not in largest
        ],
        "other_values": [{"name": name, "largest_difference": value} for name, value in largest.items() if value != 0],
        "num_equal": sum(value == 0 for value in largest.values()),
    }


def tensors_table(holdings: Description) -> "Table":
    """A row for each tensor of a checkpoint, as `describe_checkpoint` describes it."""
    table = _table("tensor", "shape", "values", "kind")
    table.columns[2].justify = "right"
    for tensor in holdings["tensors"]:
        table.add_row(*_texts(tensor["name"], tensor["shape"], f"{tensor['num_values']:,}", tensor["kind"]))
    return table


def kinds_table(holdings: Description) -> "Table":
    """For each kind of tensor how many there are, and how many values they hold."""
    sizes: dict[str, list[int]] = defaultdict(list)
    for tensor in holdings["tensors"]:
        sizes[tensor["kind"]].append(tensor["num_values"])
    table = _table("kind", "tensors", "values")
    for column in table.columns[1:]:
        column.justify = "right"
    for kind in sorted(sizes):
        table.add_row(f"{kind}s", str(len(sizes[kind])), f"{sum(sizes[kind]):,} values")
    return table


def difference_table(difference: Description) -> "Table":
    """A row for each tensor that two checkpoints don't share, as `describe_difference` describes them."""
    table = _table("difference", "tensor", "")
    for place in ("first", "second"):
        for name in difference[f"only_in_{place}"]:
            table.add_row(*_texts(f"only in {place}", name, ""))
    for row in difference["other_shape"]:
        table.add_row(*_texts("other shape", row["name"], f"{row['first']} and {row['second']}"))
    for row in difference["other_values"]:
        table.add_row(*_texts("other values", row["name"], f"by up to {row['largest_difference']:.3g}"))
    return table


def _table(*columns: str) -> "Table":
    """Names of tensors are folded where there is no room for them, and nothing else is."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in columns:
        table.add_column(name, no_wrap=name != "tensor", overflow="fold")
    return table


def _texts(*cells: Any) -> tuple[Any, ...]:
    """Cells in which brackets are brackets, and no style."""
    from rich.text import Text

    return tuple(Text(visible(str(cell))) for cell in cells)


def _largest_difference(first: Array, second: Array) -> float:
    import numpy as np

    if np.array_equal(first, second):
        return 0.0
    return float(np.max(np.abs(first.astype(np.float64) - second.astype(np.float64))))
