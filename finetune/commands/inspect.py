"""`finetune-inspect`: the table of networks, what a checkpoint holds, how two differ, the plan of a training."""

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.commands.command import run_command
from finetune.commands.tensorflow_start import start_tensorflow
from finetune.errors import UserError
from finetune.model.scopes import Purpose, VariablePlan, plan_variables
from finetune.nets import MODELS, get_spec
from finetune.nets.spec import NetSpec
from finetune.published.known_datasets import KNOWN_DATASETS
from finetune.settings.inspect import InspectSettings

if TYPE_CHECKING:
    from finetune.model.checkpoint import Checkpoint

Description = dict[str, Any]


def inspect(settings: InspectSettings) -> None:
    """Prints what the settings ask for.

    Raises:
        UserError: There is nothing to inspect, no checkpoint where one is named, or the plan can't be.
    """
    num_checkpoints = len(settings.checkpoints)
    if settings.models:
        models = [describe_model(spec) for spec in MODELS.values()]
        _print(models, _model_lines(models), settings.json)
    elif settings.model is not None:
        plan = _make_plan(settings)
        _print(describe_plan(plan), _plan_lines(plan), settings.json)
    elif num_checkpoints == 1:
        holdings = describe_checkpoint(_open(settings, settings.checkpoints[0]))
        _print(holdings, _checkpoint_lines(holdings), settings.json)
    elif num_checkpoints == 2:
        difference = describe_difference(*(_open(settings, path) for path in settings.checkpoints))
        _print(difference, _difference_lines(difference), settings.json)
    else:
        raise UserError(
            f"finetune-inspect takes one checkpoint or two, not {num_checkpoints}.",
            "Or give --models for the table of networks, or --model NAME for a plan.",
        )


def describe_model(spec: NetSpec) -> Description:
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


def describe_plan(plan: VariablePlan) -> Description:
    """What becomes of each variable."""
    return {
        "variables": [dataclasses.asdict(variable) for variable in plan.variables],
        "counts": [
            {"from": origin, "in_training": fate, "num_variables": num_variables, "num_parameters": num_parameters}
            for origin, fate, num_variables, num_parameters in plan.counts()
        ],
    }


def _make_plan(settings: InspectSettings) -> VariablePlan:
    from finetune.model.recognise import count_classes, describe_variables, image_size_at, other_model, variable_shapes

    if len(settings.checkpoints) > 1:
        raise UserError("A plan is made from one checkpoint, or from none.", "Leave out --model to compare two.")
    spec = get_spec(str(settings.model))
    checkpoint = _open(settings, settings.checkpoints[0]) if settings.checkpoints else None
    shapes = checkpoint.shapes if checkpoint is not None else None
    num_classes = settings.num_classes or (count_classes(spec, variable_shapes(shapes)) if shapes else None)
    return plan_variables(
        describe_variables(
            spec,
            num_classes or KNOWN_DATASETS["imagenet"].num_classes - spec.label_offset,
            image_size=settings.image_size,
            channels=1 if settings.use_grayscale else None,
        ),
        checkpoint_shapes=shapes,
        exclude_scopes=settings.exclude_scopes,
        trainable_scopes=settings.trainable_scopes,
        head_scopes=spec.head_scopes,
        ignore_missing=settings.ignore_missing_vars,
        use_moving_averages=settings.ema,
        sum_colours=settings.grayscale_stem == "sum",
        purpose=Purpose(
            name_prefix=settings.checkpoint_prefix,
            is_grayscale=settings.use_grayscale,
            is_object_based=checkpoint is not None and checkpoint.is_object_based,
            find_model=other_model(spec.name),
            find_image_size=image_size_at(str(settings.model), 1 if settings.use_grayscale else None),
        ),
    )


def _open(settings: InspectSettings, path: str) -> "Checkpoint":
    from finetune.model.checkpoint import open_checkpoint

    return open_checkpoint(path, name_prefix=settings.checkpoint_prefix, argument="CHECKPOINT", model=settings.model)


def _largest_difference(first: Any, second: Any) -> float:
    import numpy as np

    if np.array_equal(first, second):
        return 0.0
    return float(np.max(np.abs(first.astype(np.float64) - second.astype(np.float64))))


def _print(description: Any, lines: Iterable[str], as_json: bool) -> None:
    if as_json:
        print(json.dumps(description, indent=1))
    else:
        print("\n".join(lines))


def _model_lines(models: Sequence[Description]) -> list[str]:
    rows = [
        (
            model["name"],
            f"{model['num_parameters']:,}" if model["num_parameters"] else "",
            str(model["image_size"]),
            str(model["top_1"] or ""),
            Path(model["published_file"] or "").name,
        )
        for model in models
    ]
    return _columns([("network", "parameters", "pixels", "top-1 %", "published file"), *rows], right=(1, 2, 3))


def _checkpoint_lines(holdings: Description) -> list[str]:
    tensors = holdings["tensors"]
    rows = [(t["name"], str(t["shape"]), f"{t['num_values']:,}", t["kind"]) for t in tensors]
    kinds = sorted({t["kind"] for t in tensors})
    sums = [
        (f"{kind}s", str(len(counts)), f"{sum(counts):,} values")
        for kind in kinds
        if (counts := [t["num_values"] for t in tensors if t["kind"] == kind])
    ]
    classes = f"{holdings['num_classes']} classes" if holdings["num_classes"] else "no head"
    network = f"{holdings['model']}, {classes}" if holdings["model"] else "none of the table"
    if holdings["checkpoint_prefix"]:
        network += f", under the prefix {holdings['checkpoint_prefix']}/ (--checkpoint-prefix)"
    step = holdings["global_step"]
    return [
        *_columns(rows, right=(2,)),
        "",
        f"checkpoint: {holdings['checkpoint']}",
        f"network: {network}",
        f"global step: {step if step is not None else 'none'}",
        *_columns(sums, right=(1, 2)),
    ]


def _difference_lines(difference: Description) -> list[str]:
    first, second = difference["first"], difference["second"]
    return [
        *(f"only in {first}: {name}" for name in difference["only_in_first"]),
        *(f"only in {second}: {name}" for name in difference["only_in_second"]),
        *(f"other shape: {row['name']} {row['first']} and {row['second']}" for row in difference["other_shape"]),
        *(
            f"other values: {row['name']} by up to {row['largest_difference']:.3g}"
            for row in difference["other_values"]
        ),
        f"equal to the bit: {difference['num_equal']} tensors",
    ]


def _plan_lines(plan: VariablePlan) -> list[str]:
    rows = [
        (
            variable.name,
            str(list(variable.shape)),
            "initialised" if variable.source is None else "restored",
            "trained" if variable.is_trained else "frozen",
        )
        for variable in plan.variables
    ]
    sums = [
        (*words, f"{variables:,} variables", f"{parameters:,} values")
        for *words, variables, parameters in plan.counts()
    ]
    return [*_columns(rows), "", *_columns(sums, right=(2, 3))]


def _columns(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Lines with the columns aligned: to the left, but for those of `right`."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _start_and_inspect(settings: InspectSettings) -> None:
    if not settings.models:
        start_tensorflow()
    inspect(settings)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    return run_command(
        InspectSettings,
        _start_and_inspect,
        prog="finetune-inspect",
        description="Shows what a checkpoint holds, how two differ, the plan of a training, or the table of networks.",
        argv=argv,
    )
