"""Command lines: a parser made from a settings class, its `--help`, and the settings that a command line stands for.

A flag is written with dashes or underscores, as `--flag value` or `--flag=value`; a boolean as `--flag`,
`--flag=false`, `--no-flag` or absl's `--noflag`; a list with commas, or by giving the flag several times. TF-Slim's
old names are accepted, too. `--config FILE.toml` gives defaults for all flags; the command line wins over it, and so
does a `--flagfile`, whose lines take its place on the command line: of two values the later counts.
"""

import argparse
import functools
import itertools
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from finetune import __version__
from finetune.errors import UserError, did_you_mean
from finetune.remote.session import bring
from finetune.remote.urls import named
from finetune.settings import absl_flags
from finetune.settings.flags import (
    Flag,
    check_path,
    checked,
    dashed,
    expand_home,
    flags_of,
    flat_values,
    path_of_text,
)
from finetune.settings.settings_file import read_toml
from finetune.settings.trust import TRUST_CODE, refuse_modules
from finetune.settings.words import FALSE_WORDS, TRUE_WORDS, item_of_words, value_of_words

Settings = TypeVar("Settings")

SLIM_NAMES_TITLE = "TF-Slim's flags, as they are called here"


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
        settings_class: Derived from `CommandSettings`.
        argv: The words after the program's name.
        prog: The program's name.
        description: What it does, for `--help`.
        find_config: Names the TOML file to read where there is no `--config`, by the settings on the command line.

    Raises:
        UserError: An unknown flag (the nearest is named), a value of the wrong kind or one that the flag doesn't allow,
            a required flag that is missing.
    """
    flags = {flag.name: flag for flag in flags_of(settings_class)}
    parser = build_parser(settings_class, prog, description)
    argv = _normalise(absl_flags.expand_flagfiles(argv), flags.values())
    words = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    absl_flags.set_absl_flags(words.pop(absl_flags.WORDS, ()))
    _take_slims_task(words, flags)
    # No words where some could be are no value: a file may name them.
    idle = [name for name, value in words.items() if value == [] and flags[name].positional]
    given = {name: checked(flags[name], value) for name, value in words.items() if name not in ("config", *idle)}
    config = _config_path(words["config"]) if "config" in words else find_config(given)
    if config is not None:
        of_file = read_toml(settings_class, config)
        if of_file.pop(TRUST_CODE, False):
            raise UserError(f"--config: {config} says trust_code, which no file can say for itself.", "Take it out.")
        refuse_modules(of_file, given, config)
        given = {**of_file, **given}
    missing = [flag.option for flag in flags.values() if flag.is_required and flag.name not in given]
    if missing:
        raise UserError(f"{prog} needs {' and '.join(missing)}.", f"See {prog} --help.")
    return settings_class(**given)


def words_of(settings: Any) -> list[str]:
    """A command line, without the program's name, that stands for settings: what isn't as it is by default."""
    values = flat_values(settings)
    given = [flag for flag in flags_of(type(settings)) if values[flag.name] != flag.default]
    told = {flag.name: _with_urls(flag, values[flag.name]) for flag in given}
    words = [word for flag in given if not flag.positional for word in _words(flag, told[flag.name])]
    return [*words, *(word for flag in given if flag.positional for word in told[flag.name])]


def _take_slims_task(words: dict[str, Any], flags: Mapping[str, Flag]) -> None:
    """Takes a number given as --task for slim's flag of this name, which said which of the workers a process is."""
    text = words.get("task")
    if "worker_index" in flags and isinstance(text, str) and text.isascii() and text.isdigit():
        del words["task"]
        if words.get("worker_index") not in (None, text, int(text)):
            raise UserError(
                f"--task {text} is slim's word for --worker-index, which is {words['worker_index']}.",
                "Give one of them.",
            )
        words["worker_index"] = int(text)


def _with_urls(flag: Flag, value: Any) -> Any:
    """The value with the URLs of copies in place of their paths."""
    if not (flag.is_path or flag.kind is Path) or value is None:
        return value
    return tuple(map(named, value)) if isinstance(value, tuple) else named(value)


def _words(flag: Flag, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag.option if value else f"{flag.option}=false"]
    if flag.num_values is not None:
        return [flag.option, *map(str, value)]
    items = map(str, value) if isinstance(value, tuple) else [str(value)]
    return [word for item in items for word in ([f"{flag.option}={item}"] if item[:1] == "-" else [flag.option, item])]


def _config_path(text: str) -> Path:
    check_path("--config", text)
    path: Path = expand_home("--config", path_of_text("--config", text))
    bring(path)
    return path


def build_parser(settings_class: type, prog: str, description: str) -> argparse.ArgumentParser:
    """A parser with an option for each flag, in sections, `--config` and `--version`; absent options stay None."""
    parser = _Parser(
        prog=prog,
        usage=_usage(settings_class, prog),
        description=description,
        allow_abbrev=False,
        add_help=False,
        formatter_class=_HelpFormatter,
    )
    sections: dict[str, Any] = {}
    for flag in flags_of(settings_class):
        if flag.section not in sections:
            sections[flag.section] = parser.add_argument_group(flag.section)
        _add_flag(sections[flag.section], flag)
    general = parser.add_argument_group("General")
    general.add_argument("--config", metavar="FILE.toml", help="settings file; flags on the command line win over it")
    general.add_argument("-h", "--help", action="help", help="this text")
    general.add_argument("--version", action="version", version=f"finetune {__version__}", help="the program's version")
    absl_flags.add_absl_flags(parser)
    _add_slim_names(parser, flags_of(settings_class))
    return parser


