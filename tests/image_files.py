"""Small image files and folders of them, made on the spot."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int = 0, *, width: int = 40, height: int = 32, mode: str = "RGB") -> Image.Image:
    """A picture with soft shapes, another for each seed."""
    noise = np.random.RandomState(seed).randint(0, 256, [5, 6, 3]).astype(np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encode(image: Image.Image, file_format: str = "JPEG", **options) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def write_file(path: Path, content: bytes) -> Path:
    """Writes a file, and the folders that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write_class_folders(root: Path, **counts: int) -> Path:
    """`counts` JPEG files in a folder for each class, all of them different."""
    for class_number, (name, number) in enumerate(sorted(counts.items())):
        for index in range(number):
            write_file(root / name / f"{index:03d}.jpg", encode(picture(1000 * class_number + index)))
    return root
