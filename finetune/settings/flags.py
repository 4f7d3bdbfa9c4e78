"""Settings whose fields are flags: what a flag is, which values it takes, and the classes that hold them.

A command's settings are a frozen dataclass, derived from `CommandSettings`. A field made by `flag()` is a flag; one
made by `group()` is a settings class of its own, whose fields are flags, too. Each class is a section of `--help`.
To whoever gives values, the settings are flat: on the command line, in a TOML file, and in Python alike,

    TrainSettings(dataset_dir=Path("records"), max_steps=100)

while a function that needs a part of them takes that group, `settings.data` or `settings.stage.schedule`.

Every value is checked in one place, when the settings are made, whoever gives it: its kind, what the flag allows, and
home directories. A path that begins with `~` or `~user` lies in one, wherever it comes from: the command line, also
behind an equals sign where shells leave it as it is, a TOML file, or Python. `$HOME` and the like are the shell's
affair.
"""

import abc
import dataclasses
import functools
import math
import numbers
import os
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from finetune.errors import UserError, did_you_mean
from finetune.files.whole_files import KEEP_BYTES
from finetune.remote.urls import is_url, local_path, lost_its_slashes, url_of

Access = Literal["read", "restore", "write", "save"]

MOST_NAME_BYTES = 255  # Of Linux's file systems.
MOST_FLOAT = 3.4028234663852886e38  # Of float32, in which TensorFlow computes.


class Tabular(abc.ABC):
    """A kind of value with parts: a table in a TOML file, a word on the command line."""

    @classmethod
    @abc.abstractmethod
    def of_table(cls, table: Mapping[str, Any]) -> Self:
        """The value that a table stands for.

        Raises:
            UserError: It stands for none.
        """

    @classmethod
    @abc.abstractmethod
    def of_text(cls, text: str) -> Self:
        """The value that a word stands for.

        Raises:
            UserError: It stands for none.
        """

    @abc.abstractmethod
    def table(self) -> dict[str, Any]:
        """As `of_table` reads it back."""


@dataclasses.dataclass(frozen=True)
class Flag:
    """A setting as the command line has it.

    Attributes:
        name: Of the field.
        kind: Type of the value, or of each value of a list: bool, int, float, str, Path, or a `Tabular`.
        is_list: Whether the value is a tuple.
        is_optional: Whether it may be None, which stands for "not given".
        words: Texts that may stand in place of a value of its kind, by the field's type: `float | Literal["auto"]`.
        default: `dataclasses.MISSING` where the flag must be given.
        section: Title of the settings class that the field belongs to.
        help, slim, choices, above, at_least, below, at_most, metavar, positional, is_path, num_values, is_recorded,
            only_default, access: As `flag` takes them.
    """

    name: str
    kind: type
    is_list: bool
    is_optional: bool
    words: tuple[str, ...]
    default: Any
    section: str
    help: str
    slim: tuple[str, ...]
    choices: tuple[str, ...] | None
    above: float | None
    at_least: float | None
    below: float | None
    at_most: float | None
    metavar: str | None
    positional: bool
    is_path: bool
    num_values: int | None
    is_recorded: bool
    only_default: bool
    access: Access | None

    @property
    def option(self) -> str:
        """As it is written on the command line."""
        return (self.metavar or self.name) if self.positional else dashed(self.name)

    @property
    def is_required(self) -> bool:
        """Whether there are no settings without it."""
        return self.default is dataclasses.MISSING


