"""Which variables are restored and which are trained: matching of scopes, and the plan. TensorFlow is not needed.

A scope is a path of whole components: `InceptionV3/Logits` takes `InceptionV3/Logits/Conv2d_1c_1x1/weights`, and
`Conv2d_1` does not take `Conv2d_10`. (slim matched excluded scopes by prefix and trainable ones as regular expressions;
both took half words, and a scope that matched nothing passed in silence.)
"""

import dataclasses
import logging
import math
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from finetune.errors import UserError, did_you_mean
from finetune.model.checkpoint_names import find_prefix
from finetune.nets.heads import flags_for_head_in, head_in
from finetune.notices import few
from finetune.settings.settings_file import CONFIG_FILE

log = logging.getLogger("finetune")

Shape = tuple[int, ...]

MOVING_AVERAGE_SUFFIX = "/ExponentialMovingAverage"


@dataclasses.dataclass(frozen=True)
class NetworkVariable:
    """A variable of a network: its name in a checkpoint, its shape, and whether it is a moving statistic."""

    name: str
    shape: Shape
    is_statistic: bool


@dataclasses.dataclass(frozen=True)
class PlannedVariable:
    """What becomes of one variable.

    Attributes:
        name: In the network.
        shape: In the network.
        source: Its name in the checkpoint that it is restored from; None: it is initialised.
        is_trained: Whether a trainable scope takes it. A moving statistic there is updated, not trained by gradients.
        is_statistic: Whether it is a moving mean or variance.
        sums_colours: Whether it is the sum over the colours of what is in the checkpoint.
    """

    name: str
    shape: Shape
    source: str | None
    is_trained: bool
    is_statistic: bool
    sums_colours: bool = False

    @property
    def num_parameters(self) -> int:
        """Number of its values."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class VariablePlan:
    """Restored or initialised × trained or frozen, for every variable of a network."""

    variables: tuple[PlannedVariable, ...]
    trainable_scopes: tuple[str, ...]

    @property
    def restored(self) -> list[PlannedVariable]:
        """Those that are read from the checkpoint."""
        return [variable for variable in self.variables if variable.source is not None]

    @property
    def initialised(self) -> list[PlannedVariable]:
        """Those that keep their initial values until they are trained."""
        return [variable for variable in self.variables if variable.source is None]

    @property
    def trained(self) -> list[PlannedVariable]:
        """Those that gradients change."""
        return [variable for variable in self.variables if variable.is_trained and not variable.is_statistic]

    @property
    def frozen(self) -> list[PlannedVariable]:
        """Those outside the trainable scopes, moving statistics included."""
        return [variable for variable in self.variables if not variable.is_trained]

    def is_frozen(self, scope: str) -> bool:
        """Whether the layer of this full scope name lies outside the trainable scopes."""
        return bool(self.trainable_scopes) and not in_any_scope(scope, self.trainable_scopes)

    def counts(self) -> list[tuple[str, str, int, int]]:
        """Rows (origin, fate, number of variables, number of parameters) of the groups that are not empty."""
        groups: dict[tuple[str, str], list[PlannedVariable]] = {}
        for variable in self.variables:
            origin = "initialised" if variable.source is None else "restored"
            groups.setdefault((origin, _fate(variable)), []).append(variable)
        order = [(origin, fate) for origin in ("restored", "initialised") for fate in ("trained", "updated", "frozen")]
        return [
            (*group, len(groups[group]), sum(variable.num_parameters for variable in groups[group]))
            for group in order
            if group in groups
        ]


@dataclasses.dataclass(frozen=True)
class Purpose:
    """What a plan is made for, which decides what its messages advise: a mend must mend.

    Attributes:
        command: "train": scopes may be excluded; "resume": all comes from the run; "evaluate": all must be restored.
        checkpoint: Path of the checkpoint; "": it isn't said.
        name_prefix: What --checkpoint-prefix has taken off already.
        is_grayscale: Whether --use-grayscale is in force.
        is_object_based: Whether `tf.train.Checkpoint` wrote the checkpoint.
        find_model: Names the network that a checkpoint's shapes look like, or None. It takes a second.
        find_image_size: From a variable's name and its shape in the checkpoint to the height and width in pixels of the
            images at which it has that shape in the network, or None. It takes a second.
    """

    command: Literal["train", "resume", "evaluate"] = "train"
    checkpoint: str = ""
    name_prefix: str = ""
    is_grayscale: bool = False
    is_object_based: bool = False
    find_model: Callable[[Mapping[str, Shape]], str | None] = lambda shapes: None
    find_image_size: Callable[[str, Shape], int | None] = lambda name, shape: None

    @property
    def flag(self) -> str:
        """The flag that named the checkpoint."""
        return "--resume" if self.command == "resume" else "--checkpoint"


def plan_variables(
    variables: Sequence[NetworkVariable],
    *,
    checkpoint_shapes: Mapping[str, Shape] | None,
    exclude_scopes: Sequence[str] = (),
    trainable_scopes: Sequence[str] = (),
    head_scopes: Sequence[str] = (),
    ignore_missing: bool = False,
    use_moving_averages: bool = True,
    sum_colours: bool = False,
    purpose: Purpose = Purpose(),
) -> VariablePlan:
    """Decides for every variable of a network whether it is restored and whether it is trained.

    Args:
        variables: All of the network's.
        checkpoint_shapes: Names and shapes in the checkpoint; None: there is none, all variables are initialised.
        exclude_scopes: Not restored.
        trainable_scopes: Trained; none given: all are. Scopes may overlap.
        head_scopes: The network's, named as the remedy where only the number of classes differs.
        ignore_missing: Variables absent from the checkpoint are initialised, instead of refused.
        use_moving_averages: Restore a variable's moving average where the checkpoint holds one.
        sum_colours: A kernel for colours is summed over them where the network's takes grey images.
        purpose: What for.

    Raises:
        UserError: A scope that matches nothing; a variable absent from the checkpoint or of another shape there; a
            variable that would be initialised and frozen.
    """
    names = [variable.name for variable in variables]
    exclude_scopes = check_scopes("--exclude-scopes", exclude_scopes, names)
    trainable_scopes = check_scopes("--trainable-scopes", trainable_scopes, names)
    if exclude_scopes and checkpoint_shapes is None:
        log.info("--exclude-scopes does nothing without a checkpoint: all variables are initialised.")
    wanted = {
        variable.name: _source(variable.name, checkpoint_shapes, use_moving_averages)
        for variable in variables
        if checkpoint_shapes is not None and not in_any_scope(variable.name, exclude_scopes)
    }
    shapes = {variable.name: variable.shape for variable in variables}
    advice = _Advice(shapes, exclude_scopes, trainable_scopes, head_scopes, purpose)
    summed: set[str] = set()
    if checkpoint_shapes is not None:
        missing = [name for name, source in wanted.items() if source is None]
        if missing and len(missing) == len(wanted):
            _refuse_other_network(missing, checkpoint_shapes, purpose, use_moving_averages)
        differing = {
            variable.name: (checkpoint_shapes[source], variable.shape)
            for variable in variables
            if (source := wanted.get(variable.name)) is not None and checkpoint_shapes[source] != variable.shape
        }
        if sum_colours:
            summed = {name for name, shapes in differing.items() if _is_colour_kernel(name, *shapes)}
            differing = {name: shapes for name, shapes in differing.items() if name not in summed}
        _refuse_unlike([] if ignore_missing else missing, differing, len(wanted), checkpoint_shapes, advice)
    if sum_colours and not summed:
        raise UserError(
            "--grayscale-stem sum: no kernel for three colours is to be restored to one for grey images.",
            "Leave out --grayscale-stem.",
        )
    planned = tuple(
        PlannedVariable(
            name=variable.name,
            shape=variable.shape,
            source=wanted.get(variable.name),
            is_trained=not trainable_scopes or in_any_scope(variable.name, trainable_scopes),
            is_statistic=variable.is_statistic,
            sums_colours=variable.name in summed,
        )
        for variable in variables
    )
    _refuse_initialised_and_frozen(planned, checkpoint_shapes, advice)
    return VariablePlan(planned, trainable_scopes)


def shortest_scopes(wanted: Collection[str], names: Sequence[str], head_scopes: Sequence[str] = ()) -> list[str]:
    """The fewest scopes that take all of some variables and none of the others, none inside another.

    Args:
        wanted: Names of the variables.
        names: Of all the network's, in its order.
        head_scopes: Scopes that are taken whole where they hold one of the variables, though others be in them.
    """
    heads = [scope for scope in head_scopes if any(in_scope(name, scope) for name in wanted)]
    taken = [name for name in names if name in wanted or in_any_scope(name, heads)]
    mixed = set(all_scopes(set(names).difference(taken)))
    # Of the scopes around a variable, from the root inwards, the first that holds no others.
    return list(dict.fromkeys(next(scope for scope in all_scopes([name]) if scope not in mixed) for name in taken))


def heads_unlike(
    variables: Iterable[NetworkVariable], checkpoint_shapes: Mapping[str, Shape], head_scopes: Sequence[str]
) -> tuple[str, ...]:
    """Those of a network's head scopes that hold a variable that a checkpoint lacks, or has in another shape."""
    unlike = []
    for variable in variables:
        source = _source(variable.name, checkpoint_shapes, use_moving_averages=True)
        if source is None or checkpoint_shapes[source] != variable.shape:
            unlike.append(variable.name)
    return tuple(scope for scope in head_scopes if any(in_scope(name, scope) for name in unlike))


