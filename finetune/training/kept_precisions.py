"""Which precision was found the fastest, kept in the user's cache so that the measuring is paid once.

A line for each training that was measured, a JSON object; a later one counts more. A line is added in one write, so
that programs that do so at the same time leave whole lines, and none is lost.
"""

import contextlib
import dataclasses
import datetime
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.errors import UserError
from finetune.files.json_files import Number, read_json_lines
from finetune.files.whole_files import append_line
from finetune.notices import tell_once
from finetune.settings.choices import PRECISIONS

FILE_NAME = "precisions.jsonl"
_SHAPE = {"precision": str, "date": str, "seconds": {...: Number(at_least=0)}, "of": dict}

log = logging.getLogger("finetune")


@dataclasses.dataclass(frozen=True)
class KeptPrecision:
    """What was measured.

    Attributes:
        precision: The fastest whose loss agreed with that of float32.
        seconds: Of a step, by precision.
        date: Of the measuring, as 2026-11-30.
    """

    precision: str
    seconds: Mapping[str, float]
    date: str


def find_kept(path: Path, of: Mapping[str, Any], supported: Sequence[str]) -> KeptPrecision | None:
    """What was measured last of the same training; None where nothing was, or nothing that can be believed.

    Args:
        path: Of the file, which there needn't be.
        of: All that the figures depend on.
        supported: What the device has units for.
    """
    try:
        lines = [line for line in _read(path) if line["of"] == of]
    except UserError as error:
        tell_once(f"{error} What it says isn't followed.", level=logging.WARNING)
        return None
    if not lines:
        return None
    kept = KeptPrecision(lines[-1]["precision"], lines[-1]["seconds"], lines[-1]["date"])
    if kept.precision not in supported:
        log.warning("%s: %s isn't followed, since this device has no units for it.", path, kept.precision)
        return None
    return kept


def keep(path: Path, of: Mapping[str, Any], kept: KeptPrecision) -> bool:
    """Adds a line; a file that can't be read makes room for a new one. Returns whether it could be written, or says."""
    line = json.dumps({**dataclasses.asdict(kept), "of": of})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        append_line(path, f"\n{line}" if _is_cut(path) else line)
    except OSError as error:
        log.warning("%s can't be written: %s. Precisions will be measured again.", path, error.strerror or error)
        return False
    return True


def _is_cut(path: Path) -> bool:
    """Whether the last line lacks its end, as editors leave it; what isn't such a file is removed."""
    if not path.exists():
        return False
    try:
        _read(path)
    except UserError:
        path.unlink()
        return False
    content = path.read_bytes()
    return bool(content) and not content.endswith(b"\n")


def _read(path: Path) -> list[Any]:
    """The lines of the file, the oldest first.

    Raises:
        UserError: It is damaged, or something else.
    """
    if not path.exists():
        return []
    lines = list(read_json_lines(path, _SHAPE))
    for number, line in enumerate(lines, start=1):
        problem = _problem(line)
        if problem:
            raise UserError(f"{path} can't be read: line {number}: {problem}.")
    return lines


def _problem(line: Mapping[str, Any]) -> str:
    unknown = sorted({line["precision"], *line["seconds"]}.difference(PRECISIONS))
    if unknown:
        return f"{unknown[0]!r:.40} is no precision"
    with contextlib.suppress(ValueError):
        return "" if datetime.date.fromisoformat(line["date"]).isoformat() == line["date"] else "date is none"
    return "date is none"
