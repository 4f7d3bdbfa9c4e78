"""Shares of a piece of work: each is done by a job of its own, and all of them are put together by one more.

What a job leaves is a folder `I-of-N`, whole or not at all, beside those of the other jobs, of which it knows nothing.
In it:

    share.json    `share` and `of`; `facts`, which all shares must have in common; `own`, what is this share's alone;
                  `num_rows`, and `rows_sha256` of the other file
    rows.jsonl    a line for each image

and whatever else the share is made of. Shares are put together only where all of them are there, each of them once, and
made of the same.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from finetune.errors import UserError
from finetune.files.folder_lock import sole_writer
from finetune.files.json_files import MOST_LINE_BYTES, Number, Shape, read_json, read_json_lines
from finetune.files.whole_files import partial_path, sha256, whole_folder, write_json
from finetune.files.write_errors import write_errors_told
from finetune.notices import few

# Hidden, and of a name that nothing else has: whoever looks for images passes over it without a word.
SHARES_FOLDER = ".finetune-shares"
SHARE_FILE = "share.json"
ROWS_FILE = "rows.jsonl"
MOST_SHARES = 100_000

_TEXT = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")
_FOLDER = re.compile(r"([0-9]{1,9})-of-([0-9]{1,9})")
_SHAPE = {
    "share": Number(int, at_least=1),
    "of": Number(int, at_least=1),
    "facts": dict,
    "own": dict,
    "num_rows": Number(int, at_least=0),
    "rows_sha256": str,
}
_MOST_TOLD = 64  # Characters of a fact; a hash is told whole.

Facts = Mapping[str, Any]
Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class Share:
    """One of the equal parts of a piece of work.

    Attributes:
        number: From 1 to `count`.
        count: How many parts there are.
    """

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def of_text(cls, text: str) -> "Share":
        """The share that `--shard` names as I/N.

        Raises:
            UserError: It names none.
        """
        match = _TEXT.fullmatch(text)
        share = cls(int(match[1]), int(match[2])) if match else None
        if share is None or not 1 <= share.number <= share.count <= MOST_SHARES:
            count = share.count if share and 1 <= share.count <= MOST_SHARES else 8
            raise UserError(
                f"--shard is {text!r}, but must be I/N, with I from 1 to N and N at most {MOST_SHARES:,}: 1/{count} is "
                f"the first of {count}.",
                f"Array jobs that count from 0 add one: --shard $((SLURM_ARRAY_TASK_ID + 1))/{count}",
            )
        return share

    @property
    def folder_name(self) -> str:
        """Of what its job leaves."""
        return f"{self.number}-of-{self.count}"

    def refuse_too_many(self, num_items: int, what: str, or_else: str = "") -> None:
        """Makes sure that no share is empty.

        Args:
            num_items: Of the whole work.
            what: The items are, for messages.
            or_else: What else helps where there are too few of them.

        Raises:
            UserError: There are fewer items than shares.
        """
        if self.count > num_items:
            raise UserError(
                f"--shard {self}: there are {num_items} {what}, less than one for each share.",
                f"Give --shard I/{num_items}, or a smaller N{or_else}.",
            )

    def part_of(self, num_items: int) -> range:
        """Its own of so many items, counted from 0, which follow each other: as many as any other's, or one more."""
        return range(num_items * (self.number - 1) // self.count, num_items * self.number // self.count)

    def turns(self, items: Sequence[Item]) -> Sequence[Item]:
        """Its own of these items, where the shares take turns."""
        return items[self.number - 1 :: self.count]


@dataclasses.dataclass(frozen=True)
class FoundShare:
    """What a job has left.

    Attributes:
        share: Which one it is.
        folder: Where it lies.
        facts: What all shares have in common.
        own: What is its own.
        num_rows: How many lines of images it has.
        rows_sha256: The hash of these.
    """

    share: Share
    folder: Path
    facts: Facts
    own: Facts
    num_rows: int
    rows_sha256: str


@contextlib.contextmanager
def whole_share(place: Path, share: Share, *, flag: str, program: str) -> Iterator[Path]:
    """Gives a folder to write a share in, which takes the place of an earlier one of its number at the context's end.

    Args:
        place: Where the shares lie.
        share: Which one is written.
        flag: That names the place, for messages.
        program: That writes, for messages.

    Raises:
        UserError: Another program writes the same share; it can't be written.
    """
    folder = place / share.folder_name
    try:
        with sole_writer(folder, flag=flag, program=program), write_errors_told(), whole_folder(folder) as partial:
            yield partial
    except OSError as error:
        raise UserError(f"{flag}: {folder} can't be written: {error.strerror}.", f"Give another {flag}.") from error


def write_share(folder: Path, share: Share, *, facts: Facts, own: Facts, rows: Iterable[Facts]) -> None:
    """Writes the two files of a share, as `whole_share` gives the folder for it.

    Args:
        folder: Where they go.
        share: Which one it is.
        facts: What all shares must have in common, by the names that a user is told.
        own: What is its own.
        rows: An object for each image, as they come.

    Raises:
        UserError: A row is longer than what is read back.
    """
    num_rows, digest = 0, hashlib.sha256()
    with (folder / ROWS_FILE).open("wb") as file:
        for row in rows:
            line = f"{json.dumps(row)}\n".encode()
            if len(line) >= MOST_LINE_BYTES:
                raise UserError(
                    f"--shard: what there is to keep of an image takes {len(line):,} bytes, and may take "
                    f"{MOST_LINE_BYTES:,}.",
                    "Keep fewer figures of each, or leave out --shard.",
                )
            digest.update(line)
            file.write(line)
            num_rows += 1
    content = {"share": share.number, "of": share.count, "facts": facts, "own": own}
    write_json(folder / SHARE_FILE, {**content, "num_rows": num_rows, "rows_sha256": digest.hexdigest()})


def find_shares(place: Path, count: int, facts: Facts, again: Callable[[str], str]) -> list[FoundShare]:
    """All shares of a piece of work, in order.

    Args:
        place: Where they lie.
        count: How many there are.
        facts: What the shares must have in common with whoever puts them together, by their names in the shares.
        again: The command that makes a share, by its I/N.

    Raises:
        UserError: One is missing, or there twice, or there are others of another count; one differs from the others in
            its facts, or all of them from `facts`; one can't be read.
    """
    shares = [Share(number, count) for number in range(1, count + 1)]
    others = _others(place, count)
    if others:
        raise UserError(
            f"{place} holds a share {others[0].number} of {others[0].count}, and {count} are to be put together.",
            f"Give --merge-shards {others[0].count}, or remove {place / others[0].folder_name} where it is of no use.",
        )
    missing = [share for share in shares if not (place / share.folder_name / SHARE_FILE).is_file()]
    if missing:
        are = "share is" if len(missing) == 1 else "shares are"
        numbers = few([share.number for share in missing], 10)
        likewise = f"  (and likewise {few(missing[1:], 3)})" if missing[1:] else ""
        raise UserError(
            f"--merge-shards: of {count} shares in {place}, {len(missing)} {are} missing: {numbers}.",
            f"Make what is missing first: {again(str(missing[0]))}{likewise}",
        )
    found = [_read(place, share, again(str(share))) for share in shares]
    mend = f"Make again those that are out of date, by {again(f'I/{count}')}"
    for each in found[1:]:
        refuse_differences(found[0].facts, f"share {found[0].share}", each.facts, f"share {each.share}", mend)
    given = json.loads(json.dumps(facts))
    common = {name: found[0].facts.get(name) for name in given}
    refuse_differences(common, "the shares", given, "--merge-shards", mend)
    return found


def refuse_differences(facts: Facts, whose: str, others: Facts, of_others: str, mend: str) -> None:
    """Compares facts by name.

    Args:
        facts: Of some.
        whose: They are, for messages.
        others: Of others.
        of_others: Whose they are.
        mend: What to do.

    Raises:
        UserError: Some differ; all of these are told, with both sides.
    """
    lines = []
    for name in {**facts, **others}:
        if facts.get(name) != others.get(name):
            one, other = _told_apart(facts.get(name), others.get(name))
            lines.append(f"\n  {name}: {one} ({whose}), {other} ({of_others})")
    if lines:
        raise UserError(f"The shares can't be put together, for they are not of one piece:{''.join(lines)}", mend)


def check_shapes(found: FoundShare, facts_shape: Shape, own_shape: Shape, mend: str) -> None:
    """Makes sure that a share holds what whoever puts it together expects.

    Raises:
        UserError: It isn't.
    """
    read_json(found.folder / SHARE_FILE, {"facts": facts_shape, "own": own_shape}, mend)


def read_rows(found: FoundShare, shape: Shape, mend: str) -> Iterator[Any]:
    """The rows of a share, of which each is checked.

    Raises:
        UserError: They aren't those that were written.
    """
    path = found.folder / ROWS_FILE
    if not path.is_file() or sha256(path) != found.rows_sha256:
        raise UserError(f"{path} isn't what its job wrote: its hash isn't the one in {SHARE_FILE}.", mend)
    yield from read_json_lines(path, shape, mend)


def remove_shares(place: Path, count: int, *, program: str) -> None:
    """Removes the shares that the whole holds now, but for those that a job is just making anew."""
    for folder in (place / Share(number, count).folder_name for number in range(1, count + 1)):
        with contextlib.suppress(UserError), sole_writer(folder, flag=str(place), program=program):
            for path in (folder, partial_path(folder)):
                shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):  # Another program has something in it.
        place.rmdir()


