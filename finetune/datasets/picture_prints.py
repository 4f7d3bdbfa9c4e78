"""What a picture is known again by: its fingerprint and, where near duplicates are looked for, hashes and a small copy.

The hashes are imagehash's perceptual ones of 64 bits: the signs of a picture's lowest frequencies. A crop has others,
so there is one of the whole, one of its mirror image, and one of each of nine parts, without a tenth of each side.
"""

import functools
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from finetune.datasets.image_rules import ImageRules
from finetune.datasets.images import BrokenImageError, prepare_image, read_image_file
from finetune.datasets.processes import work_on_images
from finetune.errors import UserError
from finetune.types import Array

FILES_PER_TASK = 100
HASHED_PIXELS = 64  # Side of the picture that the hashes are taken of.
SMALL_PIXELS = 48  # Side of the small copy.
DECODED_PIXELS = 128  # A JPEG is decoded at the smallest of its scales that has these.
# From where to where a part goes, of a side's length.
PARTS = ((0.0, 0.9), (0.05, 0.95), (0.1, 1.0))
# Windows whose hashes a picture has, top and bottom, left and right: the whole, and its parts.
WINDOWS = (((0.0, 1.0), (0.0, 1.0)), *((rows, columns) for rows in PARTS for columns in PARTS))
WHOLE, MIRRORED = 0, len(WINDOWS)
NUM_HASHES = len(WINDOWS) + 1


@dataclass(frozen=True)
class Prints:
    """Of pictures that can be read.

    Attributes:
        files: Relative to the image folder, sorted.
        fingerprints: Of each, as `PreparedImage` has it.
        hashes: uint64 [N,NUM_HASHES]: of each of the `WINDOWS`, then of the mirror image; [0,NUM_HASHES] where no near
            duplicates are looked for.
        small: The pictures in grey, squashed to a square, uint8 [N,SMALL_PIXELS,SMALL_PIXELS]; [0,...] as above.
    """

    files: tuple[str, ...]
    fingerprints: tuple[bytes, ...]
    hashes: Array
    small: Array


def take_prints(
    files: Sequence[str],
    images_dir: Path,
    rules: ImageRules,
    *,
    near: bool,
    num_workers: int | None,
    on_progress: Callable[[int], None],
) -> Prints:
    """Looks at all pictures, in several processes. Those that can't be read are left out: the conversion names them.

    Args:
        files: Relative to `images_dir`.
        images_dir: The folder of the images.
        rules: How the images become pixels of 8 bits.
        near: Whether hashes and small copies are wanted beside the fingerprints.
        num_workers: How many processes; None: one for each core where there is enough to do.
        on_progress: Called now and then with the number of images done since the last call.

    Raises:
        UserError: imagehash is wanted and not installed; a worker process was killed.
    """
    if near:
        _check_imagehash()
    ordered = sorted(files)
    tasks = [ordered[first : first + FILES_PER_TASK] for first in range(0, len(ordered), FILES_PER_TASK)]
    look = functools.partial(_look_at, images_dir=images_dir, rules=rules, near=near)
    parts = work_on_images(look, tasks, list(map(len, tasks)), num_workers=num_workers, on_progress=on_progress)
    return Prints(
        tuple(file for part in parts for file in part.files),
        tuple(fingerprint for part in parts for fingerprint in part.fingerprints),
        np.concatenate([part.hashes for part in parts]),
        np.concatenate([part.small for part in parts]),
    )


def _check_imagehash() -> None:
    try:
        import imagehash  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--find-near-duplicates: {error.name} is not installed.",
            "It comes with the extra duplicates: pip install 'slim-finetune[duplicates]'",
        ) from error


def _look_at(
    files: Sequence[str], on_image: Callable[[], None], *, images_dir: Path, rules: ImageRules, near: bool
) -> Prints:
    readable, fingerprints, hashes, small = [], [], [], []
    for file in files:
        try:
            prepared = prepare_image(read_image_file(images_dir / file, rules), rules)
        except BrokenImageError:
            pass
        else:
            readable.append(file)
            fingerprints.append(prepared.fingerprint)
            if near:
                grey = _in_grey(prepared.encoded)
                hashes.append(perceptual_hashes(grey))
                small.append(np.asarray(_squashed(grey, SMALL_PIXELS)))
        on_image()
    return Prints(
        tuple(readable),
        tuple(fingerprints),
        np.array(hashes, np.uint64).reshape(-1, NUM_HASHES),
        np.array(small, np.uint8).reshape(-1, SMALL_PIXELS, SMALL_PIXELS),
    )


def perceptual_hashes(grey: Image.Image) -> Array:
    """The hashes of a picture in grey, uint64 [NUM_HASHES]."""
    import imagehash

    whole = _squashed(grey, HASHED_PIXELS)
    boxes = [
        [round(HASHED_PIXELS * part) for part in (left, top, right, bottom)] for (top, bottom), (left, right) in WINDOWS
    ]
    pictures = [whole.crop((left, top, right, bottom)) for left, top, right, bottom in boxes]
    pictures.append(whole.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    bits = np.array([imagehash.phash(picture).hash.ravel() for picture in pictures])
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def _in_grey(encoded: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(encoded))
    image.draft("L", (DECODED_PIXELS, DECODED_PIXELS))
    return image.convert("L")


def _squashed(image: Image.Image, side: int) -> Image.Image:
    return image.resize((side, side), Image.Resampling.BOX)
