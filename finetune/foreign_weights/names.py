"""Foreign names of variables: what was put in front of slim's names and behind them."""

import re
from collections.abc import Iterable, Mapping

from finetune.errors import UserError
from finetune.model.recognise import count_classes
from finetune.model.scopes import Shape
from finetune.nets.spec import NetSpec

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


def count_foreign_classes(spec: NetSpec, shapes: Mapping[str, Shape]) -> int | None:
    """Number of outputs of a network's head, from its biases under a foreign name; None: they aren't there."""
    inside = f"/{spec.head_scopes[0]}/"
    bare = {_SUFFIX.sub("", name): shape for name, shape in shapes.items()}
    return count_classes(spec, {name[max(0, name.find(inside) + 1) :]: shape for name, shape in bare.items()})


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
            "Give the --model that the file was made with, its --head and its --num-classes.",
        )