class _Parser(argparse.ArgumentParser):
    """Raises instead of leaving the process, so that all mistakes are told in one way."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[0].upper()}{message[1:]}.", f"See {self.prog} --help.")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, unknown = self.parse_known_intermixed_args(args, namespace)
        unknown = absl_flags.without_undefok(unknown, parsed.undefok or ())
        del parsed.undefok
        if unknown:
            name = unknown[0].split("=")[0]
            raise UserError(f"Unknown flag {name}.", did_you_mean(name, self._long_options()))
        return parsed

    def _long_options(self) -> list[str]:
        visible = (action for action in self._actions if action.help is not argparse.SUPPRESS)
        return [option for action in visible for option in action.option_strings if option.startswith("--")]


class _Extend(argparse.Action):
    """Puts together the lists of a flag that is given several times; a word in place of a list stands alone."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        before = getattr(namespace, self.dest)
        are_lists = isinstance(before, tuple) and isinstance(values, tuple)
        setattr(namespace, self.dest, before + values if are_lists else values)


class _HelpFormatter(argparse.HelpFormatter):
    """Names each flag once: other ways of writing it are accepted without a word, slim's stand in the last section."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """A list of several lines stays one."""
        return textwrap.indent(text, indent) if "\n" in text else super()._fill_text(text, width, indent)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        takes_value = action.nargs != 0 and action.const is not True
        value = f" {self._format_args(action, action.dest.upper())}" if takes_value else ""
        return f"{', '.join(action.option_strings) if action.dest == 'help' else action.option_strings[0]}{value}"


def _usage(settings_class: type, prog: str) -> str:
    """In one line: what must be given, and that there is more."""
    flags = flags_of(settings_class)
    words = [f"{flag.option} {_value_name(flag)}" for flag in flags if flag.is_required and not flag.positional]
    words += ["[FLAGS]", *(f"[{flag.metavar} ...]" for flag in flags if flag.positional)]
    return " ".join([prog, *words])


def _add_flag(section: Any, flag: Flag) -> None:
    if flag.positional:
        section.add_argument(flag.name, nargs="*", default=None, help=flag.help, metavar=flag.metavar)
        return
    options = [flag.option, *(dashed(name) for name in flag.slim)]
    common: dict[str, Any] = {"dest": flag.name, "default": None, "help": _help_text(flag)}
    if flag.kind is bool and not flag.is_list:
        section.add_argument(*options, nargs="?", const=True, type=functools.partial(value_of_words, flag), **common)
        negations = [f"--{prefix}{option[2:]}" for option in options for prefix in ("no-", "no")]
        section.add_argument(*negations, dest=flag.name, action="store_false", default=None, help=argparse.SUPPRESS)
        return
    common |= {"metavar": _value_name(flag), "type": functools.partial(value_of_words, flag)}
    if flag.num_values is not None:
        common |= {"nargs": flag.num_values, "type": functools.partial(item_of_words, flag)}
    elif flag.is_list:
        common["action"] = _Extend
    section.add_argument(*options, **common)


def _value_name(flag: Flag) -> str:
    if flag.metavar is None and flag.choices is not None:
        return "{" + ",".join(flag.choices) + "}"
    return flag.metavar or flag.name.split("_")[-1].upper()


def _help_text(flag: Flag) -> str:
    if flag.only_default:
        return argparse.SUPPRESS
    text = flag.help
    if not flag.is_required and flag.default not in (None, "", ()):
        default = ",".join(map(str, flag.default)) if flag.is_list else flag.default
        text += f" [{default}]"
    return text.replace("%", "%%")


def _add_slim_names(parser: argparse.ArgumentParser, flags: Sequence[Flag]) -> None:
    """The last section: the old names that differ, and the flags that are accepted for old command lines' sake."""
    renamed = {f"--{name}": flag.option for flag in flags if not flag.only_default for name in flag.slim}
    dead = [f"--{flag.name}" for flag in flags if flag.only_default]
    lines = [f"{old:<28}  {new}" for old, new in renamed.items()]
    lines += [f"{old:<28}  accepted with its default alone" for old in dead]
    if lines:
        parser.add_argument_group(SLIM_NAMES_TITLE, "\n".join(lines))


def _normalise(argv: Sequence[str], flags: Any) -> list[str]:
    """Writes every flag's name with dashes and two of them in front; other words are left as they are.

    A boolean flag is given its value where the next word is none, lest that be taken for one.
    """
    names = [name for flag in flags if flag.kind is bool for name in (flag.name, *flag.slim)]
    booleans = {dashed(name) for name in (*names, *absl_flags.BOOLEANS)}
    normalised = []
    for word, following in itertools.zip_longest(argv, argv[1:], fillvalue=""):
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            name = "--" + name[2:].replace("_", "-")
        if name in booleans and not equals and following.lower() not in TRUE_WORDS + FALSE_WORDS:
            equals, value = "=", "true"
        normalised.append(f"{name}{equals}{value}")
    return normalised
