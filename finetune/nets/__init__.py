"""Networks by name. The table holds lazy imports: reading it needs no TensorFlow."""

from finetune.errors import UserError, did_you_mean
from finetune.nets.spec import NetSpec
from finetune.nets.table import SPECS

MODELS: dict[str, NetSpec] = {spec.name: spec for spec in SPECS}


def get_spec(name: str) -> NetSpec:
    """The network called `name`.

    Raises:
        UserError: No network has that name; the nearest are named.
    """
    if name not in MODELS:
        raise UserError(f"--model: there is no network {name!r}.", did_you_mean(name, MODELS))
    return MODELS[name]
