"""Several stages of one training: `[[stages]]` in a TOML file, `--stages` on the command line, `Stage` in Python."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from finetune.errors import UserError, did_you_mean
from finetune.settings.augmentation import DETAILS
from finetune.settings.flags import Flag, Tabular, checked, flags_of
from finetune.settings.settings_file import plain_value, read_value
from finetune.settings.stage import ALTERNATIVES, StageSettings

# How long a stage is it says by `steps` or `epochs`; averages are of the whole run.
NOT_OF_A_STAGE = ("max_steps", "moving_average_decay")
# What a stage without steps, a probe, doesn't take over from around the stages.
OF_STEPS = {"loss", "focal_gamma", "mixup", "cutmix"}
_FORM = "LAYERS:LENGTH:RATE, such as head:600:0.003 or all:5e:1e-4"
_EPOCHS = re.compile(r"(\d+(\.\d*)?|\.\d+)e")


@dataclasses.dataclass(frozen=True)
class Stage(Tabular):
    """A stage: what it has of its own; all else is as the settings around the stages have it.

    Attributes:
        name: For people; empty: what it trains.
        steps: Its length; None: by its epochs, or as the settings around say.
        own: Settings of `StageSettings` by name, checked.

    Raises:
        UserError: A name that is no setting of a stage, a value that isn't allowed, or both steps and epochs.
    """

    name: str = ""
    steps: int | None = None
    own: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        flags = _flags()
        for name in self.own:
            if name not in flags:
                raise UserError(f"stages: {name!r} is no setting of a stage.", did_you_mean(name, [*flags, "steps"]))
        if self.steps is not None and (type(self.steps) is not int or self.steps < 0):
            raise UserError(f"stages: steps is {self.steps!r}, but must be a whole number from 0 on.")
        if self.steps is not None and self.own.get("epochs") is not None:
            raise UserError(f"stages: a stage has steps ({self.steps}) and epochs ({self.own['epochs']}).", "Give one.")
        own = {name: checked(flags[name], value) for name, value in self.own.items()}
        object.__setattr__(self, "own", own)

    @classmethod
    def of_table(cls, table: Mapping[str, Any]) -> "Stage":
        """From a table of a TOML file: keys as flags are spelled, and `name` and `steps`."""
        flags = {alias: flag for flag in _flags().values() for alias in (flag.name, *flag.slim)}
        values = {key.replace("-", "_"): value for key, value in table.items()}
        name, steps = values.pop("name", ""), values.pop("steps", None)
        if not isinstance(name, str):
            raise UserError(f"stages: name is {name!r}, but must be a text.")
        unknown = next((key for key in values if key not in flags), None)
        if unknown is not None:
            mend = "Give steps or epochs." if unknown == "max_steps" else did_you_mean(unknown, flags)
            raise UserError(f"stages: {unknown!r} is no setting of a stage.", mend)
        return cls(name, steps, {flags[key].name: read_value(flags[key], value) for key, value in values.items()})

    @classmethod
    def of_text(cls, text: str) -> "Stage":
        """From a word of the command line, LAYERS:LENGTH or LAYERS:LENGTH:RATE; a length in epochs ends in e."""
        layers, _, rest = text.partition(":")
        length, _, rate = rest.partition(":")
        own: dict[str, Any] = {"trainable_layers": layers}
        try:
            if _EPOCHS.fullmatch(length):
                own["epochs"] = float(length.removesuffix("e"))
            if rate:
                own["learning_rate"] = float(rate)
            return cls("", None if "epochs" in own else int(length), own)
        except ValueError:
            raise UserError(f"--stages is {text!r}, but must be {_FORM}.") from None

    @property
    def names(self) -> set[str]:
        """Names of the settings that it has of its own."""
        ways = {name for ways in ALTERNATIVES for name in ways if ways.intersection(self.own)}
        length = ALTERNATIVES[0] if self.steps is not None else set()
        details = DETAILS if "augmentation" in self.own else set()
        return {*self.own, *ways, *length, *details}

    def table(self) -> dict[str, Any]:
        """As `of_table` reads it back."""
        named = {"name": self.name} if self.name else {}
        length = {"steps": self.steps} if self.steps is not None else {}
        own = {name: plain_value(value) for name, value in self.own.items() if value is not None}
        return {**named, **length, **own}

    def __str__(self) -> str:
        own = {name: value for name, value in self.table().items() if name != "name"}
        told = ", ".join(f"{name.replace('_', '-')} {value}" for name, value in own.items())
        return f"{self.name}: {told}" if self.name else told

    def settings(self, around: StageSettings) -> StageSettings:
        """Its settings; `max_steps` is its length in steps, where it isn't in epochs.

        Raises:
            UserError: They don't go together.
        """
        own = {**self.own, **({"max_steps": self.steps} if self.steps is not None else {})}
        flags = {flag.name: flag for flag in flags_of(StageSettings)}
        replaced = self.names.difference(own) | (OF_STEPS if own.get("max_steps") == 0 else set())
        return dataclasses.replace(around, **{**{name: flags[name].default for name in replaced}, **own})


def names_everywhere(stages: Sequence[Stage]) -> set[str]:
    """Names of the settings that each of the stages has of its own: those around them have no effect."""
    return set.intersection(*(stage.names for stage in stages))


def _flags() -> dict[str, Flag]:
    return {flag.name: flag for flag in flags_of(StageSettings) if flag.name not in NOT_OF_A_STAGE}
