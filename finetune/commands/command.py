"""What all commands share: flags, logging, exit status, mistakes told without a traceback."""

import contextlib
import errno
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeVar

from finetune.errors import Interrupted, UserError, visible
from finetune.files.whole_files import KEEP_BYTES
from finetune.files.write_errors import is_write_error, write_errors_told
from finetune.remote.urls import CACHE_VARIABLE, cache_root, url_of, with_urls
from finetune.settings.command_line import parse_flags
from finetune.settings.flags import names_urls
from finetune.signals import EXIT_BY_SIGNAL, ended_by_signals

Settings = TypeVar("Settings")

EXIT_DONE = 0
EXIT_FAULT = 1
EXIT_USER_ERROR = 2

log = logging.getLogger("finetune")


def run_command(
    settings_class: type[Settings],
    function: Callable[[Settings], int | None],
    *,
    prog: str,
    description: str,
    argv: Sequence[str] | None = None,
    find_config: Callable[[Mapping[str, Any]], Path | None] = lambda given: None,
) -> int:
    """Parses the command line, runs the command, and returns its exit status.

    0: done; 2: a mistake that the user can mend, told on standard error; 130 and 143: stopped by Ctrl-C and by
    SIGTERM. A fault of the program itself keeps its traceback and ends with Python's own status 1.

    Args:
        settings_class: Whose fields are the flags.
        function: Does the work; its result, if it has one, is the exit status.
        prog: Name of the command.
        description: For its help text.
        argv: The words of the command line; None: those of this program, which then ends here.
        find_config: A file of settings that hold where the command line says nothing.
    """
    status = _run(settings_class, function, prog, description, argv, find_config)
    if argv is None:
        leave(status)
    return status


def _run(
    settings_class: type[Settings],
    function: Callable[[Settings], int | None],
    prog: str,
    description: str,
    argv: Sequence[str] | None,
    find_config: Callable[[Mapping[str, Any]], Path | None],
) -> int:
    _take_all_letters()
    try:
        words = sys.argv[1:] if argv is None else argv
        with write_errors_told(), ended_by_signals(), standard_output():
            settings = parse_flags(settings_class, words, prog=prog, description=description, find_config=find_config)
            from finetune.commands.log_lines import logging_as_told  # Its absl isn't needed by --help.

            with logging_as_told(prog.replace(" ", "-")):
                log.debug("Settings: %s", settings)
                with _copies_at_hand(settings):
                    return function(settings) or EXIT_DONE
        return EXIT_DONE
    except UserError as error:
        _complain(f"{prog}: {error}{_where_copies_are(error)}")
        return EXIT_USER_ERROR
    except OSError as error:
        # A name that fits may be too long with an ending, such as a checkpoint's .index.
        if error.errno != errno.ENAMETOOLONG:
            raise
        _complain(f"{prog}: {error.filename}: the name is too long, with its ending, for the file system.")
        return EXIT_USER_ERROR
    except Interrupted as stop:
        _complain(f"{prog}: {stop}")
        return EXIT_BY_SIGNAL + stop.signal_number
    except KeyboardInterrupt:
        _complain(f"{prog}: interrupted")
        return EXIT_BY_SIGNAL + signal.SIGINT


def _copies_at_hand(settings: Any) -> contextlib.AbstractContextManager[None]:
    """Within, what settings name by URL is at hand, and what is written there is sent."""
    if not names_urls(settings):
        return contextlib.nullcontext()
    from finetune.commands.copies import copies_at_hand  # Which knows the commands.

    return copies_at_hand(settings)


def _where_copies_are(error: UserError) -> str:
    """A line, where it is a copy that can't be written: it is told by its URL, and the room is wanted here."""
    why = error.__cause__
    if not (isinstance(why, OSError) and is_write_error(why) and url_of(why.filename or "")):
        return ""
    return f"\n  That is the copy on this machine, in {cache_root()}; {CACHE_VARIABLE} names another folder for copies."


@contextlib.contextmanager
def standard_output() -> Iterator[TextIO]:
    """Standard output to write to; the context ends, without an error, where its reader has seen enough, as `head`.

    Raises:
        OSError: It can't be written, such as to a file on a full disk.
    """
    try:
        yield sys.stdout
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would complain once more at its end.
    except OSError as error:
        if error.filename is None and is_write_error(error):  # Files of ours are named where they are written.
            error.filename = "Standard output"
        raise


def say(line: str = "") -> None:
    """Prints to standard output, copies by their URLs; on a terminal, control characters in names are escapes."""
    line = with_urls(line)
    print(visible(line) if sys.stdout.isatty() else line, flush=True)


def _complain(line: str) -> None:
    """Prints to standard error; where that can't be written either, the exit status says what there is to say."""
    with contextlib.suppress(OSError):
        print(visible(with_urls(line)), file=sys.stderr, flush=True)


def leave(status: int) -> None:
    """Ends the program without unwinding TensorFlow, which takes a second and does nothing for the user."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _take_all_letters() -> None:
    """Whatever its encoding, output fails for want of no letter: names are anything, and so are terminals."""
    for stream, errors in ((sys.stdout, KEEP_BYTES), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)
