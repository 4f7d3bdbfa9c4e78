"""A folder that appears whole under its final name, or not at all."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from finetune.errors import UserError, first_line
from finetune.new_folders import gone_if_empty


@contextlib.contextmanager
def staged_output(output_dir: Path, mark: str, *, overwrite: bool) -> Iterator[Path]:
    """Gives a folder to write in, which takes the place of `output_dir` when the context ends without an exception.

    Args:
        output_dir: Must not exist or be empty, or, with `overwrite`, hold the file `mark`.
        mark: Name of the file that tells what may be replaced.
        overwrite: Replace what is in `output_dir`, all of it.

    Raises:
        UserError: `output_dir` holds something that may not be replaced, or can't be written.
    """
    output_dir = output_dir.absolute()
    _refuse_to_replace(output_dir, mark, overwrite)
    staging = output_dir.with_name(f".{output_dir.name}.partial")
    with gone_if_empty(output_dir):
        try:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
            yield staging
            _swap(staging, output_dir)
        except OSError as error:
            why = error.strerror or first_line(error)
            raise UserError(f"--output-dir: {output_dir} can't be written: {why}.") from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _refuse_to_replace(output_dir: Path, mark: str, overwrite: bool) -> None:
    if not output_dir.exists() or (output_dir.is_dir() and not any(output_dir.iterdir())):
        return
    if not (output_dir / mark).is_file():
        raise UserError(
            f"--output-dir: {output_dir} exists and is no earlier export: it lacks {mark}.",
            "Give another --output-dir.",
        )
    if not overwrite:
        raise UserError(f"--output-dir: {output_dir} holds an export already.", "Give --overwrite to replace it.")


def _swap(staging: Path, output_dir: Path) -> None:
    replaced = output_dir.with_name(f".{output_dir.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if output_dir.exists():
        output_dir.rename(replaced)
    staging.rename(output_dir)
    shutil.rmtree(replaced, ignore_errors=True)
