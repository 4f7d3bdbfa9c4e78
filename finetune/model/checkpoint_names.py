"""Slim's names for what checkpoints hold under other ones: behind a prefix, or as `tf.train.Checkpoint` names objects.

TensorFlow is not needed but for the object graph of the latter.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from finetune.errors import UserError, did_you_mean, first_line
from finetune.nets import MODELS

# What a run's checkpoints say of the data: no variables of the network, so without a scope. Savers leave them alone.
DATA_CHAIN = "data_chain"
RECORD_FINGERPRINTS = "record_fingerprints"
PSEUDO_LABELS = "pseudo_labels"
PSEUDO_LABELS_STEP = "pseudo_labels_step"
NOTES_ON_DATA = frozenset({DATA_CHAIN, RECORD_FINGERPRINTS, PSEUDO_LABELS, PSEUDO_LABELS_STEP})
# Of a run's folder: which of its checkpoints was the best in validation.
BEST_FILE = "best.json"
OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"

_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_ROOTS = frozenset(spec.root_scope for spec in MODELS.values() if spec.root_scope)


def take_off_prefix(names: Iterable[str], prefix: str, checkpoint: str) -> dict[str, str]:
    """The names below a prefix without it, and those that lie in no scope, such as the step's, as they are.

    Args:
        names: In a checkpoint.
        prefix: A path of whole components.
        checkpoint: What the message calls it.

    Returns:
        The name in the checkpoint by the one without the prefix.

    Raises:
        UserError: Nothing lies below the prefix.
    """
    front = prefix.strip("/") + "/"
    names = list(names)
    below = {name.removeprefix(front): name for name in names if name.startswith(front)}
    if not below:
        roots = sorted({name.split("/")[0] for name in names if "/" in name})
        prefixes = prefixes_of(names)
        raise UserError(
            f"--checkpoint-prefix: nothing in {checkpoint} lies under {front}; its variables lie under "
            f"{', '.join(roots) or 'no scope'}.",
            f"In front of a network's names is --checkpoint-prefix {prefixes[0]}"
            if prefixes
            else "A network's names have none in front: leave out --checkpoint-prefix."
            if _ROOTS.intersection(roots)
            else did_you_mean(prefix, roots),
        )
    return {**{name: name for name in names if "/" not in name}, **below}


def find_prefix(names: Collection[str], stored: Collection[str]) -> tuple[str, int]:
    """The prefix under which a checkpoint holds most of a network's variables, and how many; "", 0: under none.

    Args:
        names: Of the network's variables.
        stored: Names in the checkpoint.
    """
    # By the last component first: all pairs of a large network's names would be a million.
    by_leaf: dict[str, list[str]] = {}
    for name in names:
        by_leaf.setdefault(name.rpartition("/")[2], []).append(name)
    counts: dict[str, int] = {}
    for found in stored:
        for name in by_leaf.get(found.rpartition("/")[2], ()):
            if found.endswith(f"/{name}"):
                prefix = found.removesuffix(f"/{name}")
                counts[prefix] = counts.get(prefix, 0) + 1
    prefix = max(sorted(counts), key=lambda prefix: counts[prefix], default="")
    return prefix, counts.get(prefix, 0)


def prefixes_of(names: Iterable[str]) -> list[str]:
    """What stands in front of the root scope of a network of the table, that of most names first."""
    found: Counter[str] = Counter()
    for name in names:
        components = name.split("/")
        depth = next((depth for depth, word in enumerate(components[:-1]) if word in _ROOTS), 0)
        if depth:
            found["/".join(components[:depth])] += 1
    return [prefix for prefix, _ in found.most_common()]


def names_of_objects(keys: Iterable[str], object_graph: bytes) -> dict[str, str]:
    """The variables of a `tf.train.Checkpoint` by the names that a network here may have for them.

    A variable has two names: its own, and its place among the objects that were saved. Those are taken of which more
    lie under the root scope of a network of the table; what is in front of that scope is taken off. Where neither kind
    does, they are places.

    Args:
        keys: Of the checkpoint.
        object_graph: Its value under `OBJECT_GRAPH`.

    Returns:
        The key by the name.
    """
    places = {_unescaped(key.removesuffix(_VALUE)): key for key in keys if key.endswith(_VALUE)}
    return max((_below_root(_own_names(object_graph)), _below_root(places)), key=len) or places


def _below_root(names: Mapping[str, str]) -> dict[str, str]:
    """Those under a network's root scope and the one prefix that most of them have, without it; and the step."""
    prefixed = prefixes_of(names)
    fronts = ["", *(f"{prefix}/" for prefix in prefixed)]

    def below(front: str) -> dict[str, str]:
        bare = {name.removeprefix(front): key for name, key in names.items() if name.startswith(front)}
        return {name: key for name, key in bare.items() if name.split("/")[0] in _ROOTS}

    best = max(map(below, fronts), key=len)
    return {**{name: key for name, key in names.items() if name == "global_step"}, **best} if best else {}


def _own_names(object_graph: bytes) -> dict[str, str]:
    """Keys by the variables' own names, without those that several bear."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    try:
        nodes = TrackableObjectGraph.FromString(object_graph).nodes
    except DecodeError as error:
        raise UserError(
            f"What the checkpoint says of its objects is damaged: {first_line(error)}.",
            "Copy it again from where it came from, or give another one.",
        ) from error
    attributes = [attribute for node in nodes for attribute in node.attributes]
    times = Counter(attribute.full_name for attribute in attributes)
    return {
        attribute.full_name: attribute.checkpoint_key
        for attribute in attributes
        if attribute.full_name and times[attribute.full_name] == 1
    }


def _unescaped(key: str) -> str:
    """A key as it was before `tf.train.Checkpoint` wrote a slash within a name as `.S` and a dot as `..`."""
    return ".".join(part.replace(".S", "/") for part in key.split(".."))
