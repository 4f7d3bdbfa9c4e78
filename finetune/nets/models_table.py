"""The table of networks as users choose from it. TensorFlow is not needed."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.nets.keras_networks.table import Application
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


def describe_application(name: str, application: Application) -> dict[str, Any]:
    """The same of a network of Keras; its head is found in its layers, for which Keras is needed, and not told here."""
    return {
        "name": name,
        "num_parameters": application.num_parameters,
        "image_size": application.image_size,
        "top_1": application.top_1,
        "top_5": application.top_5,
        "preprocessing": application.preprocessing,
        "head_scopes": None,
        "published_file": None,
        "paper": application.paper,
    }


def models_table(models: Sequence[dict[str, Any]]) -> "Table":
    """A row for each network, as it is described."""
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
