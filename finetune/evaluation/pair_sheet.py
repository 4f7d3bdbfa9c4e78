"""Pairs of pictures side by side, in one HTML file for people, without network or scripts."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.datasets.folders import readable_name
from finetune.datasets.image_rules import ImageRules
from finetune.datasets.images import BrokenImageError, prepare_image, read_image_file
from finetune.evaluation.thumbnails import thumbnail
from finetune.files.whole_files import printable, write_text

TEMPLATE = "pair_sheet.html.jinja"
THUMBNAIL_PIXELS = 192


@dataclass(frozen=True)
class ShownPair:
    """Two pictures, and what stands below them.

    Attributes:
        files: Relative to the image folder.
        splits, classes: Of each of them.
        note: How alike they are.
    """

    files: tuple[str, str]
    splits: tuple[str, str]
    classes: tuple[str, str]
    note: str


def write_pair_sheet(
    path: Path, pairs: Sequence[ShownPair], images_dir: Path, rules: ImageRules, *, num_pairs: int, num_apart: int
) -> None:
    """Writes the sheet, whole or not at all.

    Args:
        path: The HTML file.
        pairs: Those that are shown, in their order.
        images_dir: What their files are relative to.
        rules: How the images become pixels of 8 bits.
        num_pairs: How many there are.
        num_apart: How many of them are in different splits.
    """
    import jinja2

    loader = jinja2.PackageLoader("finetune.evaluation", package_path="")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    shown = [_content(pair, images_dir, rules) for pair in pairs]
    html = environment.get_template(TEMPLATE).render(pairs=shown, num_pairs=num_pairs, num_apart=num_apart)
    write_text(path, printable(html))


def _content(pair: ShownPair, images_dir: Path, rules: ImageRules) -> dict[str, Any]:
    names, pictures = map(readable_name, pair.files), (_data_uri(images_dir / file, rules) for file in pair.files)
    return {
        "sides": list(zip(names, pictures, pair.splits, pair.classes, strict=True)),
        "note": pair.note,
        "is_apart": len(set(pair.splits)) > 1,
        "contradicts": len(set(pair.classes)) > 1,
    }


def _data_uri(path: Path, rules: ImageRules) -> str:
    try:
        small = thumbnail(prepare_image(read_image_file(path, rules), rules).encoded, THUMBNAIL_PIXELS)
    except (BrokenImageError, OSError):  # It has changed meanwhile.
        return "data:,"
    return "data:image/jpeg;base64," + base64.b64encode(small).decode()
