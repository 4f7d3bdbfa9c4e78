"""Recipes: settings that were measured to be good together, as defaults for whatever isn't given. docs/recipes.md.

A recipe says nothing of a network: what is trained is said by its layers (`--trainable-layers`). Where more than a head
is trained the head comes first, at its optimum: random, it would send large gradients into layers that have learned
already (Kumar et al., arXiv:2202.10054). What a second stage does is said around the stages, so that flags change it.
"""

from collections.abc import Mapping
from typing import Any

from finetune.settings.choices import FROM_SCRATCH, SINGLE_LABEL
from finetune.settings.head import LINEAR
from finetune.settings.stage import ALTERNATIVES
from finetune.settings.stages import Stage

AUTO_SCOPES = ("auto",)
NO_RECIPE = "none"
DEFAULT_RECIPE = "last-blocks"

_OF_ALL = {"exclude_scopes": AUTO_SCOPES, "precision": "auto"}
_PROBE = {
    "trainable_layers": "head",
    "probe": True,
    "max_steps": 0,
    "augmentation": "flip",
    "cache_features": "2",
}
_PROBE_FIRST = Stage("probe", 0, {name: value for name, value in _PROBE.items() if name != "max_steps"})
_FALLING_RATE = {"learning_rate_decay_type": "cosine", "end_learning_rate": 0.0}
_HEAD = {
    **_FALLING_RATE,
    "trainable_layers": "head",
    "augmentation": "flip",
    "cache_features": "2",
    "optimizer": "adam",
    "learning_rate": 0.005,
    "epochs": 60.0,
}
_HEAD_FIRST = Stage("head", None, _HEAD)
# The statistics of batch norm that the weights were trained with: batches of a few dozen have worse ones.
_BACKBONE = {
    **_FALLING_RATE,
    "batch_norm": "frozen",
    "augmentation": "flip",
    "optimizer": "adam",
    "learning_rate": 0.0003,
    "warmup_epochs": 0.5,
    "weight_decay": 0.0001,
    "epochs": 10.0,
}

_CHANGED_GROUPS = {"network", "course", "stage", "devices"}
_WHAT_IS_TRAINED = {"stages", "exclude_scopes", *ALTERNATIVES[1]}

RECIPES: Mapping[str, Mapping[str, Any]] = {
    "probe": _PROBE,
    "head": _HEAD,
    "head-then-all": {**_BACKBONE, "stages": (_HEAD_FIRST, Stage("all"))},
    "gradual": {
        **_BACKBONE,
        "epochs": 4.0,
        "stages": (_PROBE_FIRST, *(Stage("", None, {"trainable_layers": f"last={n}"}) for n in (2, 3, 4, 5))),
    },
    "last-blocks": {
        **_BACKBONE,
        "trainable_layers": "last=30%",
        "cache_features": "2",
        "epochs": 20.0,
        "stages": (_PROBE_FIRST, Stage("last blocks")),
    },
    "all": {**_BACKBONE, "stages": (_PROBE_FIRST, Stage("all"))},
    "discriminative": {**_BACKBONE, "layer_decay": 0.75, "stages": (_PROBE_FIRST, Stage("all"))},
}


def with_recipe(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of settings with those of a recipe, where they say nothing themselves.

    A training of photographs has the default one, unless it is said what is trained, by scopes as in slim, by layers
    or by stages, or begins from scratch. A run that goes on has its own settings, whatever recipe it was begun with.
    A head with hidden layers has no optimum that a probe could find, and one of several labels an image none that it
    looks for: where one comes first, steps train it instead.
    """
    name = values.get("recipe")
    if values.get("resume"):
        return dict(values)
    if name is None and _is_of_photographs(values) and _WHAT_IS_TRAINED.isdisjoint(values):
        name = DEFAULT_RECIPE
    if not isinstance(name, str) or name not in RECIPES:
        return dict(values)
    whole = _CHANGED_GROUPS.intersection(values)
    if whole:  # Nobody knows any more what in them was given.
        raise TypeError(f"A recipe lies below flat values, not below a whole group: {', '.join(sorted(whole))}.")
    said = {way for ways in ALTERNATIVES for way in ways if any(values.get(other) is not None for other in ways)}
    defaults = {**_OF_ALL, **RECIPES[name]}
    has_optimum = values.get("head", LINEAR) == LINEAR and values.get("task", SINGLE_LABEL) == SINGLE_LABEL
    if not has_optimum and "stages" in defaults:
        defaults["stages"] = tuple(_HEAD_FIRST if stage is _PROBE_FIRST else stage for stage in defaults["stages"])
    kept = {setting: value for setting, value in defaults.items() if setting not in said}
    return {**kept, **values, "recipe": name}


def _is_of_photographs(values: Mapping[str, Any]) -> bool:
    """Of photographs, and with weights that there are layers of to keep."""
    is_from_scratch = str(values.get("checkpoint")) == FROM_SCRATCH
    return bool(values.get("photographs") or values.get("images_dir")) and not is_from_scratch
