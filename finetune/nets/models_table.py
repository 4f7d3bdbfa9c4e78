"""The table of networks as users choose from it. TensorFlow is not needed."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.nets.spec import NetSpec

if TYPE_CHECKING:
    from rich.table import Table


def describe_model(spec: NetSpec) -> dict[str, Any]:
    """What users choose a network by."""
    return {
        "name": spec.name,
        "num_parameters": spec.num_parameters,
        "image_size": spec.published_image_size or spec.image_size,
        "top_1": spec.top_1,
        "top_5": spec.top_5,
        "preprocessing": spec.preprocessing,
        "head_scopes": list(spec.head_scopes),
        "published_file": spec.published_file,
        "paper": spec.paper,
    }


def models_table(models: Sequence[dict[str, Any]]) -> "Table":
    """A row for each network, as `describe_model` describes it."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("network", overflow="fold")
    for name in ("parameters", "pixels", "top-1 %"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("published file", overflow="fold")
    for model in models:
        table.add_row(
            model["name"],
            f"{model['num_parameters']:,}" if model["num_parameters"] else "",
            str(model["image_size"]),
            str(model["top_1"] or ""),
            Path(model["published_file"] or "").name,
        )
    return table
