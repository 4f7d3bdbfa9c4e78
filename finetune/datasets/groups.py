"""Groups: images that stay together wherever images are divided, such as those of a patient, or copies of a picture."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from finetune.datasets.folders import ImageFolder, canonical_name, readable_name
from finetune.errors import UserError
from finetune.notices import few
from finetune.settings.group_rule import COLUMN, REGEX, GroupRule

MOST_NAMED = 5

# From each file, relative to the image folder, to the name of its group.
Groups = Mapping[str, str]


def groups_of(found: ImageFolder, rule: GroupRule) -> Groups:
    """The group of each image that was found.

    Args:
        found: The images; `found.groups` holds the table's column, where it has the one that the rule names.
        rule: What their groups are known by.

    Raises:
        UserError: Images that the expression doesn't match; all are in one group; it isn't plain whether a column or an
            expression is meant.
    """
    files = [file for classes in found.splits.values() for of_class in classes.values() for file in of_class]
    if found.groups:
        _refuse_ambiguous(files, rule)
        groups = found.groups
    else:
        groups = _by_pattern(files, rule)
    names = set(groups.values())
    if len(names) == 1:
        raise UserError(
            f"--group-by: all {len(files):,} images are in one group, {names.pop()!r}: it can't be divided.",
            "Name what tells them apart: the first part in parentheses is the group's name."
            if rule.pattern and not found.groups
            else "Name another column.",
        )
    return groups


def joined(groups: Groups, pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Groups that are larger: the files of each pair, and whatever is in a group with one of them, are in one.

    Args:
        groups: Files that are in none of them are by themselves.
        pairs: Of files.

    Returns:
        The group of each file that is in `groups` or a pair, by its first name: of those of its parts, or of its files.
    """
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        while (above := parent.setdefault(node, node)) != node:
            parent[node] = node = parent.setdefault(above, above)
        return node

    def join(one: str, other: str) -> None:
        first, second = sorted((root(one), root(other)))
        parent[second] = first

    # A group and a file may be called alike.
    for file, name in groups.items():
        join(f"group {name}", f"image {file}")
    for first, second in pairs:
        join(f"image {first}", f"image {second}")
    files = [node.removeprefix("image ") for node in parent if node.startswith("image ")]
    return {file: readable_name(root(f"image {file}").partition(" ")[2]) for file in sorted(files)}


def refuse_divided(groups: Groups, split_of: Mapping[str, str]) -> None:
    """Makes sure that each group is in one split.

    Args:
        groups: As the user names them.
        split_of: Of each file.

    Raises:
        UserError: Some aren't, by the folders or the table that give the splits.
    """
    splits: dict[str, set[str]] = defaultdict(set)
    for file, name in groups.items():
        splits[name].add(split_of[file])
    divided = [f"{name}: {', '.join(sorted(found))}" for name, found in sorted(splits.items()) if len(found) > 1]
    if divided:
        raise UserError(
            f"--group-by: {len(divided):,} of {len(splits):,} groups are in more than one split, by the folders or the "
            f"table that give the splits ({few(divided, MOST_NAMED, '; ')}).",
            "Move each group into one split, or give the images without splits, to have them divided.",
        )


def _by_pattern(files: Sequence[str], rule: GroupRule) -> dict[str, str]:
    pattern = rule.compiled()
    groups, others = {}, []
    for file in files:
        name = canonical_name(file)
        match = pattern.search(name)
        group = match and (next(filter(None, match.groups()), None) or match[0])
        if group:
            groups[file] = group
        else:
            others.append(readable_name(file))
    if others:
        column = f" There is no column {rule.column} in --labels-csv either." if rule.column else ""
        raise UserError(
            f"--group-by: {len(others):,} of {len(files):,} images have no group: {rule.pattern!r} matches nothing in "
            f"their paths ({few(sorted(others), MOST_NAMED)}).{column}",
            "Write an expression that names the group of every image; an image of its own is matched by its whole "
            "name: '...|.+'.",
        )
    return groups


def _refuse_ambiguous(files: Sequence[str], rule: GroupRule) -> None:
    if not rule.pattern:
        return
    try:
        pattern = rule.compiled()
    except UserError:
        return  # It is a column's name alone.
    if any(pattern.search(canonical_name(file)) for file in files):
        raise UserError(
            f"--group-by {rule.column}: the table has a column of this name, and paths of images match it, too.",
            f"Say which is meant: {COLUMN}{rule.column} or {REGEX}{rule.pattern}",
        )
