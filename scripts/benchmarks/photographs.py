"""Folders of photographs that benchmarks need, made from real ones. No TensorFlow."""

import itertools
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.datasets.folders import scan_images
from finetune.datasets.splits import count, divide, share_by_fraction

if TYPE_CHECKING:
    from PIL import Image

VALIDATION_FRACTION = 0.25
JPEG_QUALITY = 90
LARGE_SIZE = (500, 400)


def link_splits(images_dir: Path, folder: Path) -> None:
    """Makes `folder`/train and `folder`/validation out of links: the very division that finetune-convert makes."""
    classes = scan_images(images_dir, skip=folder).splits["train"]
    sizes = count(classes)
    validation = share_by_fraction(sizes, VALIDATION_FRACTION)
    splits = divide(classes, seed=0, validation=validation, test=dict.fromkeys(sizes, 0))
    for split, files_by_class in splits.items():
        for file in itertools.chain.from_iterable(files_by_class.values()):
            link = folder / split / file
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((images_dir / file).resolve())


def write_shifted_copies(images_dir: Path, folder: Path, num_copies: int) -> int:
    """Writes copies of each photograph, no two the same: each is shifted by another number of pixels.

    Returns:
        The number of files.
    """
    return _write_all(
        _write_shifted, ((file, folder, copy) for file in _files(images_dir) for copy in range(num_copies))
    )


def link_first_copies(folder: Path, smaller: Path, num_copies: int) -> int:
    """Makes a folder with the first copies only of what `write_shifted_copies` wrote, and returns their number."""
    files = [file for file in _files(folder) if int(file.stem.rpartition("_")[2]) < num_copies]
    for file in files:
        link = smaller / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.hardlink_to(file)
    return len(files)


def write_enlarged(images_dir: Path, folder: Path, num_images: int) -> None:
    """Writes photographs of `LARGE_SIZE`; where there are too few, they come again, every second time mirrored."""
    files = _files(images_dir)
    tasks = ((files[index % len(files)], folder, index // len(files)) for index in range(num_images))
    _write_all(_write_large, tasks)


def _files(images_dir: Path) -> list[Path]:
    return sorted(images_dir.glob("*/*.jpg"))


def _write_all(write: Callable[[tuple[Path, Path, int]], None], tasks: Iterable[tuple[Path, Path, int]]) -> int:
    with ProcessPoolExecutor() as executor:
        return sum(1 for _ in executor.map(write, tasks, chunksize=64))


def _write_shifted(task: tuple[Path, Path, int]) -> None:
    from PIL import Image, ImageChops

    file, folder, copy = task
    with Image.open(file) as image:
        _save(ImageChops.offset(image.convert("RGB"), copy, 0), folder / file.parent.name / f"{file.stem}_{copy}.jpg")


def _write_large(task: tuple[Path, Path, int]) -> None:
    from PIL import Image, ImageOps

    file, folder, turn = task
    with Image.open(file) as image:
        large = image.convert("RGB").resize(LARGE_SIZE, Image.Resampling.LANCZOS)
    _save(ImageOps.mirror(large) if turn % 2 else large, folder / file.parent.name / f"{file.stem}_{turn}.jpg")


def _save(image: "Image.Image", path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=JPEG_QUALITY)
