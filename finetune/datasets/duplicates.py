"""The same picture in two splits: it makes the score on the second look better than it is."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from finetune.datasets.folders import canonical_name
from finetune.datasets.image_rules import ImageRules
from finetune.datasets.images import pixel_hash

# From the files of a split, relative to the image folder, to the fingerprints of their images.
Fingerprints = Mapping[str, bytes]


def find_duplicates(
    splits: Mapping[str, Fingerprints], images_dir: Path, rules: ImageRules
) -> tuple[dict[str, list[str]], ...]:
    """Finds pictures that are in more than one split: files with the same bytes, or of one kind with the same pixels.

    Args:
        splits: For each split the fingerprint of each file.
        images_dir: What the files are relative to. Files whose fingerprints agree are read again, to be sure.
        rules: How the images become pixels of 8 bits.

    Returns:
        For each such picture its files by split, sorted.
    """
    shared = _in_several_splits([set(fingerprints.values()) for fingerprints in splits.values()])
    suspects: dict[bytes, list[tuple[str, str]]] = defaultdict(list)
    for split, fingerprints in splits.items():
        for file, fingerprint in fingerprints.items():
            if fingerprint in shared:
                suspects[fingerprint].append((split, file))
    duplicates = []
    for group in suspects.values():
        for same in _equal_pictures(group, images_dir, rules):
            by_split: dict[str, list[str]] = defaultdict(list)
            for split, file in same:
                by_split[split].append(canonical_name(file))
            if len(by_split) > 1:
                duplicates.append({split: sorted(files) for split, files in by_split.items()})
    return tuple(sorted(duplicates, key=lambda by_split: list(by_split.values())))


def _in_several_splits(fingerprints_of_splits: list[set[bytes]]) -> set[bytes]:
    shared: set[bytes] = set()
    for number, fingerprints in enumerate(fingerprints_of_splits):
        shared.update(*(fingerprints & others for others in fingerprints_of_splits[number + 1 :]))
    return shared


def _equal_pictures(group: list[tuple[str, str]], images_dir: Path, rules: ImageRules) -> list[list[tuple[str, str]]]:
    """Divides files with one fingerprint into those that are the same picture; mostly they all are, byte for byte."""
    by_bytes: dict[bytes, list[tuple[str, str]]] = defaultdict(list)
    for split, file in group:
        by_bytes[hashlib.sha256((images_dir / file).read_bytes()).digest()].append((split, file))
    by_pixels: dict[bytes, list[tuple[str, str]]] = defaultdict(list)
    for same_bytes in by_bytes.values():
        data = (images_dir / same_bytes[0][1]).read_bytes() if len(by_bytes) > 1 else b""
        by_pixels[pixel_hash(data, rules) if data else b""].extend(same_bytes)
    return list(by_pixels.values())