def flag(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    slim: Sequence[str] = (),
    choices: Collection[str] | None = None,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    metavar: str | None = None,
    positional: bool = False,
    is_path: bool = False,
    num_values: int | None = None,
    is_recorded: bool = True,
    only_default: bool = False,
    access: Access | None = None,
) -> Any:
    """A field of a settings class that is a flag.

    The rules hold for each value of a list; numbers that are not finite, or beyond float32, are never allowed, nor
    what no file can be called where a path is expected.

    Args:
        default: The field's default; without one the flag must be given.
        help: One line for `--help`.
        slim: Other names of the flag, as TF-Slim's scripts spell them.
        choices: The only values allowed.
        above: The value must be greater.
        at_least: The value must not be smaller.
        below: The value must be smaller.
        at_most: The value must not be greater.
        metavar: How the value is called in `--help`.
        positional: The words of the command line that are not flags; the field's type is `tuple[str, ...]`.
        is_path: The values are paths though the field's type is a string, since some are globs, or `-`.
        num_values: How many words follow the flag, in place of a comma-separated list; the field's type is a tuple.
        is_recorded: Whether a run's config.toml holds it: what a command does once, such as resuming, is no setting.
        only_default: The flag is accepted, for old command lines, but no other value than the default; `help` says why.
        access: Of a path, what is done there: it may be a URL, of which a copy is then at hand. "read": a file or
            folder; "restore": a checkpoint, with what describes it beside it; "write": a file or folder, with what is
            there before; "save": a checkpoint, likewise.
    """
    metadata = {
        "help": help,
        "slim": tuple(slim),
        "choices": tuple(choices) if choices is not None else None,
        "above": above,
        "at_least": at_least,
        "below": below,
        "at_most": at_most,
        "metavar": metavar,
        "positional": positional,
        "is_path": is_path,
        "num_values": num_values,
        "is_recorded": is_recorded and not only_default,
        "only_default": only_default,
        "access": access,
    }
    return dataclasses.field(default=default, metadata=metadata)


def group() -> Any:
    """A field of a settings class that is itself a settings class: a part of the program's, and a section's flags."""
    return dataclasses.field(metadata={"is_group": True})


class CommandSettings:
    """The base of all settings classes; what they are given is checked, and paths in home directories are expanded.

    A class with groups is declared by `dataclasses.dataclass(frozen=True, init=False)`. It is made from flat values,
    from whole groups, or from both, the values then taking the place of the groups' own; so
    `dataclasses.replace(settings, max_steps=5)` works, too.

    Attributes:
        title: Of the section of `--help` that the class's own flags stand in.

    Raises:
        UserError: A value that its flag doesn't allow.
    """

    title: ClassVar[str] = "Options"

    def __init__(self, **values: Any) -> None:
        own_class: type = type(self)
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            if field.metadata.get("is_group"):
                settings_class = _hints(own_class)[field.name]
                own = {each.name: values.pop(each.name) for each in flags_of(settings_class) if each.name in values}
                value = dataclasses.replace(values.pop(field.name), **own) if field.name in values else None
                object.__setattr__(self, field.name, settings_class(**own) if value is None else value)
            elif field.name in values or field.default is not dataclasses.MISSING:
                object.__setattr__(self, field.name, values.pop(field.name, field.default))
            else:
                raise TypeError(f"{type(self).__name__} needs {field.name}.")
        if values:
            raise TypeError(f"{type(self).__name__} has no {', '.join(values)}.")
        self.__post_init__()

    def __post_init__(self) -> None:
        """To be called first by a subclass that has one of its own, for what several flags must agree on."""
        for each in flags_of(type(self)):
            if each.name in vars(self):  # A group has checked its own.
                object.__setattr__(self, each.name, checked(each, getattr(self, each.name)))


def flags_of(settings_class: type) -> tuple[Flag, ...]:
    """All flags of a settings class and of its groups, section by section."""
    return _kept_flags(settings_class)


