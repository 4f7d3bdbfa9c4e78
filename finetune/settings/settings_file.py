"""Settings in TOML files: what `--config` reads, and what a run's config.toml holds."""

import tomllib
from pathlib import Path
from typing import Any

from finetune.errors import UserError, did_you_mean
from finetune.files.whole_files import TextTooLongError, read_text
from finetune.remote.urls import named
from finetune.settings.flags import Flag, Tabular, checked, flags_of, flat_values, of_another_kind
from finetune.settings.words import item_of_words, value_of_words

# A run's settings, in its folder.
CONFIG_FILE = "config.toml"
# What a sweep was given, in its folder.
SWEEP_FILE = "sweep.toml"


def read_toml(settings_class: type, path: Path) -> dict[str, Any]:
    """Settings from a TOML file: a key for each flag, spelled with underscores or dashes, or as slim spells it.

    Raises:
        UserError: No such file, no TOML, a key that is no setting, a value that its flag doesn't allow.
    """
    try:
        table = tomllib.loads(read_text(path))
    except OSError as error:
        raise UserError(f"--config: {path} can't be read: {error.strerror}.") from error
    except RecursionError as error:
        raise UserError(f"--config: {path} is not TOML of settings: its lists lie too deep in each other.") from error
    except TextTooLongError as error:
        raise UserError(f"--config: {error}: settings have a line each.") from error
    except ValueError as error:  # TOML's own errors, and Python's of a number of thousands of digits.
        raise UserError(f"--config: {path} is not TOML: {error}.") from error
    flags = {name: flag for flag in flags_of(settings_class) for name in (flag.name, *flag.slim)}
    settings = {}
    for key, value in table.items():
        flag = flags.get(key.replace("-", "_"))
        if flag is None:
            raise UserError(f"--config: {path} has the unknown key {key!r}.", did_you_mean(key, flags))
        try:
            settings[flag.name] = read_value(flag, value)
        except UserError as error:
            raise UserError(f"--config: {path}: {error}") from error
    return settings


def to_toml_table(settings: Any) -> dict[str, Any]:
    """The settings as a flat TOML table that `read_toml` reads back; those that are None or no tables are left out."""
    values = flat_values(settings)
    table: dict[str, Any] = {}
    for flag in flags_of(type(settings)):
        value = values[flag.name]
        if value is None or not flag.is_recorded or (value == () and issubclass(flag.kind, Tabular)):
            continue
        table[flag.name] = plain_value(value)
    return table


def plain_value(value: Any) -> Any:
    """A setting's value as TOML and JSON hold it: paths as texts, a tuple as a list, a `Tabular` as a table."""
    if isinstance(value, Tabular):
        return value.table()
    if isinstance(value, tuple):
        return list(map(plain_value, value))
    return named(value) if isinstance(value, Path) else value


def read_value(flag: Flag, value: Any) -> Any:
    """A setting's value from one of a TOML file.

    Raises:
        UserError: It isn't of the flag's kind, or not allowed.
    """
    if flag.is_list and isinstance(value, list):
        return checked(flag, [_read_item(flag, item) for item in value])
    return checked(flag, value_of_words(flag, _word(flag, value)))


def _read_item(flag: Flag, item: Any) -> Any:
    return item if issubclass(flag.kind, Tabular) else item_of_words(flag, _word(flag, item))


def _word(flag: Flag, value: Any) -> str:
    """A value as the command line has it; a table, a list in a list and a date are none."""
    if not isinstance(value, str | bool | int | float):
        raise of_another_kind(flag, value)
    return str(value)
