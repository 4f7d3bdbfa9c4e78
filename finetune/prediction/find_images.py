"""From the words of a command line to image files: files, folders, globs, and `-` for a list on standard input."""

import glob
import io
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from finetune.datasets.image_walk import Reason, found_folder, is_system_name, walk_images
from finetune.datasets.remarks import Kind, Remark, remarks_on
from finetune.errors import UserError, nearest_siblings
from finetune.files.whole_files import is_special

STANDARD_INPUT = "-"


def find_images(words: Sequence[str]) -> Iterator[str]:
    """The files that the words stand for, in the order of the words, found as they are asked for.

    A folder stands for the images that finetune-convert finds in it and in the folders within, sorted, those behind
    links last. A glob is expanded here where the shell did not: `**` is any depth. `-` is read from standard input, a
    path a line.

    Raises:
        UserError: There are no words; a word that stands for nothing. Told before the first file is handed out.
    """
    if not words:
        raise UserError("No images are given.", "Name files, folders or globs, or - to read paths from standard input.")
    for word in words:
        _check(word)
    return (path for word in words for path in _expand(word))


def left_out(words: Sequence[str]) -> tuple[Remark, ...]:
    """A remark for each kind of thing that folders hold, or globs match, beside the images of `find_images`."""
    by_reason: dict[Reason, list[str]] = defaultdict(list)
    for word in words:
        if word == STANDARD_INPUT or Path(word).is_file():
            continue
        if Path(word).is_dir():
            for item in walk_images(found_folder(Path(word))):
                if item.reason is not None:
                    by_reason[item.reason].append(str(item.path))
        else:
            by_reason[Reason.SPECIAL] += [match for match in _glob(word) if is_special(Path(match))]
    return tuple(remark for reason in Reason for remark in remarks_on(Kind.LEFT_OUT, by_reason[reason], *reason.value))


def _check(word: str) -> None:
    if word == STANDARD_INPUT or Path(word).is_file():
        return
    if Path(word).is_dir():
        if next(_images_under(word), None) is None:
            raise UserError(f"The folder {word} holds no images.", "\n  ".join(map(str, left_out([word]))) or None)
    elif glob.has_magic(word):
        if not _matches(word):
            raise UserError(f"Nothing matches {word!r}.")
    elif is_special(Path(word)):
        raise UserError(
            f"{word} is a pipe, a socket or a device; an image file was expected.", "Name a file or a folder."
        )
    else:
        raise UserError(f"There is no file or folder {word}.", nearest_siblings(Path(word)))


def _expand(word: str) -> Iterator[str]:
    if word == STANDARD_INPUT:
        yield from _paths_from_standard_input()
    elif Path(word).is_dir():
        yield from _images_under(word)
    elif Path(word).exists() or not glob.has_magic(word):
        yield word
    else:
        for match in _matches(word):
            yield from _images_under(match) if Path(match).is_dir() else [match]


def _matches(pattern: str) -> list[str]:
    return sorted(match for match in _glob(pattern) if not _is_beside_the_point(Path(match), pattern))


def _glob(pattern: str) -> list[str]:
    return glob.glob(pattern, recursive=True)  # noqa: PTH207  Path.glob takes no absolute patterns.


def _is_beside_the_point(path: Path, pattern: str) -> bool:
    """Whether a match is nothing to open, or among what a file manager keeps, which the pattern doesn't name."""
    return is_special(path) or any(is_system_name(part) and part not in pattern for part in path.parts)


def _images_under(folder: str) -> Iterator[str]:
    return (str(item.path) for item in walk_images(found_folder(Path(folder))) if item.reason is None)


def _paths_from_standard_input() -> Iterator[str]:
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # A file's name may be no valid Unicode.
    for line in sys.stdin:
        if path := line.rstrip("\r\n"):
            yield path
