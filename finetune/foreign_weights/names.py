"""Foreign names of variables: what was put in front of slim's names and behind them."""

import re
from collections.abc import Iterable, Mapping

from finetune.errors import UserError
from finetune.nets.spec import NetSpec
from finetune.scopes import Shape, in_any_scope

_SUFFIX = re.compile(r"(/read|/ReadVariableOp|:0)+$")


def match_names(foreign: Iterable[str], names: Iterable[str]) -> dict[str, str]:
    """Finds variables under foreign names that may bear a common prefix, and suffixes such as `:0` or `/read`.

    Args:
        foreign: Names in a file.
        names: Names of a network's variables.

    Returns:
        The foreign name by the network's, of those that were found under the prefix that fits most of them.
    """
    by_bare = {_SUFFIX.sub("", name): name for name in foreign}
    wanted = list(names)
    prefixes = {bare.removesuffix(name) for name in wanted for bare in by_bare if bare.endswith("/" + name)}

    def found_under(prefix: str) -> dict[str, str]:
        return {name: by_bare[prefix + name] for name in wanted if prefix + name in by_bare}

    return max((found_under(prefix) for prefix in sorted({"", *prefixes})), key=len)


def count_classes(spec: NetSpec, shapes: Mapping[str, Shape]) -> int | None:
    """Number of outputs of the head whose biases are among the variables; None: it isn't there.

    Args:
        spec: The network's record.
        shapes: By name, foreign prefixes and suffixes allowed.
    """
    for name, shape in shapes.items():
        if len(shape) == 1 and _is_head_bias(_SUFFIX.sub("", name), spec):
            return shape[0]
    return None


def _is_head_bias(name: str, spec: NetSpec) -> bool:
    scope = spec.head_scopes[0]
    inside = name[name.find(f"/{scope}/") + 1 :] if f"/{scope}/" in name else name
    return inside.endswith("/biases") and in_any_scope(inside, [scope])


def check_shapes(source: str, found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> None:
    """Compares the shapes of variables in a file with the network's.

    Raises:
        UserError: They differ; the first one and the number of all are named.
    """
    differing = [name for name, shape in found.items() if shape != expected[name]]
    if differing:
        name = differing[0]
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise UserError(
            f"{source}: {name} is {list(found[name])} in the file and {list(expected[name])} in the network{more}.",
            "Give the --model that the file was made with, and its --num-classes.",
        )
