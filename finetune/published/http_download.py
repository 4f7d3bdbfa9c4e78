"""Files over HTTP: a broken-off download goes on where it stopped, and a file is never half there."""

import contextlib
import http.client
import logging
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

from finetune.errors import UserError
from finetune.files.json_files import read_json
from finetune.files.whole_files import partial_path, put_in_place, write_json
from finetune.files.write_errors import naming, write_errors_told
from finetune.progress import progress

CHUNK_BYTES = 1_000_000
TIMEOUT_SECONDS = 30.0
# Tries in a row that bring no byte, and changes of the file, after which a download is given up.
MAX_VAIN_TRIES = 4
MAX_CHANGES = 3
FIRST_PAUSE_SECONDS = 0.5
# Several times the largest file of the tables.
MOST_DOWNLOADED_BYTES = 4 * 2**30
SCHEMES = ("http", "https")

_MEND = "Check the connection, or name a mirror with --base-url."

log = logging.getLogger("finetune")


class _ChangedError(Exception):
    """What is already there and what the server sends now are not of one file."""


def download(url: str, path: Path, *, pause: Callable[[float], None] = time.sleep) -> None:
    """Fetches a file. It appears under its name only when it is whole; until then what has come lies in PATH.partial.

    Args:
        url: http or https.
        path: Where it goes; the folder is made.
        pause: Waits so many seconds between tries.

    Raises:
        UserError: The server can't be reached, refuses, or never sends as many bytes as it announces; the file can't be
            written.
    """
    partial = _Partial(path)
    vain_tries = changes = 0
    while max(vain_tries / MAX_VAIN_TRIES, changes / MAX_CHANGES) < 1:
        before = partial.size
        try:
            if _fetch_rest(url, partial):
                partial.finish()
                return
            problem = f"{partial.size:,} of {partial.total_bytes:,} bytes came, and then no more"
        except _ChangedError as error:
            partial.discard()
            changes += 1
            problem = str(error)
        except urllib.error.HTTPError as error:
            raise UserError(f"{url}: the server answers {error.code} {error.reason}.", _MEND) from error
        except (OSError, http.client.HTTPException) as error:
            problem = _reason(error)
            if partial.size == 0:
                raise UserError(f"{urllib.parse.urlsplit(url).netloc} can't be reached: {problem}.", _MEND) from error
        log.info("%s: %s; trying again.", path.name, problem)
        vain_tries = 0 if partial.size > before else vain_tries + 1
        pause(FIRST_PAUSE_SECONDS * 2**vain_tries)
    raise UserError(f"{url}: {problem}.", "Try again later, or name a mirror with --base-url.")


class _Partial:
    """What has come of a file so far, and what the server said of the file: its length and its version."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content = partial_path(path)
        self._description = path.with_name(f"{self._content.name}.json")
        self.version: str | None = None
        self.total_bytes: int | None = None
        with self._written():
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            described = read_json(self._description, {"version": str | None, "total_bytes": int | None})
            self.version, self.total_bytes = described["version"], described["total_bytes"]
        except UserError:
            self.discard()

    @property
    def size(self) -> int:
        return self._content.stat().st_size if self._content.exists() else 0

    def begin(self, version: str | None, total_bytes: int | None) -> None:
        self.discard()
        self.version, self.total_bytes = version, total_bytes
        with self._written():
            write_json(self._description, {"version": version, "total_bytes": total_bytes})

    def append(self, chunk: bytes) -> None:
        with self._written(), self._content.open("ab") as file:
            file.write(chunk)

    def discard(self) -> None:
        self.version = self.total_bytes = None
        with self._written():
            self._content.unlink(missing_ok=True)
            self._description.unlink(missing_ok=True)

    def finish(self) -> None:
        with self._written():
            put_in_place(self._content, self._path)
            self._description.unlink()

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        try:
            with write_errors_told(_how_to_go_on), naming(self._path, self._content):
                yield
        except OSError as error:
            raise UserError(
                f"{self._path} can't be written: {error.strerror}.", "Choose another --output-dir."
            ) from error


def _how_to_go_on() -> str:
    return "Make room there and give the command again, which goes on where it stopped, or choose another --output-dir."


def _fetch_rest(url: str, partial: _Partial) -> bool:
    """Appends what the server sends; returns whether the file is whole.

    Raises:
        _ChangedError: The server sends another part than the missing one, or another version.
    """
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
    if partial.size and partial.version and partial.total_bytes is not None:
        request.add_header("Range", f"bytes={partial.size}-")
        request.add_header("If-Range", partial.version)
    with _open(request, partial) as response:
        version = _strong_version(response)
        if response.status == HTTPStatus.PARTIAL_CONTENT:
            start, total_bytes = _parse_content_range(response.headers.get("Content-Range", ""))
            if (start, total_bytes, version) != (partial.size, partial.total_bytes, partial.version):
                raise _ChangedError("what the server sends is not the rest of what it sent before")
        else:
            partial.begin(version, _announced_bytes(response))
        _append_all(response, partial, Path(urllib.parse.urlsplit(url).path).name)
    return partial.total_bytes is None or partial.size == partial.total_bytes


def _announced_bytes(response: Any) -> int | None:
    """Length of the file, as the server says; None: it doesn't.

    Raises:
        UserError: It says nonsense, or too much.
    """
    length = response.headers.get("Content-Length")
    if length is None:
        return None
    if not (length.isascii() and length.isdigit()):
        raise UserError(f"{response.url}: the server announces {length[:50]!r} bytes, which is no number.", _MEND)
    num_bytes = int(length[:20])
    if num_bytes > MOST_DOWNLOADED_BYTES:
        raise _too_large(response.url)
    return num_bytes


def _too_large(name: str) -> UserError:
    return UserError(
        f"{name} has more than {MOST_DOWNLOADED_BYTES / 2**30:.0f} GiB, which nothing that was published has.", _MEND
    )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a server to another address over HTTP, and never from https to http."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        scheme = urllib.parse.urlsplit(newurl).scheme
        if scheme not in SCHEMES or (req.type == "https" and scheme != "https"):
            raise UserError(f"{req.full_url}: the server sends on to {newurl}, which isn't as safe.", _MEND)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """What fetches over HTTP alone: urllib's own would take `file:`, `ftp:` and `data:`, too."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirects(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _open(request: urllib.request.Request, partial: _Partial) -> Any:
    try:
        return _opener().open(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise _ChangedError(f"{partial.total_bytes:,} bytes were announced, {partial.size:,} are there") from error
        raise


def _append_all(response: Any, partial: _Partial, name: str) -> None:
    total_megabytes = round((partial.total_bytes or 0) / CHUNK_BYTES)
    with progress(f"Downloading {name}", total_megabytes, unit="MB") as advance:
        advance(partial.size // CHUNK_BYTES)
        while chunk := response.read(CHUNK_BYTES):
            if partial.size + len(chunk) > MOST_DOWNLOADED_BYTES:
                partial.discard()
                raise _too_large(name)
            partial.append(chunk)
            advance(len(chunk) // CHUNK_BYTES)


def _strong_version(response: Any) -> str | None:
    """What tells versions of a file apart byte for byte, in the form that If-Range takes (RFC 9110, 13.1.5)."""
    etag: str | None = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _parse_content_range(text: str) -> tuple[int, int | None]:
    """First byte and total number from `bytes FIRST-LAST/TOTAL`."""
    try:
        span, _, total = text.removeprefix("bytes ").partition("/")
        return int(span.split("-")[0]), None if total == "*" else int(total)
    except ValueError as error:
        raise _ChangedError(f"the server sends an unknown part, {text!r}") from error


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
