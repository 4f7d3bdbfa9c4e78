"""The one walk through folders of images, for all commands: which files are images, and why the others are none.

Links are followed, to files and to folders. A folder is walked once, however many links lead to it, so a loop of links
ends; what lies behind links comes last, so that a file is known by its own place where it has one. Pipes, sockets and
devices are never opened.
"""

import enum
import os
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from finetune.datasets.images import SUFFIXES, is_image
from finetune.errors import UserError
from finetune.files.shares import SHARES_FOLDER

# What file managers, cameras' programs, network drives and notebooks put beside images: thumbnails, mostly.
SYSTEM_NAMES = frozenset({
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin", "system volume information"),
    *(".ds_store", "icon\r", "__macosx", ".appledouble", ".spotlight-v100", ".fseventsd", ".trashes", ".trash"),
    *("@eadir", "@recycle", "#recycle", "#snapshot", ".@__thumb", "@__thumb"),
    *(".thumbnails", ".thumbs", ".xvpics", ".directory", "lost+found", "picasa.ini", ".picasa.ini", ".picasaoriginals"),
    *(".ipynb_checkpoints", ".dropbox", ".dropbox.cache", ".sync"),
})  # fmt: skip
# macOS writes a file's attributes as `._NAME` where the drive can't hold them.
SYSTEM_PREFIX = "._"


class Reason(enum.Enum):
    """Why something that lies among the images is left out: one of them, more of them."""

    NO_IMAGE = "file that is no image", "files that are no images"
    HIDDEN = "hidden file or folder", "hidden files and folders"
    SYSTEM = "file or folder of a file manager", "files and folders of file managers"
    BROKEN_LINK = "link that leads nowhere", "links that lead nowhere"
    SEEN_FOLDER = "link to a folder that is walked already", "links to folders that are walked already"
    SEEN_FILE = "link to an image that the class has already", "links to images that the class has already"
    SAME_PICTURE = "copy of a picture, which has its label now", "copies of pictures, which have their labels now"
    SPECIAL = "pipe, socket or device", "pipes, sockets and devices"
    LOOSE = "image outside the class folders", "images outside the class folders"
    UNLABELLED = "image of a split without class folders", "images of splits without class folders"
    EMPTY = "folder that holds no images", "folders that hold no images"
    NO_SPLIT = "folder that is called like no split", "folders that are called like no split"
    NOT_LISTED = "image that the table of labels doesn't name", "images that the table of labels doesn't name"


class Found(NamedTuple):
    """Something in a folder.

    Attributes:
        path: How the walk came to it.
        real: Where it is, when all links are followed; as `path` for what is left out.
        is_link: Whether it is a link itself.
        is_folder: Whether it is a folder, or a link to one.
        reason: Why it is left out; None for images and for folders to walk.
    """

    path: Path
    real: str
    is_link: bool = False
    is_folder: bool = False
    reason: Reason | None = None


class Listing(NamedTuple):
    """What lies directly in a folder, each sorted by name."""

    folders: list[Found]
    files: list[Found]
    left_out: list[Found]

    def has_images(self) -> bool:
        """Whether an image lies directly in the folder."""
        return any(looks_like_image(file.path) for file in self.files)


def found_folder(path: Path) -> Found:
    """A folder to start from."""
    return Found(path, os.path.realpath(path), is_folder=True)


def walk_images(folder: Found, *, skip: str | None = None) -> Iterator[Found]:
    """Everything in a folder and the folders within: images, and what is left out, with the reason.

    Args:
        folder: Where to start.
        skip: Real path of a folder within that is passed over without a word.

    Raises:
        UserError: A folder can't be read.
    """
    seen: set[str] = set()
    to_walk, behind_links = [folder._replace(is_link=False)], deque[Found]()
    while to_walk or behind_links:
        current = to_walk.pop() if to_walk else behind_links.popleft()
        if current.real == skip != folder.real:
            continue
        if current.real in seen or (current.is_link and _is_within(folder.real, current.real)):
            yield current._replace(reason=Reason.SEEN_FOLDER)
            continue
        seen.add(current.real)
        within: list[Found] = []
        for item in _scan(current):
            if item.reason is None and item.is_folder:
                (behind_links if item.is_link else within).append(item)
            elif item.reason is not None or looks_like_image(item.path):
                yield item
            else:
                yield item._replace(reason=Reason.NO_IMAGE)
        to_walk.extend(reversed(within))


def list_folder(folder: Found) -> Listing:
    """What lies directly in a folder. A link to the folder itself, or to one above it, is left out.

    Raises:
        UserError: The folder can't be read.
    """
    listing = Listing([], [], [])
    for item in _scan(folder):
        if item.reason is not None:
            listing.left_out.append(item)
        else:
            (listing.folders if item.is_folder else listing.files).append(item)
    return listing


def looks_like_image(path: Path) -> bool:
    """Whether a file is called like an image, in which case it must be one, or starts like one."""
    return path.suffix.lower() in SUFFIXES or is_image(path)


def is_system_name(name: str) -> bool:
    """Whether a file or folder is called like what programs leave beside images, thumbnails among it."""
    return name.lower() in SYSTEM_NAMES or name.startswith(SYSTEM_PREFIX)


def _scan(folder: Found) -> Iterator[Found]:
    """What lies directly in a folder, sorted by name, a little at a time: a folder may hold a million images."""
    try:
        with os.scandir(folder.path) as scanned:
            # What jobs of an array keep for each other comes and goes while they look.
            known = (entry for entry in scanned if not entry.name.startswith(SHARES_FOLDER))
            entries = sorted(known, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"The folder {folder.path} can't be read: {error.strerror}.") from error
    return (_find(folder, entry) for entry in entries)


def _find(folder: Found, entry: "os.DirEntry[str]") -> Found:
    path = folder.path / entry.name
    if is_system_name(entry.name) or entry.name.startswith("."):
        reason = Reason.SYSTEM if is_system_name(entry.name) else Reason.HIDDEN
        return Found(path, str(path), is_folder=entry.is_dir(follow_symlinks=False), reason=reason)
    is_link = entry.is_symlink()
    real = _real(path) if is_link else f"{folder.real.rstrip(os.sep)}{os.sep}{entry.name}"
    kind = _kind(path if is_link else entry)
    found = Found(path, real, is_link, kind == stat.S_IFDIR)
    if found.is_folder:
        return found._replace(reason=Reason.SEEN_FOLDER) if is_link and _is_within(folder.real, real) else found
    # A broken link that is called like an image is an image that can't be read.
    if kind == stat.S_IFREG or (kind is None and path.suffix.lower() in SUFFIXES):
        return found
    return found._replace(reason=Reason.BROKEN_LINK if kind is None else Reason.SPECIAL)


def _real(path: Path) -> str:
    """Where a link leads; where that may not be known, as of other users' processes in /proc, the link itself."""
    try:
        return os.path.realpath(path)
    except OSError:
        return str(path)


def _kind(entry: "Path | os.DirEntry[str]") -> int | None:
    """The type bits of what a name leads to; None where it leads to nothing that can be reached."""
    try:
        if isinstance(entry, os.DirEntry) and entry.is_file(follow_symlinks=False):
            return stat.S_IFREG  # Known without asking for it.
        return stat.S_IFMT(entry.stat().st_mode)
    except OSError:
        return None


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip(os.sep)}{os.sep}")
