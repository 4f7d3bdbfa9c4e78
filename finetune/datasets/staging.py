"""A data set appears whole under its final names, or not at all."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from finetune.datasets.catalogue import catalogue_shards
from finetune.datasets.description import FILE_NAME, LABELS_FILE
from finetune.errors import UserError
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
    existing = (*described, *shards)
    if existing and not overwrite:
        raise UserError(
            f"{dataset_dir} holds a data set already ({existing[-1].name}).", "Give --overwrite to replace it."
        )
    return existing


@contextlib.contextmanager
def staging_folder(dataset_dir: Path, name: str) -> Iterator[Path]:
    """A hidden folder within `dataset_dir` to write in. Gone afterwards, and so is what a killed run left of its own.

    Raises:
        UserError: The folder can't be made, or what is written in it fails for want of space or permission.
    """
    staging = dataset_dir / f".{name}.converting"
    made = [path for path in (dataset_dir, *dataset_dir.parents) if not path.exists()]
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        yield staging
    except OSError as error:
        raise UserError(f"Converting into {dataset_dir} failed: {error}.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        for path in made:
            with contextlib.suppress(OSError):  # It holds the data set, as it should.
                path.rmdir()


def publish(staging: Path, dataset_dir: Path, replaced: Sequence[Path]) -> None:
    """Gives the staged files their final names, dataset.json last: it vouches for all others."""
    for path in replaced:
        path.unlink()
    for path in sorted(staging.iterdir(), key=lambda path: (path.name == FILE_NAME, path.name)):
        path.rename(dataset_dir / path.name)
