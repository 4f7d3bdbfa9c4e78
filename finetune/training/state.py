"""All that changes in training, under slim's names: variables, optimizer slots, moving averages. Saved and restored."""

import contextlib
from collections.abc import Iterator, Mapping

import tensorflow as tf

from finetune.errors import UserError
from finetune.model.model import Model
from finetune.model.scopes import MOVING_AVERAGE_SUFFIX
from finetune.training.loss_scaling import LossScale
from finetune.training.moving_averages import MovingAverages
from finetune.training.optimizers import Optimizer
from finetune.training.pseudo_labels import PseudoLabels
from finetune.training.seen_records import SeenRecords
from finetune.types import Array, Variable


class TrainingState:
    """What a run's checkpoint holds beside its step.

    Attributes:
        model: Whose variables are trained.
        optimizer: Of them.
        averages: Moving averages of them; None where none are kept.
        loss_scale: Of float16's losses; None for other types.
        seen: What steps were given; None: that isn't kept.
        pseudo_labels: Of the unlabelled images; None: there are none.
    """

    def __init__(
        self,
        model: Model,
        optimizer: Optimizer,
        averages: MovingAverages | None,
        loss_scale: LossScale | None = None,
        seen: SeenRecords | None = None,
        pseudo_labels: PseudoLabels | None = None,
    ) -> None:
        """Makes the optimizer's slots, in the scope of the current distribution strategy."""
        optimizer.make_slots()
        self.model = model
        self.optimizer = optimizer
        self.averages = averages
        self.loss_scale = loss_scale
        self.seen = seen
        self.pseudo_labels = pseudo_labels

    def take_optimizer(self, optimizer: Optimizer) -> None:
        """Puts one in the place of another that has made no step, and makes its slots."""
        optimizer.make_slots()
        self.optimizer = optimizer

    def values(self) -> dict[str, Array]:
        """A snapshot by name in a checkpoint.

        Where moving averages are kept every variable has one, as in slim's checkpoints; a frozen one's is its value.
        """
        values = {name: variable.numpy() for name, variable in self._variables().items()}
        if self.averages is not None:
            for name in self.model.model_variables:
                shadow = self.averages.shadows.get(name)
                values[name + MOVING_AVERAGE_SUFFIX] = values[name] if shadow is None else shadow.numpy()
        notes = [note for note in (self.seen, self.pseudo_labels) if note is not None]
        return {**values, **{name: value for note in notes for name, value in note.values().items()}}

    def restore(self, values: Mapping[str, Array], source: str) -> None:
        """Takes up a run's state.

        Args:
            values: By name, as `values` gives them.
            source: Where they are from, for messages.

        Raises:
            UserError: Something is missing, or has another shape.
        """
        wanted = self._changing()
        missing = sorted(set(wanted) - set(values))
        if missing:
            raise UserError(
                f"--resume: {source} lacks {len(missing)} of {len(wanted)} values, such as {missing[0]}.",
                "Resume with the run's own --model, --optimizer, --trainable-scopes, --precision and "
                "--moving-average-decay, or start a new run in another --train-dir from its weights: --checkpoint.",
            )
        for name, variable in wanted.items():
            if tuple(variable.shape) != values[name].shape:
                raise UserError(
                    f"--resume: {name} is {list(values[name].shape)} in {source} and {list(variable.shape)} here.",
                    "Resume with the run's own --model and data set.",
                )
        self._assign(values)
        if self.pseudo_labels is not None:
            self.pseudo_labels.restore(values)
        if self.seen is not None:
            self.seen.restore(values, source)

    def take_over(self, values: Mapping[str, Array], source: str, *, same_optimizer: bool) -> None:
        """Begins a stage with what the one before it came to: weights, averages, and the slots that still fit.

        Slots of variables that stay trained are carried over, but where the optimizer counts the updates of all in
        one, as Adam's does, and a variable joins: its first updates would be taken for later ones, and be too large.

        Args:
            values: By name, as `values` gives them.
            source: Where they are from, for messages.
            same_optimizer: Whether the stage before had the same optimizer.
        """
        averages = self.averages.shadows if self.averages is not None else {}
        taken = {name: values[name] for name in self.model.model_variables}
        taken |= {(average := name + MOVING_AVERAGE_SUFFIX): values.get(average, values[name]) for name in averages}
        slots = {name: values[name] for name in self.optimizer.state() if name in values} if same_optimizer else {}
        if len(slots) < len(self.optimizer.state()) and self.optimizer.has_counters:
            slots = {}
        scale = self.loss_scale.state() if self.loss_scale is not None else {}
        self._assign({**self._now(), **taken, **slots, **{name: values[name] for name in scale if name in values}})
        if self.pseudo_labels is not None:
            self.pseudo_labels.restore(values)
        if self.seen is not None:
            self.seen.restore(values, source)
            self.seen.accept_other_order()

    def share_statistics(self) -> None:
        """Gives each of several workers the mean of their moving statistics, by which it then evaluates alone.

        What they come to stays the same: each step moves their mean towards the mean of the batches' statistics.
        """
        if isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy):
            for layer in self.model.updated_batch_norms():
                for name in ("moving_mean", "moving_variance"):
                    statistic = self.model.model_variables[f"{layer}/{name}"]
                    statistic.assign(statistic.read_value())

    def _now(self) -> dict[str, Array]:
        return {name: variable.numpy() for name, variable in self._changing().items()}

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Takes back whatever steps change within the context."""
        before = self._now()
        try:
            yield
        finally:
            self._assign(before)

    def _assign(self, values: Mapping[str, Array]) -> None:
        for name, variable in self._changing().items():
            variable.assign(values[name])
        self.optimizer.share_counters()

    def _changing(self) -> dict[str, Variable]:
        """By name in a checkpoint."""
        shadows = self.averages.shadows if self.averages is not None else {}
        return self._variables() | {name + MOVING_AVERAGE_SUFFIX: shadow for name, shadow in shadows.items()}

    def _variables(self) -> dict[str, Variable]:
        loss_scale = self.loss_scale.state() if self.loss_scale is not None else {}
        return {**self.model.model_variables, **self.optimizer.state(), **loss_scale}
