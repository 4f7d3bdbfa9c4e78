"""From a name to a checkpoint or a folder of images on this machine."""

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from finetune.errors import UserError
from finetune.files.folder_lock import sole_writer
from finetune.files.whole_files import whole_folder
from finetune.files.write_errors import write_errors_told
from finetune.published.archives import unpack
from finetune.published.cache import fetch, forget
from finetune.published.catalogue import get_published
from finetune.published.known_datasets import KNOWN_DATASETS

# Where the downloaded files are kept, beside the unpacked ones.
ARCHIVES_FOLDER = "archives"

log = logging.getLogger("finetune")


def default_folder() -> Path:
    """The user's cache folder for this program."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune"


def obtain(name: str, folder: Path, base_url: str | None = None) -> Path:
    """Downloads and unpacks what is published under a name, unless it is there already.

    Args:
        name: Of a network or a data set.
        folder: Gets `NAME/`, and `archives/`, where the downloaded files are kept.
        base_url: A mirror: what stands before the path in its addresses.

    Returns:
        Prefix of the checkpoint, or the folder of the images: class folders, or train and test folders of such.

    Raises:
        UserError: An unknown name, a server that can't be reached, a file that is damaged or not the one it was.
    """
    published = get_published(name)
    unpacked = folder / name
    if not unpacked.exists():
        with sole_writer(unpacked, flag="--output-dir", program="finetune-download", wait=True):
            if not unpacked.exists():  # Another program may just have made it.
                _fetch_and_unpack(name, unpacked, folder / ARCHIVES_FOLDER, base_url)
    return _only_folder(unpacked) if published.is_dataset else find_checkpoint(unpacked)


def _fetch_and_unpack(name: str, unpacked: Path, archives: Path, base_url: str | None) -> None:
    files = [fetch(url, archives, base_url) for url in get_published(name).urls]
    with _appearing_whole(unpacked) as partial:
        try:
            _unpack(name, files, partial)
        except UserError:  # They are damaged; where there is no room for what is in them they stay.
            for file in files:
                forget(file)
            raise


def find_checkpoint(folder: Path) -> Path:
    """The checkpoint anywhere in a folder; where there are several, that of the moving averages.

    Raises:
        UserError: There is none.
    """
    prefixes = [index.with_suffix("") for index in folder.rglob("*.index")] or list(folder.rglob("*.ckpt"))
    if not prefixes:
        raise UserError(f"{folder} holds no checkpoint.", "Remove the folder and download it again.")
    # Archives of MobileNet V3 hold the weights as trained, and in a folder `ema` their averages.
    return min(prefixes, key=lambda prefix: ("ema" not in prefix.parts, prefix))


@contextlib.contextmanager
def unpacked_for_now(name: str, files: Sequence[Path], folder: Path) -> Iterator[Path]:
    """The images of a published data set out of files that are here already; gone afterwards.

    Args:
        name: Of the data set.
        files: As `find_published_files` gives them.
        folder: Where the images are unpacked.

    Raises:
        UserError: A file is damaged, or there is no room; another program does the same.
    """
    unpacked = folder / f".{name}.unpacked"
    with sole_writer(unpacked, flag="--dataset-dir", program="finetune-convert"):
        shutil.rmtree(unpacked, ignore_errors=True)  # What a killed run left.
        try:
            with _appearing_whole(unpacked, "--dataset-dir") as partial:
                _unpack(name, files, partial)
            yield _only_folder(unpacked)
        finally:
            shutil.rmtree(unpacked, ignore_errors=True)


def find_published_files(name: str, folder: Path) -> list[Path]:
    """The files that a data set was published in, where a folder holds all of them, compressed or not; else none."""
    names = [url.rsplit("/", 1)[-1] for url in get_published(name).urls]
    files = [folder / file if (folder / file).is_file() else (folder / file).with_suffix("") for file in names]
    missing = [file for file, path in zip(names, files, strict=True) if not path.is_file()]
    if missing and len(missing) < len(names):
        log.info("%s holds files of %s, but not %s.", folder, name, ", ".join(missing))
    return [] if missing else files


@contextlib.contextmanager
def _appearing_whole(folder: Path, flag_name: str = "--output-dir") -> Iterator[Path]:
    """Another folder to write in, which becomes this one at the end; after an error there is neither."""
    try:
        with write_errors_told(), whole_folder(folder) as partial:
            yield partial
    except OSError as error:
        raise UserError(f"{folder} can't be written: {error.strerror}.", f"Choose another {flag_name}.") from error


def _unpack(name: str, files: Sequence[Path], folder: Path) -> None:
    write = KNOWN_DATASETS[name].load_writer() if name in KNOWN_DATASETS else None
    if write is not None:
        write(files, folder)
    else:
        unpack(files[0], folder)


def _only_folder(folder: Path) -> Path:
    """The folder within, where there is just one, as in archives that hold a folder; else the folder itself."""
    within = [path for path in folder.iterdir() if path.is_dir()]
    return within[0] if len(within) == 1 else folder
