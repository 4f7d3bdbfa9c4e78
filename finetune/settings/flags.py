"""Command-line flags made from the fields of a settings dataclass.

A command's settings are one frozen dataclass; every field made by `flag()` is a flag. A flag is written with dashes or
underscores, as `--flag value` or `--flag=value`; a boolean as `--flag`, `--flag=false`, `--no-flag` or absl's
`--noflag`; a tuple as a comma-separated list, or by giving the flag several times. TF-Slim's old names are aliases of
the field that carries their meaning. `--config FILE.toml` gives defaults for all flags; what the command line says wins
over it.

A path that begins with `~` or `~user` lies in a home directory, wherever it comes from: the command line, also behind
an equals sign where shells leave it as it is, a TOML file, or Python. `$HOME` and the like are the shell's affair.
"""

import argparse
import dataclasses
import itertools
import os
import tomllib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from finetune import __version__
from finetune.errors import UserError, did_you_mean
from finetune.whole_files import read_text

Settings = TypeVar("Settings")

TRUE_WORDS = ("true", "t", "1", "yes", "y")
FALSE_WORDS = ("false", "f", "0", "no", "n")

# absl's own logging flags, which every slim command line may carry. Our logs always go to standard error.
ABSL_FLAGS = ("alsologtostderr", "logtostderr", "verbosity", "stderrthreshold", "v")


def flag(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    slim: Sequence[str] = (),
    choices: Sequence[str] | None = None,
    metavar: str | None = None,
    positional: bool = False,
    is_path: bool = False,
    num_values: int | None = None,
    is_recorded: bool = True,
    only_default: bool = False,
) -> Any:
    """A dataclass field that is also a command-line flag.

    Args:
        default: The field's default; without one the flag must be given.
        help: One line for `--help`.
        slim: Other names of the flag, as TF-Slim's scripts spell them.
        choices: The only values allowed.
        metavar: How the value is called in `--help`.
        positional: The words of the command line that are not flags; the field's type is `tuple[str, ...]`.
        is_path: The values are paths though the field's type is a string, since some are globs, or `-`.
        num_values: How many words follow the flag, in place of a comma-separated list; the field's type is a tuple.
        is_recorded: Whether `to_toml_table` holds it: what a command does once, such as resuming, is no setting.
        only_default: The flag is accepted, for old command lines, but no other value than the default; `help` says why.
    """
    metadata = {
        "help": help,
        "slim": tuple(slim),
        "choices": choices,
        "metavar": metavar,
        "positional": positional,
        "is_path": is_path,
        "num_values": num_values,
        "is_recorded": is_recorded and not only_default,
        "only_default": only_default,
    }
    return dataclasses.field(default=default, metadata=metadata)


class CommandSettings:
    """The base of all settings: their paths are expanded, also those of settings that Python code makes.

    Raises:
        UserError: A path begins with the name of a user whom the system doesn't know.
    """

    def __post_init__(self) -> None:
        """To be called first by a subclass that has a `__post_init__` of its own."""
        for name, value in _expand_paths(type(self), vars(self)).items():
            object.__setattr__(self, name, value)  # The settings are frozen.


def parse_flags(
    settings_class: type[Settings],
    argv: Sequence[str],
    *,
    prog: str,
    description: str,
    find_config: Callable[[Mapping[str, Any]], Path | None] = lambda given: None,
) -> Settings:
    """Reads a command line, and the TOML file that it names with `--config`, into `settings_class`.

    Args:
        settings_class: A dataclass with `flag()` fields.
        argv: The words after the program's name.
        prog: The program's name.
        description: What it does, for `--help`.
        find_config: Names the TOML file to read where there is no `--config`, by the settings on the command line.

    Raises:
        UserError: An unknown flag (the nearest is named), a value of the wrong kind, a required flag that is missing.
    """
    parser = build_parser(settings_class, prog, description)
    arguments = vars(parser.parse_args(_normalise(argv, _boolean_options(settings_class))))
    given = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in arguments.items()
        if name != "config" and value is not None
    }
    given = _expand_paths(settings_class, given)
    config = _expand_home("--config", Path(arguments["config"])) if arguments.get("config") else find_config(given)
    if config is not None:
        given = {**read_toml(settings_class, config), **given}
    _refuse_dead_values(settings_class, given)
    missing = [f.name for f in flag_fields(settings_class) if f.name not in given and _is_required(f)]
    if missing:
        raise UserError(f"{prog} needs {' and '.join(_dashed(name) for name in missing)}.", f"See {prog} --help.")
    return settings_class(**given)


