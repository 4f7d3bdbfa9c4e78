"""Networks by name. The table holds lazy imports: reading it needs no TensorFlow."""

import importlib
from pathlib import Path

from finetune.errors import UserError, did_you_mean
from finetune.nets.heads import DescribesNetwork, head_of, with_head
from finetune.nets.keras_networks.model_file import is_model_file
from finetune.nets.keras_networks.table import APPLICATIONS
from finetune.nets.spec import NetSpec
from finetune.nets.table import SPECS
from finetune.remote.urls import is_url

# Those of slim's; records of Keras's are made from its layers when they are asked for.
MODELS: dict[str, NetSpec] = {spec.name: spec for spec in SPECS}
NAMES = (*MODELS, *APPLICATIONS)


def get_spec(name: str) -> NetSpec:
    """The network called `name`, or one from outside this package: `package.module:SPEC`, a `NetSpec` there, or
    a file `my.keras`.

    Raises:
        UserError: No network has that name; the nearest are named.
    """
    if ":" in name:
        return _import_spec(name)
    if name in APPLICATIONS:
        from finetune.nets.keras_networks.record import application_record

        return application_record(name)
    if is_model_file(name):
        from finetune.nets.keras_networks.file_record import file_record

        return file_record(name)
    if name not in MODELS:
        raise UserError(f"--model: there is no network {name!r}.", did_you_mean(name, NAMES))
    return MODELS[name]


def spec_of(network: DescribesNetwork) -> NetSpec:
    """The network that settings name, with the head that they describe.

    Raises:
        UserError: There is no such network, or it takes no other head than its own.
    """
    return with_head(get_spec(network.model), head_of(network))


def _import_spec(name: str) -> NetSpec:
    module_name, _, attribute = name.partition(":")
    if is_url(name):
        raise UserError(
            f"--model: {name}: a network's file is read from this machine alone.", "Fetch it, and give that."
        )
    if not module_name or not attribute:
        raise UserError(f"--model is {name!r}, which is no package.module:SPEC.", _how_to_find(module_name))
    try:
        spec = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"--model: {name} can't be imported: {error}.", _how_to_find(module_name)) from error
    if not isinstance(spec, NetSpec):
        raise UserError(f"--model: {name} is a {type(spec).__name__}, not a finetune.nets.spec.NetSpec.")
    return spec


def _how_to_find(module_name: str) -> str:
    """What to do about a module that isn't found.

    The current folder isn't searched by itself, for the name may come from the settings of a run, and the folder from
    anywhere.
    """
    first = module_name.partition(".")[0]
    if first and (Path(first).is_dir() or Path(f"{first}.py").is_file()):
        return f"{first} lies in the current folder, which is searched with PYTHONPATH=. before the command."
    return "It must be package.module:SPEC, in an installed package or in a folder that PYTHONPATH names."
