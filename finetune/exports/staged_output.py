"""The folder of an export: what it may take the place of."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from finetune.errors import UserError, first_line
from finetune.files.folder_lock import sole_writer
from finetune.files.whole_files import whole_folder
from finetune.files.write_errors import write_errors_told


@contextlib.contextmanager
def staged_output(output_dir: Path, mark: str, *, overwrite: bool) -> Iterator[Path]:
    """Gives a folder to write in, which takes the place of `output_dir` when the context ends without an exception.

    Args:
        output_dir: Must not exist or be empty, or, with `overwrite`, hold the file `mark`.
        mark: Name of the file that tells what may be replaced.
        overwrite: Replace what is in `output_dir`, all of it.

    Raises:
        UserError: `output_dir` holds something that may not be replaced, or can't be written; another export is writing
            it.
    """
    output_dir = output_dir.absolute()
    with sole_writer(output_dir, flag="--output-dir", program="finetune-export"):
        _refuse_to_replace(output_dir, mark, overwrite)
        try:
            with write_errors_told(), whole_folder(output_dir) as staging:
                yield staging
        except OSError as error:
            why = error.strerror or first_line(error)
            raise UserError(f"--output-dir: {output_dir} can't be written: {why}.") from error


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
