"""From the words of a command line to image files: files, folders, globs, and `-` for a list on standard input."""

import glob
import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from finetune.datasets.images import SUFFIXES, is_image
from finetune.errors import UserError, nearest_siblings

STANDARD_INPUT = "-"


def find_images(words: Sequence[str]) -> Iterator[str]:
    """The files that the words stand for, in the order of the words, found as they are asked for.

    A folder stands for the images in it and in the folders within, sorted; hidden ones are passed over. A glob is
    expanded here where the shell did not: `**` is any depth. `-` is read from standard input, a path a line.

    Raises:
        UserError: There are no words; a word that stands for nothing. Told before the first file is handed out.
    """
    if not words:
        raise UserError("No images are given.", "Name files, folders or globs, or - to read paths from standard input.")
    for word in words:
        _check(word)
    return (path for word in words for path in _expand(word))


def _check(word: str) -> None:
    if word == STANDARD_INPUT or Path(word).is_file():
        return
    if Path(word).is_dir():
        if next(_images_under(word), None) is None:
            raise UserError(f"The folder {word} holds no images.")
    elif glob.has_magic(word):
        if not _matches(word):
            raise UserError(f"Nothing matches {word!r}.")
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
    return sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  Path.glob takes no absolute patterns.


def _images_under(folder: str) -> Iterator[str]:
    for directory, subfolders, names in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            path = Path(directory, name)
            if not name.startswith(".") and (path.suffix.lower() in SUFFIXES or is_image(path)):
                yield str(path)


def _paths_from_standard_input() -> Iterator[str]:
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # A file's name may be no valid Unicode.
    for line in sys.stdin:
        if path := line.rstrip("\r\n"):
            yield path
