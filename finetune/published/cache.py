"""Downloaded files are kept, with their hash: that which is known, else that of the first download. It must stay so."""

import logging
import urllib.parse
from pathlib import Path

from finetune.errors import UserError
from finetune.files.folder_lock import sole_writer
from finetune.files.whole_files import sha256, write_text
from finetune.files.write_errors import write_errors_told
from finetune.published.http_download import download
from finetune.published.known_hashes import SHA256

HASH_ENDING = ".sha256"

log = logging.getLogger("finetune")


def fetch(url: str, folder: Path, base_url: str | None = None) -> Path:
    """Downloads a file, unless it is in the folder already, and checks its hash.

    Args:
        url: Where it was published.
        folder: Where it is kept, and beside it FILE.sha256 in the format of `sha256sum`.
        base_url: A mirror, in place of the address's host: the path below it is the same.

    Returns:
        Path of the file.

    Raises:
        UserError: It can't be downloaded, or it isn't the file that was published, or downloaded first.
    """
    path = folder / Path(urllib.parse.urlsplit(url).path).name
    # Several names may have one archive, and several programs one folder.
    with sole_writer(path, flag="--output-dir", program="finetune-download", wait=True):
        _fetch(url, path, base_url)
    return path


def _fetch(url: str, path: Path, base_url: str | None) -> None:
    published = SHA256.get(url)
    recorded = published or _recorded_hash(path)
    if path.exists() and sha256(path) == recorded:
        return
    if path.exists():
        log.info("%s is not as it was downloaded: downloading it again.", path)
        path.unlink()
    source = url if base_url is None else f"{base_url.rstrip('/')}{urllib.parse.urlsplit(url).path}"
    log.info("Downloading %s", source)
    download(source, path)
    found = sha256(path)
    if published is not None and found != published:
        path.unlink()
        raise UserError(
            f"{source} gives another file than was published: sha256 {found}, not {published}.",
            "Name another mirror with --base-url, or leave the flag out.",
        )
    if _recorded_hash(path) is None:
        with write_errors_told():
            write_text(_hash_path(path), f"{found}  {path.name}\n")
    elif found != recorded:
        path.unlink()
        raise UserError(
            f"{source} gives another file than at the first download: sha256 {found}, at first {recorded}.",
            f"If the file was changed for good reason, remove {_hash_path(path)}.",
        )


def forget(path: Path) -> None:
    """Removes a file that turned out to be damaged, and its hash."""
    path.unlink(missing_ok=True)
    _hash_path(path).unlink(missing_ok=True)


def _hash_path(path: Path) -> Path:
    return path.with_name(path.name + HASH_ENDING)


def _recorded_hash(path: Path) -> str | None:
    words = _hash_path(path).read_text(encoding="utf-8").split() if _hash_path(path).exists() else []
    return words[0] if words else None
