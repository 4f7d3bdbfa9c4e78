"""Recipes: settings that were measured to be good together, as defaults for whatever isn't given. docs/recipes.md.

A recipe says nothing of a network: what is trained is said by its layers (`--trainable-layers`).
"""

from collections.abc import Mapping
from typing import Any

from finetune.settings.stage import ALTERNATIVES
from finetune.settings.stages import Stage

AUTO_SCOPES = ("auto",)

_HEAD = {
    "trainable_layers": "head",
    "augmentation": "flip",
    "cache_features": "2",
    "optimizer": "adam",
    "learning_rate": 0.005,
    "learning_rate_decay_type": "cosine",
    "end_learning_rate": 0.0,
    "epochs": 60.0,
}
_BACKBONE = {
    "batch_norm": "frozen",
    "augmentation": "default",
    "optimizer": "momentum",
    "learning_rate": 0.001,
    "learning_rate_decay_type": "cosine",
    "end_learning_rate": 0.0,
    "warmup_epochs": 0.5,
    "weight_decay": 0.0001,
    "epochs": 10.0,
}
_HEAD_FIRST = Stage("head", None, _HEAD)

RECIPES: Mapping[str, Mapping[str, Any]] = {
    "head": _HEAD,
    "head-then-all": {**_BACKBONE, "stages": (_HEAD_FIRST, Stage("all"))},
    "gradual": {
        **_BACKBONE,
        "epochs": 4.0,
        "stages": (_HEAD_FIRST, *(Stage("", None, {"trainable_layers": f"last={n}"}) for n in (2, 3, 4))),
    },
    "last-blocks": {**_BACKBONE, "stages": (_HEAD_FIRST, Stage("last blocks", None, {"trainable_layers": "last=30%"}))},
    "all": {**_BACKBONE, "trainable_layers": "all"},
    "discriminative": {**_BACKBONE, "learning_rate": 0.01, "layer_decay": 0.75, "stages": (_HEAD_FIRST, Stage("all"))},
}


def with_recipe(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of settings with those of the recipe that they name, where they say nothing themselves.

    A run that goes on has its own settings, whatever recipe it was begun with.
    """
    recipe = RECIPES.get(values.get("recipe", ""))
    if recipe is None or values.get("resume"):
        return dict(values)
    said = {name for ways in ALTERNATIVES for name in ways if any(values.get(way) for way in ways)}
    defaults = {"exclude_scopes": AUTO_SCOPES, **recipe}
    return {**{name: value for name, value in defaults.items() if name not in said}, **values}