def in_scope(name: str, scope: str) -> bool:
    """Whether `scope` is `name` or a path of whole components above it."""
    return name == scope or name.startswith(scope + "/")


def in_any_scope(name: str, scopes: Iterable[str]) -> bool:
    """Whether one of the scopes takes `name`."""
    return any(in_scope(name, scope) for scope in scopes)


def all_scopes(names: Iterable[str]) -> list[str]:
    """Every scope that takes at least one of the names, the names themselves included, in order of first sight."""
    scopes: dict[str, None] = {}
    for name in names:
        components = name.split("/")
        for depth in range(1, len(components) + 1):
            scopes.setdefault("/".join(components[:depth]))
    return list(scopes)


def check_scopes(flag: str, scopes: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """The scopes without trailing slashes.

    Raises:
        UserError: One of them takes none of the names; the nearest scopes are named.
    """
    cleaned = tuple(scope.strip("/") for scope in scopes)
    for scope in cleaned:
        if not any(in_scope(name, scope) for name in names):
            known = all_scopes(names)
            raise UserError(f"{flag}: the scope {scope!r} matches none of {len(names)} variables.", _hint(scope, known))
    return cleaned


def _hint(scope: str, known: list[str]) -> str:
    same_depth = [other for other in known if other.count("/") == scope.count("/")]
    half_words = [other for other in known if other.startswith(scope)][:3]
    if half_words:
        return f"A scope is a path of whole components. Did you mean {' or '.join(half_words)}?"
    return did_you_mean(scope, same_depth if len(same_depth) > 0 else known[:10])


def _fate(variable: PlannedVariable) -> str:
    if not variable.is_trained:
        return "frozen"
    return "updated" if variable.is_statistic else "trained"


def _source(name: str, checkpoint_shapes: Mapping[str, Shape], use_moving_averages: bool) -> str | None:
    if use_moving_averages and name + MOVING_AVERAGE_SUFFIX in checkpoint_shapes:
        return name + MOVING_AVERAGE_SUFFIX
    return name if name in checkpoint_shapes else None


@dataclasses.dataclass(frozen=True)
class _Advice:
    """What was asked for, and the flags that mend it."""

    shapes: Mapping[str, Shape]
    exclude_scopes: Sequence[str]
    trainable_scopes: Sequence[str]
    head_scopes: Sequence[str]
    purpose: Purpose

    @property
    def names(self) -> list[str]:
        """Of all the network's variables, in its order."""
        return list(self.shapes)

    def exclude(self, unlike: Iterable[str]) -> str:
        """Flags by which these variables are initialised too, and trained, lest the next refusal be of that."""
        excluded = {*unlike, *(name for name in self.names if in_any_scope(name, self.exclude_scopes))}
        scopes = shortest_scopes(excluded, self.names, self.head_scopes)
        words = f"--exclude-scopes {','.join(scopes)}"
        initialised = [name for name in self.names if in_any_scope(name, scopes)]
        return words if self.are_trained(initialised) else f"{words} {self.train(initialised)}"

    def takes_all(self, unlike: Collection[str]) -> bool:
        """Whether excluding these would leave nothing to restore."""
        return all(name in unlike or in_any_scope(name, self.exclude_scopes) for name in self.names)

    def restore(self, names: Collection[str]) -> str:
        """Words by which these variables, now excluded, are restored."""
        left = {name for name in self.names if in_any_scope(name, self.exclude_scopes) and name not in names}
        scopes = shortest_scopes(left, self.names)
        return f"--exclude-scopes {','.join(scopes)}" if scopes else "leave out --exclude-scopes"

    def train(self, names: Iterable[str]) -> str:
        """The flag by which these variables are trained too."""
        trained = {*names, *(name for name in self.names if in_any_scope(name, self.trainable_scopes))}
        return f"--trainable-scopes {','.join(shortest_scopes(trained, self.names))}"

    def are_trained(self, names: Iterable[str]) -> bool:
        return not self.trainable_scopes or all(in_any_scope(name, self.trainable_scopes) for name in names)


def _refuse_other_network(
    missing: Sequence[str], checkpoint_shapes: Mapping[str, Shape], purpose: Purpose, use_moving_averages: bool
) -> None:
    """None of the variables is in the checkpoint."""
    averaged = {name.removesuffix(MOVING_AVERAGE_SUFFIX) for name in checkpoint_shapes}
    if not averaged.isdisjoint(missing):
        mend = "Take them: --moving-average" if purpose.command == "evaluate" else "Take them: leave out --no-ema."
        raise UserError(f"{purpose.flag} holds moving averages of the variables alone.", mend)
    stored = averaged.union(checkpoint_shapes) if use_moving_averages else checkpoint_shapes
    prefix, count = find_prefix(missing, stored)
    if count and purpose.command != "resume":
        whole_prefix = f"{purpose.name_prefix}/{prefix}".strip("/")
        first = next(name for name in missing if f"{prefix}/{name}" in stored)
        raise UserError(
            f"{purpose.flag} holds {count} of the {len(missing)} variables to restore, but under the prefix "
            f"{whole_prefix}/: {first} is {whole_prefix}/{first} there.",
            f"Take it off: --checkpoint-prefix {shlex.quote(whole_prefix)}",
        )
    roots = sorted({name.split("/")[0] for name in checkpoint_shapes if "/" in name})
    found = (
        f"{purpose.flag} is of another network: none of the {len(missing)} variables to restore, such as {missing[0]}, "
        f"is in it; its variables lie under {', '.join(roots) or 'no scope'}"
    )
    model = purpose.find_model(checkpoint_shapes)
    if model is not None:
        raise UserError(f"{found}.", f"It holds a {model}: --model {model}")
    if purpose.is_object_based:
        raise UserError(
            f"{found}. tf.train.Checkpoint wrote it, with names of its own.",
            "Of a Keras model, write the weights with save_weights('NAME.weights.h5') where it was made, and import "
            "that file: finetune-import.",
        )
    raise UserError(f"{found}.", "Give the --model that the checkpoint was made with, or that model's checkpoint.")


def _refuse_unlike(
    missing: Sequence[str],
    differing: Mapping[str, tuple[Shape, Shape]],
    num_wanted: int,
    checkpoint_shapes: Mapping[str, Shape],
    advice: _Advice,
) -> None:
    """Some of the variables are not in the checkpoint, or in other shapes (there, in the network)."""
    if not missing and not differing:
        return
    purpose = advice.purpose
    found = []
    if missing:
        found.append(f"{purpose.flag} lacks {len(missing)} of the {num_wanted} variables to restore: {few(missing)}.")
    if differing:
        name, (there, here) = next(iter(differing.items()))
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        found.append(
            f"{purpose.flag}: {name} is {list(there)} in the checkpoint and {list(here)} in the network{more}."
        )
    raise UserError(" ".join(found), _mend_unlike(missing, differing, checkpoint_shapes, advice))


def new_run_with_weights(run: Path) -> str:
    """Advice, but for the scopes to exclude, where a run can't be resumed as it is wanted."""
    return (
        f"begin a new run with its weights, without --resume: --config {shlex.quote(str(run / CONFIG_FILE))} "
        f"--train-dir OTHER --checkpoint {shlex.quote(str(run))}"
    )


def _mend_unlike(
    missing: Sequence[str],
    differing: Mapping[str, tuple[Shape, Shape]],
    checkpoint_shapes: Mapping[str, Shape],
    advice: _Advice,
) -> str:
    purpose = advice.purpose
    unlike = [*missing, *differing]
    other_head = flags_for_head_in(checkpoint_shapes, advice.shapes)
    if purpose.command == "resume":
        head = f"head ({other_head})" if other_head else "data set, --model, --image-size and --use-grayscale"
        return (
            f"Resume with the run's own {head}; or "
            f"{new_run_with_weights(Path(purpose.checkpoint).parent)} {advice.exclude(unlike)}"
        )
    colours = _unlike_by_colours(differing)
    others = [name for name in unlike if name not in colours]
    is_of_trunk = not all(in_any_scope(name, advice.head_scopes) for name in others)
    model = purpose.find_model(checkpoint_shapes) if is_of_trunk else None
    if model is not None:
        return f"It holds a {model}: --model {model}"
    mends = [_mend_colours(colours, differing, purpose)] if colours else []
    # A head's first layer has other features where it pools otherwise, whatever the images.
    may_be_sized = [name for name in others if name in differing and not other_head]
    sized = [name for name in may_be_sized if _may_be_sized(*differing[name])]
    size = purpose.find_image_size(sized[0], differing[sized[0]][0]) if sized else None
    if size is not None:
        mends.append(f"It is of images of another size, such as --image-size {size}.")
        others = [name for name in others if name not in sized]
    if others and purpose.command == "evaluate":
        of_head = f"It has another head: {other_head}."
        mends.append(of_head if other_head else _mend_evaluation(others, differing, is_of_trunk=is_of_trunk))
    elif others and advice.takes_all(others):
        mends.append("Give the --model that it was made with, or train from scratch: leave out --checkpoint.")
    elif others:
        if other_head and head_in(checkpoint_shapes) is not None:  # A new head in place of an own one is no mistake.
            mends.append(f"It has another head: {other_head}.")
        ignore = (
            ", or initialise what is missing with --ignore-missing-vars"
            if not differing and advice.are_trained(missing)
            else ""
        )
        mends.append(f"To initialise instead of restoring: {advice.exclude(others)}{ignore}")
    return " ".join(mends)


def _mend_evaluation(others: Sequence[str], differing: Mapping[str, object], *, is_of_trunk: bool) -> str:
    if not any(name in differing for name in others):
        return "Give the --model that it was made with."
    size = ", the --image-size" if is_of_trunk else ""
    return f"Give the --model{size} and the data set, or the --labels-offset, that the checkpoint was made with."


def _mend_colours(colours: Collection[str], differing: Mapping[str, tuple[Shape, Shape]], purpose: Purpose) -> str:
    if any(len(there) == 4 and there[2] == 1 for there, _ in (differing[name] for name in colours)):
        return "It is of grey images: --use-grayscale."
    can_sum = purpose.command == "train" and all(_is_colour_kernel(name, *differing[name]) for name in colours)
    ways = [
        *(["leave out --use-grayscale, and grey images are taken as colour ones"] if purpose.is_grayscale else []),
        *(["sum the kernel over its colours: --grayscale-stem sum"] if can_sum else []),
    ]
    advice = "; or ".join(ways)
    return f"It is of colour images: {advice or 'give one of grey images'}."


def _may_be_sized(there: Shape, here: Shape) -> bool:
    """Whether two shapes differ as those of a layer over all of an image do, where the images have other sizes."""
    return len(there) == len(here) and there[-1] == here[-1]


def _unlike_by_colours(differing: Mapping[str, tuple[Shape, Shape]]) -> set[str]:
    """Those of the layers whose kernel is for three channels on one side and for one on the other."""
    scopes = {
        name.rpartition("/")[0]
        for name, (there, here) in differing.items()
        if len(there) == len(here) == 4 and {there[2], here[2]} == {1, 3} and there[:2] == here[:2]
    }
    return {name for name in differing if name.rpartition("/")[0] in scopes}


def _is_colour_kernel(name: str, there: Shape, here: Shape) -> bool:
    """Whether a kernel [h,w,3,out] in the checkpoint is [h,w,1,out] in the network.

    Of a separable convolution there are kernels for each channel, which have no sum.
    """
    is_kernel = name.rpartition("/")[2] == "weights"
    return is_kernel and len(there) == 4 and there[2] == 3 and here == (*there[:2], 1, there[3])


def _refuse_initialised_and_frozen(
    planned: Sequence[PlannedVariable], checkpoint_shapes: Mapping[str, Shape] | None, advice: _Advice
) -> None:
    stray = {variable.name: variable for variable in planned if variable.source is None and not variable.is_trained}
    if not stray:
        return
    if checkpoint_shapes is None:
        mend = "Give the pretrained weights with --checkpoint, or train all variables: leave out --trainable-scopes."
    else:
        mend = f"Train them too: {advice.train(stray)}"
        if all(checkpoint_shapes.get(name) == variable.shape for name, variable in stray.items()):
            mend += f"; or restore them: {advice.restore(stray)}"
    raise UserError(
        f"{len(stray)} variables would be random and stay so, not restored and not trained: {few(list(stray))}.",
        mend,
    )
