"""What the commands whose work is shared out have in common: what a share is known by, and the command for one."""

import dataclasses
import shlex
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from finetune.runs.provenance import software_versions
from finetune.settings.command_line import words_of
from finetune.settings.flags import flags_of
from finetune.settings.settings_file import plain_value
from finetune.settings.shares import ShareSettings


def facts_of_settings(settings: ShareSettings, not_of_the_result: Collection[str]) -> dict[str, Any]:
    """The settings that what is computed hangs on, by their flags.

    Paths are none of them: a machine may call the same folder otherwise, and what lies there is known by its content.

    Args:
        settings: Of the command.
        not_of_the_result: Names of those that decide on nothing but how it is computed, or where it is kept.
    """
    return {
        flag.option: plain_value(getattr(settings, flag.name))
        for flag in flags_of(type(settings))
        if flag.is_recorded and flag.kind is not Path and flag.name not in not_of_the_result
    }


def facts_of_software() -> dict[str, str]:
    """The versions of what computes: other ones may round otherwise."""
    return {f"version of {name}": version for name, version in software_versions().items() if name != "Python"}


def command_of_share(settings: ShareSettings, prog: str) -> Callable[[str], str]:
    """From a share as I/N to the command that makes it."""
    words = words_of(dataclasses.replace(settings, shard=None, merge_shards=None))
    return lambda share: shlex.join([prog, *words, "--shard", share])
