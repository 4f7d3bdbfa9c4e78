"""Images without labels: record files whose images alone are read, whatever else they hold. No TensorFlow."""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

from finetune.datasets.catalogue import find_shards, in_order
from finetune.datasets.dataset import OR_SKIP, Dataset, usable_records
from finetune.datasets.records import file_name_of, read_feature
from finetune.datasets.tfrecord import RecordFileError, find_compression, hash_content, read_record_at, salvage_records
from finetune.errors import UserError
from finetune.notices import few
from finetune.progress import progress

UNLABELLED_SPLIT = "unlabeled"
MOST_NAMED = 3
COPY_AGAIN = "Copy it again, or convert again; --on-corrupt skip leaves it out."


@dataclasses.dataclass(frozen=True)
class StoredImage:
    """Where an image lies.

    Attributes:
        shard: The file of records, which isn't compressed.
        number: Of its record in the file, from 0.
        offset: The byte at which its record begins.
        name: Of the file that it was made of; else shard and number of the record.
        sha256: Of the bytes of its file, as the record holds them.
    """

    shard: Path
    number: int
    offset: int
    name: str
    sha256: bytes


@dataclasses.dataclass(frozen=True)
class UnlabelledImages:
    """Images that a run labels itself.

    Attributes:
        source: The folder of their records, and the split.
        records: In the order of the files.
        image_key: Of the image in a record.
        records_sha256: Of the whole split, as `content_hash` has it of one with labels; None: some are left out that
            can't be read.
        num_of_validation: How many of them are images of the validation split, too.
    """

    source: str
    records: tuple[StoredImage, ...]
    image_key: str
    records_sha256: str | None = None
    num_of_validation: int = 0

    @property
    def sha256(self) -> str:
        """Of all images in their order."""
        return hashlib.sha256(b"".join(record.sha256 for record in self.records)).hexdigest()

    def encoded(self, number: int) -> bytes:
        """The bytes of an image's file.

        Raises:
            UserError: The record file isn't what it was.
        """
        record = self.records[number]
        try:
            image = _image_in(read_record_at(record.shard, record.number, record.offset), self.image_key)
        except (OSError, ValueError) as error:
            raise UserError(f"--unlabeled-dir: {record.name} can't be read any more: {error}.") from error
        if hashlib.sha256(image).digest() != record.sha256:
            raise UserError(f"--unlabeled-dir: {record.name} has changed since the run began.", "Put it back.")
        return image


def find_unlabelled(
    folder: Path, name: str | None, split: str | None, image_key: str, on_corrupt: str
) -> UnlabelledImages:
    """The images of a split, or of the only one, of record files.

    Args:
        folder: Of the records.
        name: Of the data set, where the folder may hold several.
        split: None: the only one that there is, or that which is called unlabeled.
        image_key: Of the image in a record.
        on_corrupt: "skip" leaves records out that can't be read.

    Raises:
        UserError: No such folder, records or split; a file that is compressed, damaged, or holds no images.
    """
    try:
        found = find_shards(folder, name)
    except UserError as error:  # Its advice is of --dataset-dir and --dataset-name.
        what = str(error).splitlines()[0].removeprefix("--dataset-dir: ")
        raise UserError(
            f"--unlabeled-dir: {what}", "Give a folder of photographs, or of the records of one data set."
        ) from error
    if split is None and len(found.splits) > 1 and UNLABELLED_SPLIT not in found.splits:
        raise UserError(
            f"--unlabeled-dir: {folder} holds several splits: {', '.join(sorted(found.splits))}.",
            "Name one of them with --unlabeled-split.",
        )
    wanted = split or (UNLABELLED_SPLIT if UNLABELLED_SPLIT in found.splits else next(iter(found.splits)))
    if split is not None and split not in found.splits:
        raise UserError(
            f"--unlabeled-split: there is no split {split} in {folder}; found: {', '.join(sorted(found.splits))}."
        )
    shards = [shard.path for shard in in_order(found.splits[wanted])]
    found_images = [stored for path in shards for stored in _records_of(path, image_key)]
    records = tuple(stored for stored in found_images if isinstance(stored, StoredImage))
    skipped = [stored for stored in found_images if isinstance(stored, str)]
    if skipped and on_corrupt != "skip":
        raise UserError(f"--unlabeled-dir: {skipped[0]}.", COPY_AGAIN)
    if not records:
        raise UserError(f"--unlabeled-dir: {folder} holds no images{f': {skipped[0]}' if skipped else ''}.")
    digest = hashlib.sha256(b"".join(bytes.fromhex(hash_content(path)) for path in shards))
    return UnlabelledImages(
        source=f"{folder}, split {wanted}",
        records=records,
        image_key=image_key,
        records_sha256=None if skipped else digest.hexdigest(),
    )