def flat_values(settings: Any) -> dict[str, Any]:
    """The values of settings and of all their groups, by the names of the flags."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        values |= flat_values(value) if field.metadata.get("is_group") else {field.name: value}
    return values


def names_urls(settings: Any) -> bool:
    """Whether a path among the values of settings is that of a copy of what lies at a URL."""
    values = flat_values(settings)
    paths = (values[flag.name] for flag in flags_of(type(settings)) if flag.access is not None)
    items = (item for value in paths for item in (value if isinstance(value, tuple) else (value,)))
    return any(item is not None and url_of(item) is not None for item in items)


def checked(flag: Flag, value: Any) -> Any:
    """The value as settings hold it: a list as a tuple, a path's text as a path, `~` as the directory it stands for.

    Raises:
        UserError: It isn't of the flag's kind, or not allowed.
    """
    if flag.only_default and value != flag.default:
        raise UserError(f"{flag.option} can only be {flag.default!r}: {flag.help}.", "Leave the flag out.")
    if value is None and flag.is_optional:
        return None
    if isinstance(value, str) and value in flag.words:
        return value
    if not flag.is_list:
        return _checked_item(flag, value)
    if isinstance(value, str | Path) or not isinstance(value, Collection):
        raise UserError(f"{flag.option} is {value!r}, but must be a list.")
    if flag.num_values is not None and value and len(value) != flag.num_values:
        raise UserError(f"{flag.option} takes {flag.num_values} values, not {len(value)}.")
    return tuple(_checked_item(flag, item) for item in value)


def of_another_kind(flag: Flag, value: Any) -> UserError:
    """The mistake of giving a flag what is no value of its kind."""
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}
    kind = kinds.get(flag.kind, "a table")
    return UserError(f"{flag.option} is {value!r}, but must be {' or '.join([kind, *flag.words])}.")


def dashed(name: str) -> str:
    """A field's name as a flag."""
    return "--" + name.replace("_", "-")


def expand_home(name: str, path: Any) -> Any:
    """A path or string with a home directory in place of the `~` or `~user` that it begins with.

    Raises:
        UserError: There is no such user; `name` is the flag that the message names.
    """
    text = str(path)
    if not text.startswith("~"):
        return path
    expanded = os.path.expanduser(text)  # noqa: PTH111  Path.expanduser takes no globs.
    if expanded == text:
        user = text.partition("/")[0][1:]
        why = f"there is no user {user!r}" if user else "no home directory is known"
        raise UserError(
            f"{name}: {text} begins with ~, but {why}.",
            f"If that is a name of its own, write the path in full: {Path.cwd() / text}.",
        )
    return type(path)(expanded)


def check_path(name: str, path: Any) -> None:
    """Refuses what no file or folder can be called, before anything is done with it.

    Raises:
        UserError: It is empty, holds a zero byte, or a part of it is longer than a name can be; `name` is the flag's.
    """
    text = str(path)
    if not text:
        raise UserError(f"{name} is '', but must be a path.", "Give . for the current folder.")
    if "\0" in text:
        raise UserError(f"{name} is {text!r}, but no path holds a zero byte.")
    for part in text.split("/"):
        num_bytes = len(part.encode("utf-8", KEEP_BYTES))
        if num_bytes > MOST_NAME_BYTES:
            raise UserError(
                f"{name} is a path with a name of {num_bytes:,} bytes, {part[:40]}…; a file's or folder's has at most "
                f"{MOST_NAME_BYTES}."
            )


def path_of_text(option: str, text: str) -> Path:
    """The path that a text stands for: of a URL that of its copy.

    Raises:
        UserError: It is a URL at which no file can be; `option` is the flag that the message names.
    """
    if not is_url(text):
        return Path(text)
    check_path(option, text)
    return local_path(text, option)


def _checked_item(flag: Flag, value: Any) -> Any:
    if flag.is_path or flag.kind is Path:
        value = _path_of_url(flag, value)
    converted = _of_kind(flag.kind, value)
    if converted is None:
        raise of_another_kind(flag, value)
    if flag.choices is not None and converted not in flag.choices:
        raise UserError(
            f"{flag.option} is {converted!r}, not one of {', '.join(flag.choices)}.",
            did_you_mean(converted, flag.choices),
        )
    if isinstance(converted, float) and not math.isfinite(converted):
        raise UserError(f"{flag.option} is {converted}, but must be a finite number.")
    if isinstance(converted, float) and abs(converted) > MOST_FLOAT:
        raise UserError(
            f"{flag.option} is {converted}, but must be a number of up to {MOST_FLOAT:g}, as float32 has it."
        )
    if not all(holds(converted, bound) for holds, bound in _bounds(flag).values()):
        raise UserError(f"{flag.option} is {converted}, but must be {_range_of(flag)}.")
    if not (flag.is_path or flag.kind is Path):
        return converted
    check_path(flag.option, value)  # Before a path makes a dot of nothing.
    return expand_home(flag.option, converted)


