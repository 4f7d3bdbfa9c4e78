"""URLs of files and folders, such as s3://bucket/run, and the local copies that stand for them.

A copy lies in the cache under scheme, bucket and key: one is known from the other, whatever is there. All of the
program works on the copies' paths; what it tells and records are the URLs.
"""

import os
import re
from pathlib import Path

from finetune.errors import UserError

CACHE_VARIABLE = "FINETUNE_REMOTE_CACHE"

_SCHEME = r"[a-z][a-z0-9+.-]+"
_URL = re.compile(rf"({_SCHEME})://(.*)", re.DOTALL | re.IGNORECASE)
# What is left of a URL that went through a Path.
_COLLAPSED = re.compile(rf"{_SCHEME}:/[^/]", re.IGNORECASE)
_NO_FOLDERS = ("http", "https", "ftp", "data")
_PACKAGES = {
    "s3": "'slim-finetune[s3]'",
    "s3a": "'slim-finetune[s3]'",
    "gs": "'slim-finetune[remote]' gcsfs",
    "gcs": "'slim-finetune[remote]' gcsfs",
    "abfs": "'slim-finetune[remote]' adlfs",
    "abfss": "'slim-finetune[remote]' adlfs",
    "az": "'slim-finetune[remote]' adlfs",
    "hdfs": "'slim-finetune[remote]' pyarrow",
    "memory": "'slim-finetune[remote]'",
}
# Theirs is CONTAINER@ACCOUNT.
_SCHEMES_WITH_ACCOUNTS = ("abfs", "abfss")


def cache_root() -> Path:
    """The folder of all copies: $FINETUNE_REMOTE_CACHE, else finetune/remote where caches of this user are."""
    told = os.environ.get(CACHE_VARIABLE)
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune" / "remote"
    return (Path(told) if told else default).resolve()


def is_url(text: str) -> bool:
    """Whether a text begins with a scheme, as s3://bucket/key does."""
    return _URL.match(text) is not None


def lost_its_slashes(path: Path) -> bool:
    """Whether a path is what a URL becomes where it is made a Path."""
    return _COLLAPSED.match(str(path)) is not None


def local_path(url: str, said_by: str) -> Path:
    """Where the copy of a file or a folder is, or is to be; of file:///folder that folder itself.

    Args:
        url: As a flag or a file says it.
        said_by: What says it, for messages.

    Raises:
        UserError: No file can lie there, or its key doesn't say where alone.
    """
    match = _URL.match(url)
    assert match is not None, url
    scheme, rest = match[1].lower(), match[2]
    if scheme == "file":
        return _of_this_machine(rest, url, said_by)
    if scheme in _NO_FOLDERS:
        raise UserError(
            f"{said_by}: {url}: {scheme} has no folders to list and to write.", "Fetch it first, and give the file."
        )
    parts = rest.removesuffix("/").split("/")
    problem = _problem(scheme, parts)
    if problem:
        raise UserError(f"{said_by}: {url} {problem}.", "Give one such as s3://bucket/folder.")
    return cache_root().joinpath(scheme, *parts)


def url_of(path: Path | str) -> str | None:
    """The URL that a copy stands for; None: the path is none of a copy."""
    try:
        scheme, *parts = Path(os.path.abspath(path)).relative_to(cache_root()).parts  # noqa: PTH100  It resolves dots.
    except ValueError:
        return None
    return f"{scheme}://{'/'.join(parts)}" if parts and re.fullmatch(_SCHEME, scheme) else None


def named(path: Path | str) -> str:
    """A path as its user knows it: of a copy the URL."""
    return url_of(path) or str(path)


def with_urls(text: str) -> str:
    """A text for the user, with URLs in place of the paths of copies."""
    root = str(cache_root())
    return re.sub(rf"{re.escape(root)}/({_SCHEME})/", r"\1://", text) if root in text else text


def own_path(copy: Path) -> str:
    """The path of a copy itself, which `with_urls` leaves alone: by two slashes behind the cache's folder."""
    return f"{cache_root()}//{copy.relative_to(cache_root())}"


def how_to_install(url: str) -> str | None:
    """A sentence on the package that a URL's scheme needs; None: it isn't known."""
    package = _PACKAGES.get(url.partition("://")[0])
    return f"Install it: pip install {package}" if package else None


def _of_this_machine(rest: str, url: str, said_by: str) -> Path:
    path = rest.removeprefix("localhost")
    if not path.startswith("/"):
        raise UserError(f"{said_by}: {url} names no folder of this machine.", "Give file:///FOLDER, or the path.")
    return Path(path)


def _problem(scheme: str, parts: list[str]) -> str | None:
    host = parts[0]
    if "@" in host and (":" in host.partition("@")[0] or scheme not in _SCHEMES_WITH_ACCOUNTS):
        return "holds a user or a password, which would be recorded: the service's own settings are the place for them"
    if "::" in "/".join(parts):
        return "is several in one, by ::"
    return _problem_of_key(parts, "?#\0")


def problem_of_key(key: str) -> str | None:
    """Why a key that a service lists can't be a file in the cache; None: it can."""
    return _problem_of_key(key.split("/"), "\0")


def _problem_of_key(parts: list[str], forbidden: str) -> str | None:
    if not all(parts):
        return "has an empty part between its slashes"
    if any(part in (".", "..") for part in parts):
        return "has a part . or .., which is no name of a folder there"
    found = [letter for part in parts for letter in part if letter in forbidden]
    return f"holds {found[0]!r}: queries and the like are none of a file" if found else None
