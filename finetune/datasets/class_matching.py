"""Which class of a network a data set's label means: told by the names, since the numbers follow each folder's sorting.

A class folder `Functional` sorts before `defective`, and `functional` behind it: compared by number, a sound network is
right on 5 % of such images in place of 95 %. No TensorFlow.
"""

import dataclasses
import logging
import unicodedata
from collections.abc import Callable, Sequence

from finetune.datasets.dataset import Dataset
from finetune.errors import UserError, nearest
from finetune.notices import few

MOST_LISTED = 10

log = logging.getLogger("finetune")


def match_labels(
    dataset: Dataset,
    names: Sequence[str] | None,
    owner: str,
    *,
    labels_offset: int = 0,
    how: str | None = None,
    may_lack_classes: bool = False,
    other_mend: str = "Give the records of its classes.",
) -> Dataset:
    """The data set with each label's place among a network's classes, where both have names.

    Args:
        dataset: A split.
        names: Of the network's classes, in the order of its outputs; None: they aren't known.
        owner: Whose names they are, for messages.
        labels_offset: Subtracted from the labels; so many names of the data set have no output.
        how: One of `WAYS_TO_MATCH`, or None.
        may_lack_classes: Whether the data may have some of the network's classes only.
        other_mend: What else helps where the names differ.

    Returns:
        The same data set where names are equal, unknown or not to count; else one with `outputs`. What is matched
        otherwise than by equal lists is said in a line.

    Raises:
        UserError: The names differ; both lists are shown.
    """
    if names is None or how == "index":
        return dataset
    if dataset.class_names is None:
        return _match_by_number(dataset, names, owner, labels_offset)
    data = dataset.class_names[labels_offset:]
    if tuple(data) == tuple(names):
        return dataset
    positions = _positions(data, names, how)
    lacking = [] if positions is None else [name for place, name in enumerate(names) if place not in positions]
    if positions is None or (lacking and not may_lack_classes):
        raise UserError(
            f"The classes of {dataset.name} are not those of {owner}:\n{_side_by_side(data, names)}",
            _mend(data, names, how, may_lack_classes, other_mend),
        )
    _say(dataset, owner, data, names, positions, lacking)
    return dataclasses.replace(dataset, outputs=positions, num_network_outputs=len(names))


def output_order(names: Sequence[str], wanted: Sequence[str], owner: str, how: str | None = None) -> tuple[int, ...]:
    """Which output of a network stands for each of the wanted classes, those of another network.

    Args:
        names: Of the network's classes, in the order of its outputs.
        wanted: The other's.
        owner: Whose names `names` are, for messages.
        how: One of `WAYS_TO_MATCH`, or None.

    Raises:
        UserError: The networks don't have the same classes.
    """
    order = tuple(range(len(names))) if list(names) == list(wanted) else _positions(wanted, names, how)
    if order is None or len(order) < len(names):
        raise UserError(
            f"--compare: the classes of {owner} are not the other's:\n{_side_by_side(wanted, names, 'the other')}",
            "Compare runs on the same classes, with the same --labels-offset.",
        )
    return order


def _positions(data: Sequence[str], names: Sequence[str], how: str | None) -> tuple[int, ...] | None:
    exact = _find_positions(data, names, str)
    return _find_positions(data, names, _folded) if exact is None and how == "name" else exact


def _find_positions(data: Sequence[str], names: Sequence[str], key: Callable[[str], str]) -> tuple[int, ...] | None:
    """Where each of `data` is among `names`; None where one isn't, or where a name is there twice."""
    places = {key(name): place for place, name in enumerate(names)}
    wanted = [key(name) for name in data]
    if len(places) < len(names) or len(set(wanted)) < len(wanted) or not set(wanted) <= set(places):
        return None
    return tuple(places[name] for name in wanted)


def _match_by_number(dataset: Dataset, names: Sequence[str], owner: str, labels_offset: int) -> Dataset:
    num_classes = dataset.num_classes - labels_offset
    if num_classes <= len(names):
        log.info("%s has no names of its classes: its labels are taken for the numbers of %s's.", dataset.name, owner)
        return dataclasses.replace(dataset, num_network_outputs=len(names))
    raise UserError(
        f"{dataset.name} has labels for {num_classes} classes, {owner} has {len(names)}: {few(names, MOST_LISTED)}.",
        "Give the records of its classes.",
    )


def _say(
    dataset: Dataset,
    owner: str,
    data: Sequence[str],
    names: Sequence[str],
    positions: Sequence[int],
    lacking: Sequence[str],
) -> None:
    of_data = f"The classes of {dataset.name} ({few(data, MOST_LISTED)})"
    if lacking:
        log.info("%s are some of %s's, matched by name; it lacks %s.", of_data, owner, few(lacking, MOST_LISTED))
    else:
        matched = [names[position] for position in positions]
        spelling = "" if matched == list(data) else f", as {few(matched, MOST_LISTED)}"
        log.info(
            "%s are in another order than %s's (%s): matched by name%s.",
            of_data,
            owner,
            few(names, MOST_LISTED),
            spelling,
        )


def _side_by_side(data: Sequence[str], names: Sequence[str], whose: str = "data") -> str:
    """The classes that only one side has, those that look alike in one row."""
    only_data = [name for name in data if name not in names]
    rows = []
    for name in (name for name in names if name not in data):
        alike = nearest(name, only_data, most=1)
        only_data = [other for other in only_data if other not in alike]
        rows.append((name, *alike) if alike else (name, "-"))
    rows += [("-", name) for name in only_data]
    if not rows:
        return "  a name stands there twice, so that they can't be told apart."
    width = max(len("network"), *(len(name) for name, _ in rows))
    lines = [f"  {'network':{width}}  {whose}", *(f"  {ours:{width}}  {theirs}" for ours, theirs in rows[:MOST_LISTED])]
    if len(rows) > MOST_LISTED:
        lines.append(f"  and {len(rows) - MOST_LISTED} more")
    num_shared = len(set(data) & set(names))
    shared = {0: "No name is the same.", 1: "1 name is the same."}.get(num_shared, f"{num_shared} names are the same.")
    return "\n".join([*lines, f"  {shared}"])


def _mend(data: Sequence[str], names: Sequence[str], how: str | None, may_lack_classes: bool, other_mend: str) -> str:
    """Only what helps: by names where they can be paired, by numbers where there are as many."""
    folded = _find_positions(data, names, _folded)
    advice = []
    if how is None and folded is not None and (may_lack_classes or len(data) == len(names)):
        advice.append("--match-labels name takes them for the same.")
    if len(data) == len(names):
        advice.append("--match-labels index goes by the numbers of the labels.")
    return " ".join([*advice, other_mend])


def _folded(name: str) -> str:
    """The name without letter case, accents' form, spaces, hyphens and underscores."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(character for character in folded if character not in " -_")
