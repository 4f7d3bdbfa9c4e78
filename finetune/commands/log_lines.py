"""Where the log lines of a command go: to standard error, as bare messages, unless absl's flags say otherwise.

Progress and the plan of the variables are log lines, too. What a command was asked for goes to standard output, and why
it failed to standard error, whatever the flags say.
"""

import contextlib
import logging
import sys
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

import absl.logging
from absl import flags

from finetune.errors import UserError, visible
from finetune.files.whole_files import KEEP_BYTES, gone_if_empty
from finetune.remote.urls import is_url, with_urls
from finetune.settings.flags import expand_home

log = logging.getLogger("finetune")


@contextlib.contextmanager
def logging_as_told(program: str) -> Iterator[None]:
    """Within, our log lines go where absl's flags, which must be parsed, say; a log file also tells how it ended.

    Args:
        program: What the log file is called by.

    Raises:
        UserError: No log file can be written where `--log-dir` says.
    """
    handler = _Handler()
    if flags.FLAGS.log_dir and not flags.FLAGS.logtostderr:
        if is_url(flags.FLAGS.log_dir):
            raise UserError(f"--log-dir: {flags.FLAGS.log_dir}: logs go into a folder of this machine.", "Give one.")
        handler.open_file(program, expand_home("--log-dir", Path(flags.FLAGS.log_dir)))
    before = log.handlers[:], log.level, log.propagate
    log.handlers[:], log.propagate = [handler], False
    log.setLevel(_level())
    try:
        yield
    except BaseException as error:
        handler.tell_end(error)
        raise
    finally:
        log.handlers[:], level, log.propagate = before
        log.setLevel(level)
        handler.close()


class _Handler(absl.logging.PythonHandler):
    """absl's handler, for standard error and a file; absl's prefix of time and place stands in the file alone."""

    def __init__(self) -> None:
        super().__init__(sys.stderr, logging.Formatter("%(message)s"))
        self._file: TextIOWrapper | None = None

    def open_file(self, program: str, folder: Path) -> None:
        """Goes on in a new log file; absl names it after the program, the machine, the user and the time."""
        try:
            with gone_if_empty(folder):
                folder.mkdir(parents=True, exist_ok=True)
                self.start_logging_to_file(program, str(folder))
        except OSError as error:
            why = error.strerror or "permission denied"
            raise UserError(f"--log-dir: no log file can be written into {folder}: {why}.") from error
        self._file = self.stream
        self._file.reconfigure(errors=KEEP_BYTES)  # Names of files are bytes.

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a line; where the log file takes no more, which is said, it goes to standard error, as all after it.

        The work that is logged goes on: nothing but lines is lost, and the file holds those up to there.
        """
        super().emit(record)
        if self._file is not None and self.stream is self._file:
            try:
                self._file.flush()  # absl's own, which came before, says nothing.
            except OSError as error:
                file, self._file = self._file, None
                self.setStream(sys.stderr)
                with contextlib.suppress(OSError):
                    file.close()
                line = f"The log file {file.name} can't be written: {error.strerror}. Its lines come here from now on."
                super().emit(log.makeRecord(log.name, logging.WARNING, __file__, 0, line, (), None))
                super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        line = visible(with_urls(super().format(record)))
        return absl.logging.get_absl_log_prefix(record) + line if self.stream is self._file else line

    def close(self) -> None:
        """Closes the log file; what can't be written then was told before, or is told on standard error."""
        with contextlib.suppress(OSError):
            super().close()

    def tell_end(self, error: BaseException) -> None:
        """Logs why a command ended into the file; standard error is told by the command itself."""
        if self._file is not None and not isinstance(error, BrokenPipeError):  # Which is no failure.
            is_told = isinstance(error, UserError | KeyboardInterrupt)
            trace = None if is_told else (type(error), error, error.__traceback__)
            why = str(error) or type(error).__name__
            logging.StreamHandler.emit(self, log.makeRecord(log.name, logging.ERROR, __file__, 0, why, (), trace))


def _level() -> int:
    """What `--verbosity` says, as a level of `logging`; where it isn't given INFO, as in programs that absl starts."""
    if flags.FLAGS["verbosity"].using_default_value:
        return logging.INFO
    return absl.logging.get_absl_logger().getEffectiveLevel()
