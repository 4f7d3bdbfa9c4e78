"""The same picture twice: in two splits it makes scores look better than they are, in two classes one is wrong."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.datasets.folders import readable_name
from finetune.datasets.image_rules import ImageRules
from finetune.datasets.images import pixel_hash
from finetune.files.whole_files import sha256

# From the files of a split or a class, relative to the image folder, to the fingerprints of their images.
Fingerprints = Mapping[str, bytes]
# Of each picture its files.
Pictures = list[list[str]]


@dataclass(frozen=True)
class DuplicatePair:
    """Two files that hold the same picture, or nearly so.

    Attributes:
        first, second: The files, relative to the image folder.
        similarity: Correlation of their details, at most 1.
        distance: Bits in which their nearest hashes differ.
        is_copy: Whether they have the same bytes, or are of one kind with the same pixels.
    """

    first: str
    second: str
    similarity: float = 1.0
    distance: int = 0
    is_copy: bool = True


def same_pictures(files: Sequence[str], fingerprints: Sequence[bytes], images_dir: Path, rules: ImageRules) -> Pictures:
    """Divides files into pictures: those with the same bytes, or of one kind with the same pixels, are one.

    Args:
        files: Relative to `images_dir`.
        fingerprints: Of their images. Files whose fingerprints agree are read again, to be sure.
        images_dir: The folder of the images.
        rules: How the images become pixels of 8 bits.
    """
    alike: dict[bytes, list[tuple[str, str]]] = defaultdict(list)
    for file, fingerprint in zip(files, fingerprints, strict=True):
        alike[fingerprint].append(("", file))
    pictures = []
    for group in alike.values():
        same = _equal_pictures(group, images_dir, rules) if len(group) > 1 else [group]
        pictures += [[file for _, file in of_picture] for of_picture in same]
    return pictures


def find_duplicates(
    groups: Mapping[str, Fingerprints], images_dir: Path, rules: ImageRules
) -> tuple[dict[str, list[str]], ...]:
    """Finds pictures that are in more than one group: files with the same bytes, or of one kind with the same pixels.

    Args:
        groups: For each group, a split or a class, the fingerprint of each file.
        images_dir: What the files are relative to. Files whose fingerprints agree are read again, to be sure.
        rules: How the images become pixels of 8 bits.

    Returns:
        For each such picture its files by group, sorted.
    """
    num_groups = Counter(fingerprint for fingerprints in groups.values() for fingerprint in set(fingerprints.values()))
    suspects: dict[bytes, list[tuple[str, str]]] = defaultdict(list)
    for name, fingerprints in groups.items():
        for file, fingerprint in fingerprints.items():
            if num_groups[fingerprint] > 1:
                suspects[fingerprint].append((name, file))
    duplicates = []
    for alike in suspects.values():
        for same in _equal_pictures(alike, images_dir, rules):
            by_group: dict[str, list[str]] = defaultdict(list)
            for name, file in same:
                by_group[name].append(readable_name(file))
            if len(by_group) > 1:
                duplicates.append({name: sorted(files) for name, files in by_group.items()})
    return tuple(sorted(duplicates, key=lambda by_group: list(by_group.values())))


def _equal_pictures(group: list[tuple[str, str]], images_dir: Path, rules: ImageRules) -> list[list[tuple[str, str]]]:
    """Divides files with one fingerprint into those that are the same picture; mostly they all are, byte for byte."""
    by_bytes: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for split, file in group:
        by_bytes[sha256(images_dir / file)].append((split, file))
    by_pixels: dict[bytes, list[tuple[str, str]]] = defaultdict(list)
    for same_bytes in by_bytes.values():
        data = (images_dir / same_bytes[0][1]).read_bytes() if len(by_bytes) > 1 else b""
        by_pixels[pixel_hash(data, rules) if data else b""].extend(same_bytes)
    return list(by_pixels.values())
