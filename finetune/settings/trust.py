"""Code that a file of settings names: it is imported only where the user says so, for a file may come from anywhere."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.errors import UserError
from finetune.settings.flags import dashed

TRUST_CODE_HELP = "import the module that the settings of a run or file name as a network: it may do anything"

TRUST_CODE = "trust_code"

# Settings whose value may be `package.module:SPEC`.
_NAMES_OF_CODE = ("model", "preprocessing")


def refuse_modules(found: Mapping[str, Any], given: Mapping[str, Any], source: Path) -> None:
    """Refuses settings of a file that would import a module.

    Args:
        found: What the file says and would hold, by field name.
        given: What the command line says; None stands for what it doesn't say.
        source: The file.

    Raises:
        UserError: The file names a module that the command line doesn't name, and there is no `--trust-code`.
    """
    if given.get(TRUST_CODE):
        return
    named = {given.get(name) for name in _NAMES_OF_CODE}
    for name in _NAMES_OF_CODE:
        value = found.get(name)
        is_code = isinstance(value, str) and all(value.partition(":"))  # Else no module can be meant.
        if is_code and given.get(name) is None and value not in named:
            raise UserError(
                f"{source} names {value!r} as {dashed(name)}: that is code, which would be imported and run.",
                f"If you know where it comes from, say {dashed(name)} {value} yourself, or --trust-code.",
            )