def _path_of_url(flag: Flag, value: Any) -> Any:
    """Of a URL the path of its copy, as a value of the flag's kind; any other value as it is."""
    if isinstance(value, Path) and lost_its_slashes(value):
        raise UserError(
            f"{flag.option} is {value}: a URL with a slash too few, as one has that was made a Path.",
            "Write both slashes, in Python as a text; or give the folder of this name by its whole path.",
        )
    return flag.kind(path_of_text(flag.option, value)) if isinstance(value, str) and is_url(value) else value


def _of_kind(kind: type, value: Any) -> Any:
    """The value as one of that kind; None where it is none."""
    if kind is Path:
        return Path(value) if isinstance(value, str | os.PathLike) else None
    if issubclass(kind, Tabular):
        return kind.of_table(value) if isinstance(value, Mapping) else value if isinstance(value, kind) else None
    if kind is int and isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    if kind is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
        return float(value)
    return value if isinstance(value, kind) and kind in (bool, str) else None


def _bounds(flag: Flag) -> dict[str, tuple[Any, float]]:
    """The tests that a number must pass, by their words, with the bound of each."""
    tests = {
        "above": (lambda value, bound: value > bound, flag.above),
        "at least": (lambda value, bound: value >= bound, flag.at_least),
        "below": (lambda value, bound: value < bound, flag.below),
        "at most": (lambda value, bound: value <= bound, flag.at_most),
    }
    return {words: (holds, bound) for words, (holds, bound) in tests.items() if bound is not None}


def _range_of(flag: Flag) -> str:
    return " and ".join(f"{words} {bound}" for words, (_, bound) in _bounds(flag).items())


def _own_and_grouped(settings_class: type) -> Iterator[Flag]:
    for field, owner in _fields_by_section(settings_class):
        hint = _hints(settings_class)[field.name]
        if field.metadata.get("is_group"):
            yield from flags_of(hint)
        elif "help" in field.metadata:
            yield _make_flag(field, hint, owner.title)


def _fields_by_section(settings_class: type) -> list[tuple[dataclasses.Field[Any], Any]]:
    """Each field with the class that declares it: those of the class itself, then those of its bases."""
    bases = settings_class.__mro__
    fields = [
        (field, next(base for base in bases if field.name in vars(base).get("__annotations__", {})))
        for field in dataclasses.fields(settings_class)
    ]
    return sorted(fields, key=lambda field_and_owner: bases.index(field_and_owner[1]))


# Whatever settings are made asks for both, thousands of times in a command: that was half a second of a short training.
# Callers ask `flags_of`, since mypy gives dataclasses themselves the hash of their objects, which may have none.
@functools.cache
def _kept_flags(settings_class: type) -> tuple[Flag, ...]:
    return tuple(_own_and_grouped(settings_class))


@functools.cache
def _hints(settings_class: type) -> Mapping[str, Any]:
    return typing.get_type_hints(settings_class)


def _make_flag(field: dataclasses.Field[Any], hint: Any, section: str) -> Flag:
    is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    alternatives = typing.get_args(hint) if is_union else (hint,)
    literals = [each for each in alternatives if typing.get_origin(each) is typing.Literal]
    kind = next(each for each in alternatives if each is not type(None) and each not in literals)
    is_list = typing.get_origin(kind) is tuple
    return Flag(
        name=field.name,
        kind=typing.get_args(kind)[0] if is_list else kind,
        is_list=is_list,
        is_optional=type(None) in alternatives,
        words=tuple(word for literal in literals for word in typing.get_args(literal)),
        default=field.default,
        section=section,
        **field.metadata,
    )