def without_training_images(
    images: UnlabelledImages, training: Dataset, validation: Dataset | None
) -> tuple[UnlabelledImages, list[str]]:
    """The images without those that are trained on with their labels, byte for byte; they would count twice.

    Returns:
        The others, which know how many of them are of the validation split, and the names of those that went.
    """
    labelled = set(_hashes_of(training))
    kept = tuple(record for record in images.records if record.sha256 not in labelled)
    dropped = [record.name for record in images.records if record.sha256 in labelled]
    validated = set(_hashes_of(validation)) if validation is not None else set()
    num_of_validation = sum(record.sha256 in validated for record in kept)
    return dataclasses.replace(images, records=kept, num_of_validation=num_of_validation), dropped


def told(images: UnlabelledImages, dropped: list[str]) -> list[str]:
    """What is to be said of them, a line each."""
    lines = [f"Unlabelled images: {len(images.records):,} of {images.source}; their labels, if any, are not read."]
    if dropped:
        lines.append(
            f"Unlabelled images: {len(dropped):,} are left out, for they are trained on with their labels: "
            f"{few(dropped, MOST_NAMED)}."
        )
    if images.num_of_validation:
        lines.append(
            f"Unlabelled images: {images.num_of_validation:,} are also validated on; they are trained on with the "
            "model's labels, not with theirs, which may flatter the accuracy a little."
        )
    return lines


def _records_of(path: Path, image_key: str) -> Iterator[StoredImage | str]:
    """The images of a file, and in the place of one that can't be read why."""
    if find_compression(path):
        raise UserError(
            f"--unlabeled-dir: {path} is compressed, and pseudo-labelled images are read one by one.", "Unpack it."
        )
    for found in salvage_records(path):
        if isinstance(found, RecordFileError):
            yield str(found)
            continue
        try:
            image, name = _image_in(found.data, image_key), file_name_of(found.data)
        except ValueError as error:
            yield f"{path}, record {found.number} (counted from 0): {error}"
            continue
        name = name or f"{path.name}, record {found.number}"
        yield StoredImage(path, found.number, found.offset, name, hashlib.sha256(image).digest())


def _image_in(serialized: bytes, image_key: str) -> bytes:
    feature = read_feature(serialized, image_key)
    image = feature.values[0] if feature is not None and len(feature.values) == 1 else None
    if not isinstance(image, bytes):
        raise ValueError(f"there is no image under {image_key}")
    return image


def _hashes_of(dataset: Dataset) -> Iterator[bytes]:
    with progress(f"Comparing unlabelled images with {dataset.split}", dataset.num_examples) as advance:
        for shard in dataset.shards:
            try:
                for record in usable_records(shard):
                    yield hashlib.sha256(_image_in(record.data, dataset.schema.image_key)).digest()
                    advance(1)
            except RecordFileError as error:
                raise UserError(f"The shard {error}.", OR_SKIP) from error
            except ValueError as error:
                raise UserError(f"{shard.path}: {error}.", OR_SKIP) from error
