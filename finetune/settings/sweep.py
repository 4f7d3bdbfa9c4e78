"""Settings of a sweep: several trainings, whose settings are drawn from ranges and choices."""

import dataclasses
from typing import ClassVar

from finetune.errors import UserError
from finetune.settings.flags import CommandSettings, flag

DEFAULT_TRIALS = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepSettings(CommandSettings):
    """Which settings are searched, and how often is tried.

    None of them is recorded in the config.toml of a run: a trial's settings are those of an ordinary one.
    """

    title: ClassVar[str] = "Sweep"

    sweep: tuple[str, ...] = flag(
        (),
        metavar="SETTING=VALUES,...",
        is_recorded=False,
        help="train several times, by settings from ranges and choices, each a run in --train-dir/trial-N: "
        "learning_rate=0.001..0.1:log,batch_size=16|32",
    )
    trials: int | None = flag(
        None, above=0, metavar="N", is_recorded=False, help=f"of a sweep; not given: {DEFAULT_TRIALS}"
    )
    prune: bool = flag(
        True, is_recorded=False, help="end trials of a sweep that are behind the median of those before them"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        given = {"--trials": self.trials is not None, "--no-prune": not self.prune}
        idle = [name for name, is_given in given.items() if is_given]
        if idle and not self.sweep:
            raise UserError(f"{' and '.join(idle)}: of a sweep.", "Give --sweep, too, or leave it out.")

    @property
    def num_trials(self) -> int:
        """How many are made in all."""
        return DEFAULT_TRIALS if self.trials is None else self.trials