def _others(place: Path, count: int) -> list[Share]:
    """Shares of another count, or of numbers beyond it."""
    matches = [_FOLDER.fullmatch(path.name) for path in sorted(place.glob("*-of-*"))]
    shares = [Share(int(match[1]), int(match[2])) for match in matches if match]
    return [share for share in shares if share.count != count]


def _read(place: Path, share: Share, again: str) -> FoundShare:
    folder = place / share.folder_name
    content = read_json(folder / SHARE_FILE, _SHAPE, f"Make it again: {again}")
    found = Share(content["share"], content["of"])
    if found != share:
        raise UserError(
            f"{folder} holds share {found}, not {share}: one share is there twice, and another one isn't.",
            f"Make it again: {again}",
        )
    return FoundShare(share, folder, content["facts"], content["own"], content["num_rows"], content["rows_sha256"])


def _told_apart(*values: Any) -> list[str]:
    """Two values in a few characters each, those among them in which they differ."""
    texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
    num_equal = sum(1 for _ in itertools.takewhile(lambda letters: letters[0] == letters[1], zip(*texts, strict=False)))
    start = max(0, num_equal - _MOST_TOLD // 2)
    return [
        ("…" if start else "") + text[start : start + _MOST_TOLD] + ("…" if text[start + _MOST_TOLD :] else "")
        for text in texts
    ]