def flag_fields(settings_class: type) -> list[dataclasses.Field[Any]]:
    """The fields that are flags, in order."""
    return [field for field in dataclasses.fields(settings_class) if "help" in field.metadata]


def build_parser(settings_class: type, prog: str, description: str) -> argparse.ArgumentParser:
    """An argument parser with one option for each flag field, `--config` and `--version`; absent options stay None."""
    parser = _Parser(prog=prog, description=description, allow_abbrev=False, formatter_class=_HelpFormatter)
    parser.add_argument("--version", action="version", version=f"finetune {__version__}")
    parser.add_argument("--config", metavar="FILE.toml", help="settings file; flags on the command line win over it")
    hints = typing.get_type_hints(settings_class)
    for field in flag_fields(settings_class):
        _add_flag(parser, field, hints[field.name])
    for name in ABSL_FLAGS:
        parser.add_argument(f"--{name}", nargs="?", help=argparse.SUPPRESS, dest=argparse.SUPPRESS)
    return parser


def read_toml(settings_class: type, path: Path) -> dict[str, Any]:
    """Settings from a TOML file: a key for each field, spelled with underscores or dashes.

    Raises:
        UserError: No such file, no TOML, a key that is no setting, a value of the wrong kind.
    """
    try:
        table = tomllib.loads(read_text(path))
    except OSError as error:
        raise UserError(f"--config: {path} can't be read: {error.strerror}.") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"--config: {path} is not TOML: {error}.") from error
    hints = typing.get_type_hints(settings_class)
    fields = {name: field for field in flag_fields(settings_class) for name in (field.name, *field.metadata["slim"])}
    settings = {}
    for key, value in table.items():
        field = fields.get(key.replace("-", "_"))
        if field is None:
            raise UserError(f"--config: {path} has the unknown key {key!r}.", did_you_mean(key, fields))
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        try:
            settings[field.name] = _converter(hints[field.name])(text)
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise UserError(f"--config: {path}: {key} = {value!r}: {error}.") from error
        choices = field.metadata["choices"]
        if choices and settings[field.name] not in choices:
            raise UserError(f"--config: {path}: {key} = {value!r} is not one of {', '.join(choices)}.")
    return settings


def to_toml_table(settings: Any) -> dict[str, Any]:
    """The settings as a TOML table that `read_toml` reads back; settings that are None are left out."""
    table: dict[str, Any] = {}
    for field in flag_fields(type(settings)):
        value = getattr(settings, field.name)
        if value is None or not field.metadata["is_recorded"]:
            continue
        if isinstance(value, Path):
            value = str(value)
        table[field.name] = list(value) if isinstance(value, tuple) else value
    return table


class _Parser(argparse.ArgumentParser):
    """Raises instead of leaving the process, so that all mistakes are told in one way."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[0].upper()}{message[1:]}.", f"See {self.prog} --help.")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, unknown = self.parse_known_intermixed_args(args, namespace)
        if unknown:
            name = unknown[0].split("=")[0]
            raise UserError(f"Unknown flag {name}.", did_you_mean(name, self._long_options()))
        return parsed

    def _long_options(self) -> list[str]:
        visible = (action for action in self._actions if action.help is not argparse.SUPPRESS)
        return [option for action in visible for option in action.option_strings if option.startswith("--")]


class _HelpFormatter(argparse.HelpFormatter):
    """Names each flag once in `--help`: aliases are accepted, and listed behind the help text instead."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        takes_value = action.nargs != 0 and action.const is not True
        value = f" {self._format_args(action, action.dest.upper())}" if takes_value else ""
        return f"{action.option_strings[0]}{value}"


def _add_flag(parser: argparse.ArgumentParser, field: dataclasses.Field[Any], hint: Any) -> None:
    metadata = field.metadata
    convert = _converter(hint)
    if metadata["positional"]:
        parser.add_argument(field.name, nargs="*", default=None, help=metadata["help"], metavar=metadata["metavar"])
        return
    options = [_dashed(field.name), *(_dashed(name) for name in metadata["slim"])]
    help_text = metadata["help"].replace("%", "%%")
    if metadata["only_default"]:
        help_text = argparse.SUPPRESS
    elif field.default not in (dataclasses.MISSING, None, "", ()):
        default = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
        help_text += f" [{str(default).replace('%', '%%')}]"
    if metadata["slim"] and help_text is not argparse.SUPPRESS:
        help_text += f" (slim: {', '.join('--' + name for name in metadata['slim'])})"
    common: dict[str, Any] = {"dest": field.name, "default": None, "help": help_text, "type": convert}
    if _base_type(hint) is bool:
        parser.add_argument(*options, nargs="?", const=True, **common)
        negations = [f"--{prefix}{option[2:]}" for option in options for prefix in ("no-", "no")]
        parser.add_argument(*negations, dest=field.name, action="store_false", default=None, help=argparse.SUPPRESS)
    else:
        metavar = metadata["metavar"] or ("{" + ",".join(metadata["choices"]) + "}" if metadata["choices"] else None)
        common |= {"metavar": metavar or field.name.split("_")[-1].upper(), "choices": metadata["choices"]}
        parser.add_argument(*options, **{**common, **_tuple_options(metadata["num_values"], hint)})


