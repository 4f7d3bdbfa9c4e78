"""absl's own flags, which every command takes beside its own: for logging, files of flags, and flags to overlook.

What they mean is absl's affair: argparse tells them from the command's flags and describes them in `--help`,
`absl.flags` reads their values into its global `FLAGS`, where logging finds them (finetune/commands/log_lines.py). absl
is imported only then, so that `--help` and programs that use the library go without it.
"""

import argparse
import contextlib
import dataclasses
import functools
import io
import re
from collections.abc import Collection, Sequence
from typing import Any

from finetune.errors import UserError

TITLE = "Logging, and what else absl gives"

# Where argparse gathers the flags for logging, as the words that absl reads.
WORDS = "absl_words"


@dataclasses.dataclass(frozen=True)
class LogFlag:
    """One of absl's flags for logging.

    Attributes:
        name: As absl has it.
        help: One line for `--help`.
        expected: Its values, in words.
        metavar: How the value is called; None: it is a boolean.
        choices: Those of its values that are words.
    """

    name: str
    help: str
    expected: str = "true or false"
    metavar: str | None = None
    choices: tuple[str, ...] | None = None

    @property
    def option(self) -> str:
        """As it is written on the command line."""
        return "--" + self.name.replace("_", "-")


LEVELS = ("debug", "info", "warning", "error", "fatal")
LOG_FLAGS = (
    LogFlag(
        "verbosity",
        "most that is logged: 0: what is done; 1: settings, too; -1: warnings and errors, neither progress nor the "
        "plan; -2: errors; also -v [0]",
        "a whole number",
        "LEVEL",
    ),
    LogFlag("log_dir", "log into a new file there, in place of standard error", "a folder", "DIR"),
    LogFlag("alsologtostderr", "with --log-dir: on standard error, too, all of it"),
    LogFlag(
        "stderrthreshold",
        "with --log-dir: on standard error, too, from this level on [fatal]",
        f"{', '.join(LEVELS[:-1])} or {LEVELS[-1]}",
        f"{{{','.join(LEVELS)}}}",
        LEVELS,
    ),
    LogFlag("logtostderr", "on standard error alone, whatever --log-dir says"),
)
_BY_NAME = {flag.name: flag for flag in LOG_FLAGS}
BOOLEANS = tuple(flag.name for flag in LOG_FLAGS if flag.metavar is None)


def add_absl_flags(parser: argparse.ArgumentParser) -> None:
    """Adds a section of them to a parser; names are written with dashes."""
    section = parser.add_argument_group(TITLE)
    for flag in LOG_FLAGS:
        _add_log_flag(section, flag)
    section.add_argument("--flagfile", metavar="FILE", help="flags from a file, one a line, in place of this one")
    section.add_argument(
        "--undefok",
        metavar="NAMES",
        action="extend",
        type=lambda text: text.split(","),
        help="flags of these names may be unknown",
    )


def expand_flagfiles(argv: Sequence[str]) -> list[str]:
    """The words of a command line with those of files in the place of each `--flagfile`, as absl reads them.

    A line holds one word: a flag, with its value behind an equals sign or on the next line. A line that begins with `#`
    or `//` is a comment.

    Raises:
        UserError: A file that can't be read, files that name each other, a line of several words.
    """
    if not any(re.match("--?flagfile(=|$)", word) for word in argv):
        return list(argv)
    from absl import flags

    warnings = io.StringIO()
    try:
        with contextlib.redirect_stderr(warnings):  # Of files that name each other absl says so there, and reads on.
            words = flags.FlagValues().read_flags_from_files(argv)
    except flags.CantOpenFlagFileError as error:
        cause = error.__context__
        assert isinstance(cause, OSError)
        raise UserError(f"--flagfile: {cause.filename} can't be read: {cause.strerror}.") from error
    except flags.IllegalFlagValueError as error:
        raise UserError("--flagfile needs the name of a file.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--flagfile: a file is no text in {error.encoding}: {error.reason}.") from error
    if warnings.getvalue():
        file = warnings.getvalue().rpartition(":")[2].strip()
        raise UserError(f"--flagfile: {file} names itself, or a file that names it.", "Leave out one of these lines.")
    several = next((word for word in words if re.match(r"--?[\w-]+\s", word)), None)
    if several is not None:
        raise UserError(f"--flagfile: the line {several!r} holds several words.", "Put each on a line of its own.")
    return words


def set_absl_flags(words: Sequence[str]) -> None:
    """Gives absl's global flags for logging the values that these words say, and their defaults where they say nothing.

    Raises:
        UserError: A value that absl refuses.
    """
    import absl.logging  # noqa: F401  It defines the flags.
    from absl import flags

    for name in _BY_NAME:
        flags.FLAGS[name].unparse()
    flags.FLAGS.mark_as_parsed()
    for word in words:
        try:
            flags.FLAGS(["finetune", word])
        except (flags.Error, ValueError) as error:
            name, _, value = word.removeprefix("--").partition("=")
            flag = _BY_NAME[name]
            raise UserError(f"{flag.option} is {value!r}, but must be {flag.expected}.") from error


def without_undefok(unknown: Sequence[str], names: Collection[str]) -> list[str]:
    """The words that a parser doesn't know, but for the flags that `--undefok` names and their values."""
    overlooked = {prefix + name.strip().replace("_", "-") for name in names for prefix in ("", "no", "no-")}
    left = []
    may_be_value = False
    for word in unknown:
        is_flag = word.startswith("-")
        name, equals, _ = word.lstrip("-").partition("=")
        is_overlooked = is_flag and name.replace("_", "-") in overlooked
        if not (is_overlooked or (may_be_value and not is_flag)):
            left.append(word)
        may_be_value = is_overlooked and not equals
    return left


def _add_log_flag(section: Any, flag: LogFlag) -> None:
    to_word = functools.partial("--{}={}".format, flag.name)
    common: dict[str, Any] = {"dest": WORDS, "action": "append", "type": to_word, "help": flag.help}
    if flag.metavar is None:
        section.add_argument(flag.option, nargs="?", const=True, **common)
        negations = [f"--{prefix}{flag.name}" for prefix in ("no-", "no")]
        section.add_argument(
            *negations, dest=WORDS, action="append_const", const=to_word(False), help=argparse.SUPPRESS
        )
        return
    options = [flag.option, "-v", "--v"] if flag.name == "verbosity" else [flag.option]
    section.add_argument(*options, metavar=flag.metavar, **common)
