"""What a conversion may take the place of, and the data set that appears there: whole or not at all."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from finetune.datasets.catalogue import catalogue_shards
from finetune.datasets.description import FILE_NAME, LABELS_FILE, NEAR_DUPLICATES_FILE, NEAR_DUPLICATES_SHEET
from finetune.errors import UserError
from finetune.files.folder_lock import sole_use
from finetune.files.whole_files import complete_sets, gone_if_empty, uncompleted_sets, whole_set
from finetune.files.write_errors import write_errors_told
from finetune.notices import few


def files_to_replace(dataset_dir: Path, name: str, *, overwrite: bool) -> tuple[Path, ...]:
    """The files of an earlier data set of this name.

    Raises:
        UserError: There are such and they may not be overwritten; the folder holds another data set, whose labels.txt
            and dataset.json the new one would replace.
    """
    if not dataset_dir.is_dir():
        return ()
    catalogue = catalogue_shards(dataset_dir)
    others = sorted(set(catalogue) - {name})
    if others:
        nameless = [shard.path.name for split in catalogue.get("", {}).values() for shard in split]
        raise UserError(
            f"{dataset_dir} holds another data set, {', '.join(filter(None, others)) or few(nameless)}.",
            "Choose another --dataset-dir, or the same --dataset-name to replace it.",
        )
    shards = [shard.path for split in catalogue.get(name, {}).values() for shard in split]
    described = [dataset_dir / file for file in (FILE_NAME, LABELS_FILE) if (dataset_dir / file).exists()]
    beside = [dataset_dir / file for file in (NEAR_DUPLICATES_FILE, NEAR_DUPLICATES_SHEET)] if described else []
    existing = (*filter(Path.exists, beside), *described, *shards)
    if existing and not overwrite:
        raise UserError(
            f"{dataset_dir} holds a data set already ({existing[-1].name}).", "Give --overwrite to replace it."
        )
    return existing


def complete_conversion(dataset_dir: Path) -> None:
    """Puts in place what a conversion had written whole before it was killed.

    Raises:
        UserError: Another conversion is at work in the folder, or the folder can't be written.
    """
    if uncompleted_sets(dataset_dir):
        with _sole_use(dataset_dir):
            complete_sets(dataset_dir)


@contextlib.contextmanager
def whole_dataset(dataset_dir: Path, name: str, *, overwrite: bool) -> Iterator[Path]:
    """Gives a folder to write a data set in, whose files get their places in `dataset_dir` at the context's end.

    dataset.json comes last, since it vouches for all others. What it takes the place of is still there after an
    exception.

    Args:
        dataset_dir: Made where it is missing.
        name: Of the data set.
        overwrite: Whether an earlier data set of this name may be replaced.

    Raises:
        UserError: As `files_to_replace`; another conversion is at work in the folder; the folder can't be made, or what
            is written in it fails for want of space or permission.
    """
    with gone_if_empty(dataset_dir):
        try:
            with write_errors_told():
                dataset_dir.mkdir(parents=True, exist_ok=True)
                with _sole_use(dataset_dir):
                    replaced = files_to_replace(dataset_dir, name, overwrite=overwrite)
                    with whole_set(dataset_dir, name, last=FILE_NAME, replaced=replaced) as staging:
                        yield staging
        except OSError as error:
            raise UserError(f"Converting into {dataset_dir} failed: {error}.") from error


def _sole_use(dataset_dir: Path) -> contextlib.AbstractContextManager[None]:
    return sole_use(dataset_dir, flag="--dataset-dir", program="finetune-convert")