def _tuple_options(num_values: int | None, hint: Any) -> dict[str, Any]:
    """How argparse collects a tuple: so many words after the flag, else the lists of all times that it is given."""
    base = _base_type(hint)
    if typing.get_origin(base) is not tuple:
        return {}
    return (
        {"action": "extend"}
        if num_values is None
        else {"nargs": num_values, "type": _converter(typing.get_args(base)[0])}
    )


def _converter(hint: Any) -> Any:
    base = _base_type(hint)
    if typing.get_origin(base) is tuple:
        item = _converter(typing.get_args(base)[0])
        holds_paths = base == tuple[Path, ...]

        def convert_items(text: str) -> tuple[Any, ...]:
            if holds_paths and _is_there(text):  # Whatever commas are in its name.
                return (item(text),)
            return tuple(item(part.strip()) for part in text.split(",") if part.strip())

        convert_items.__name__ = "comma-separated list"
        return convert_items
    if base is bool:
        return _parse_bool
    return _parse_path if base is Path else base


def _base_type(hint: Any) -> Any:
    """The type beside None in an optional type, else the type itself."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


def _parse_bool(text: str) -> bool:
    if text.lower() in TRUE_WORDS:
        return True
    if text.lower() in FALSE_WORDS:
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def _is_there(text: str) -> bool:
    """Whether there is such a path, or such a checkpoint."""
    path = os.path.expanduser(text)  # noqa: PTH111  Path.expanduser fails where a user isn't known.
    return Path(path).exists() or Path(f"{path}.index").exists()


def _parse_path(text: str) -> Path:
    path = Path(text)
    # What says that it is here is no home directory; a path forgets the dot.
    return path.absolute() if str(path).startswith("~") and not text.startswith("~") else path


def _expand_paths(settings_class: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with home directories in place of `~` and `~user` in all that are paths."""
    hints = typing.get_type_hints(settings_class)
    expanded = dict(values)
    for field in flag_fields(settings_class):
        base = _base_type(hints[field.name])
        is_path = field.metadata["is_path"] or base is Path or base == tuple[Path, ...]
        value = values.get(field.name)
        if not is_path or value is None:
            continue
        name = field.metadata["metavar"] if field.metadata["positional"] else _dashed(field.name)
        expanded[field.name] = (
            tuple(_expand_home(name, item) for item in value) if isinstance(value, tuple) else _expand_home(name, value)
        )
    return expanded


def _expand_home(name: str, path: Any) -> Any:
    """A path or string with a home directory in place of the `~` or `~user` that it begins with."""
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


def _boolean_options(settings_class: type) -> set[str]:
    hints = typing.get_type_hints(settings_class)
    fields = [field for field in flag_fields(settings_class) if _base_type(hints[field.name]) is bool]
    return {_dashed(name) for field in fields for name in (field.name, *field.metadata["slim"])}


def _normalise(argv: Sequence[str], boolean_options: set[str]) -> list[str]:
    """Writes every flag's name with dashes and two of them in front; other words are left as they are.

    A boolean flag is given its value where the next word is none, lest that be taken for one.
    """
    normalised = []
    for word, following in itertools.zip_longest(argv, argv[1:], fillvalue=""):
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            name = "--" + name[2:].replace("_", "-")
        if name in boolean_options and not equals and following.lower() not in TRUE_WORDS + FALSE_WORDS:
            equals, value = "=", "true"
        normalised.append(f"{name}{equals}{value}")
    return normalised


def _refuse_dead_values(settings_class: type, given: Mapping[str, Any]) -> None:
    for field in flag_fields(settings_class):
        if field.metadata["only_default"] and given.get(field.name, field.default) != field.default:
            raise UserError(
                f"{_dashed(field.name)} can only be {field.default!r}: {field.metadata['help']}.", "Leave the flag out."
            )


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _dashed(name: str) -> str:
    return "--" + name.replace("_", "-")
