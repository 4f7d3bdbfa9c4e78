"""One network, its variables and its plan as a `tf.Module`."""

import contextlib
import dataclasses
import re
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import tensorflow as tf

from finetune.errors import UserError
from finetune.model.checkpoint import Checkpoint, count_not_finite, refuse_not_finite
from finetune.model.scopes import NetworkVariable, VariablePlan, shortest_scopes
from finetune.nets.layers import DECAYED_VARIABLES, DRAWN_BY_PART, layer_modes
from finetune.nets.spec import NetSpec
from finetune.types import Tensor, Variable


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What one pass gives: `logits` [B,num_classes], `auxiliary_logits` of the same shape or None, all `end_points`."""

    logits: Tensor
    auxiliary_logits: Tensor | None
    end_points: dict[str, Tensor]


class Model(tf.Module):
    """A network whose variables bear slim's names.

    Attributes:
        spec: The network's record.
        num_classes: Number of logits.
        image_size: Height and width in pixels of the images that it takes.
        channels: Of those images.
        model_variables: Every variable by its name in a checkpoint.
        decayed_names: Names of those that weight decay applies to.
        is_frozen: Tells by a batch norm layer's full scope name whether it is frozen.
        batch_norm_decays: The network's own decays of moving statistics, by the layers' full scope names.
        batch_norm_decay: In place of all of these; None: they hold. Passes traced before a change keep theirs.
        cumulative_share: A scalar variable: where it is above 0, moving statistics go this share of their way to the
            batch's, whatever the decays say. None: there is none, and passes traced now won't look for one.
        num_batch_parts: Equal parts that the batch of a training step has, of which a pass is given one: the devices'
            and, of each, those of gradients that are accumulated. Passes traced before a change keep theirs.
        syncs_batch_norm: Whether batch norm that is trained takes the statistics of all devices' images, not of each
            device's. Passes traced before a change keep theirs.
        draws_by_part: Whether there are random layers that draw otherwise where a batch is parted in another way.
        compute_dtype: Of the layers between images and logits; passes traced before a change keep theirs. Variables,
            statistics of batch norm and logits are float32 in any case.
    """

    def __init__(
        self,
        spec: NetSpec,
        num_classes: int,
        *,
        image_size: int | None = None,
        channels: int | None = None,
        seed: int = 0,
        initialise: bool = True,
        **network_arguments: Any,
    ) -> None:
        """Makes the variables, in the scope of the current distribution strategy.

        Args:
            spec: The network's record.
            num_classes: Number of logits.
            image_size: Height and width of the images in pixels; None: the network's own.
            channels: Of the images; None: the network's own.
            seed: The initial value of a variable is a function of this and of the variable's name.
            initialise: Whether all variables get these values now. Else they hold zeros, and `initialise` or
                `restore` gives them others: to draw 85 million for NASNet-A large takes seconds.
            network_arguments: Further arguments of the network's function, `dropout_keep_prob` among them.

        Raises:
            UserError: The images are too small for the network.
        """
        super().__init__(name=spec.root_scope or _identifier(spec.name))
        self.spec = spec
        self.num_classes = num_classes
        self.image_size = image_size or spec.image_size
        self.channels = channels or spec.channels
        self.model_variables: dict[str, Variable] = {}
        self.decayed_names: frozenset[str] = frozenset()
        self.is_frozen: Callable[[str], bool] = lambda scope: False
        self.batch_norm_decays: dict[str, float] = {}
        self.batch_norm_decay: float | None = None
        self.cumulative_share: Variable | None = None
        self.num_batch_parts = 1
        self.syncs_batch_norm = False
        self.draws_by_part = False
        self.compute_dtype = tf.float32
        self._seed = seed
        self._initializers: dict[str, Callable[..., Tensor]] = {}
        self._network = spec.load_function()
        self._network_arguments = {**spec.arguments, **network_arguments}
        self._make_variables()
        if initialise:
            self.initialise(self.model_variables)

    def __call__(self, images: Tensor, *, is_training: bool, seed: Tensor | None = None) -> Outputs:
        """One pass; to be called inside a `tf.function(autograph=False)`.

        Args:
            images: [B,image_size,image_size,channels], preprocessed.
            is_training: The mode of the layers that are not frozen.
            seed: Integers [3] for dropout, needed in training: two that are others at each step, and the number of the
                part of the step's batch that the images are.
        """
        modes = layer_modes(
            is_training, self.is_frozen, seed, self._moved_share, self.num_batch_parts, self.syncs_batch_norm
        )
        with self._variable_scope(), modes:
            logits, end_points = self._network(
                tf.cast(images, self.compute_dtype),
                self.num_classes,
                is_training=is_training,
                **self._network_arguments,
            )
        auxiliary_logits = end_points.get("AuxLogits") if is_training else None
        if auxiliary_logits is not None:
            auxiliary_logits = tf.cast(auxiliary_logits, tf.float32)
        return Outputs(tf.cast(logits, tf.float32), auxiliary_logits, end_points)

    def network_variables(self) -> list[NetworkVariable]:
        """Names and shapes for a plan, in the order of creation."""
        return [
            NetworkVariable(name, tuple(variable.shape), is_statistic=not variable.trainable)
            for name, variable in self.model_variables.items()
        ]

    def freeze(self, plan: VariablePlan, batch_norm: str = "plan") -> None:
        """Sets which batch norm layers keep their statistics; passes traced before are not changed.

        Args:
            plan: Which scopes are trained.
            batch_norm: "plan": frozen layers keep them; "frozen": all do; "slim": none does.
        """
        modes: dict[str, Callable[[str], bool]] = {
            "plan": plan.is_frozen,
            "frozen": lambda scope: True,
            "slim": lambda scope: False,
        }
        self.is_frozen = modes[batch_norm]

    def updated_batch_norms(self) -> list[str]:
        """Full scope names of the batch norms whose moving statistics a training pass moves."""
        return [layer for layer in self.batch_norm_decays if not self.is_frozen(layer)]

    def decays_of(self, layers: Iterable[str]) -> list[float]:
        """The decays that are in force in batch norms with these full scope names, each once."""
        return sorted({self._decay_in_force(self.batch_norm_decays[layer]) for layer in layers})

    def initialise(self, names: Iterable[str]) -> None:
        """Gives the variables with these names their initial values, whatever they hold."""
        for name in names:
            # Under the global seed of its name alone, a variable's value doesn't depend on the order.
            tf.random.set_seed(zlib.crc32(f"{self._seed}/{name}".encode()))
            variable = self.model_variables[name]
            variable.assign(self._initializers[name](variable.shape, tf.float32))

    def restore(self, checkpoint: Checkpoint, plan: VariablePlan) -> None:
        """Assigns the variables that the plan restores.

        Raises:
            UserError: The checkpoint is damaged, or one of these variables holds NaN or infinity.
        """
        not_finite: dict[str, int] = {}
        for variable in plan.restored:
            assert variable.source is not None
            value = checkpoint.read(variable.source)
            not_finite |= count_not_finite([(variable.source, value)])
            if variable.sums_colours:
                value = value.sum(axis=2, keepdims=True)
            self.model_variables[variable.name].assign(value)
        refuse_not_finite(
            checkpoint,
            not_finite,
            "Give a sound checkpoint, such as an earlier one of its run; or finetune-train can initialise them: "
            f"--exclude-scopes {','.join(self._scopes_of(not_finite, plan))}",
        )

    def _scopes_of(self, sources: Collection[str], plan: VariablePlan) -> list[str]:
        """Scopes that take the variables with these names in the checkpoint, and those that were not restored."""
        names = {variable.name for variable in plan.variables if variable.source is None or variable.source in sources}
        return shortest_scopes(names, list(self.model_variables))

    def _moved_share(self, layer: str, decay: float) -> Any:
        """What batch norm asks for; the first pass, in which no layer is frozen, tells what the network has."""
        if layer not in self.batch_norm_decays:  # TensorFlow, which tracks the dictionary, doesn't see `setdefault`.
            self.batch_norm_decays[layer] = decay
        share = 1.0 - self._decay_in_force(decay)
        if self.cumulative_share is None:
            return share
        given = self.cumulative_share.read_value()
        return tf.where(given > 0.0, given, share)

    def _decay_in_force(self, own: float) -> float:
        return own if self.batch_norm_decay is None else self.batch_norm_decay

    def _make_variables(self) -> None:
        """Traces one training pass, the mode in which all variables are met, and throws the trace away."""
        decayed: set[str] = set()
        graph = tf.__internal__.FuncGraph("make_variables")
        with graph.as_default():
            images = tf.compat.v1.placeholder(tf.float32, [1, self.image_size, self.image_size, self.channels])
            try:
                self(images, is_training=True, seed=tf.zeros([3], tf.int32))
            except tf.errors.ResourceExhaustedError as error:
                sizes = "--image-size" if self.spec.head is None else "--image-size or --head"
                raise UserError(
                    f"{self.spec.name} for {self.num_classes} classes and images of {self.image_size} pixels needs "
                    "more memory than there is.",
                    f"Give a smaller {sizes}, or fewer classes.",
                ) from error
            except ValueError as error:
                if "Negative dimension size" not in str(error):
                    raise
                raise UserError(
                    f"--image-size: {self.image_size} pixels are too few for {self.spec.name}, whose own size is "
                    f"{self.spec.image_size}.",
                    "Give a larger --image-size, or leave it out.",
                ) from error
            decayed.update(variable_name(variable) for variable in tf.compat.v1.get_collection(DECAYED_VARIABLES))
            self.draws_by_part = bool(tf.compat.v1.get_collection(DRAWN_BY_PART))
        self.decayed_names = frozenset(decayed)

    @contextlib.contextmanager
    def _variable_scope(self) -> Iterator[None]:
        with tf.compat.v1.variable_scope("", custom_getter=self._get_variable, use_resource=True):
            yield

    def _get_variable(self, getter: Any, name: str, *, shape: Any, dtype: Any, initializer: Any, **options: Any) -> Any:
        """What slim's layers get for `get_variable`: the variable called `name`, made at first sight.

        A layer that computes in another type than float32 gets its value in that type.
        """
        if name not in self.model_variables:
            self._initializers[name] = initializer
            with tf.init_scope():
                self.model_variables[name] = tf.Variable(
                    lambda: tf.zeros(shape),
                    name=name,
                    trainable=options.get("trainable", True),
                    synchronization=options.get("synchronization", tf.VariableSynchronization.AUTO),
                    aggregation=options.get("aggregation", tf.VariableAggregation.NONE),
                )
        variable = self.model_variables[name]
        return variable if dtype == variable.dtype else tf.cast(variable, dtype)


def _identifier(name: str) -> str:
    """What may stand for a network's name, a path perhaps, where only the name of a module may."""
    return re.sub(r"\W", "_", name, flags=re.ASCII).lstrip("_0123456789") or "network"


def variable_name(variable: Variable) -> str:
    """A variable's name in a checkpoint."""
    return str(variable.name).removesuffix(":0")
