"""Which variables are restored and which are trained: matching of scopes, and the plan. TensorFlow is not needed.

A scope is a path of whole components: `InceptionV3/Logits` takes `InceptionV3/Logits/Conv2d_1c_1x1/weights`, and
`Conv2d_1` does not take `Conv2d_10`. (slim matched excluded scopes by prefix and trainable ones as regular expressions;
both took half words, and a scope that matched nothing passed in silence.)
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from finetune.errors import UserError, did_you_mean

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
    """

    name: str
    shape: Shape
    source: str | None
    is_trained: bool
    is_statistic: bool

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


def plan_variables(
    variables: Sequence[NetworkVariable],
    *,
    checkpoint_shapes: Mapping[str, Shape] | None,
    exclude_scopes: Sequence[str] = (),
    trainable_scopes: Sequence[str] = (),
    head_scopes: Sequence[str] = (),
    ignore_missing: bool = False,
    use_moving_averages: bool = True,
    is_for_training: bool = True,
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
        is_for_training: Whether messages may advise to exclude scopes: what is evaluated must be restored.

    Raises:
        UserError: A scope that matches nothing; a variable absent from the checkpoint or of another shape there; a
            variable that would be initialised and frozen.
    """
    names = [variable.name for variable in variables]
    exclude_scopes = check_scopes("--exclude-scopes", exclude_scopes, names)
    trainable_scopes = check_scopes("--trainable-scopes", trainable_scopes, names)
    wanted = {
        variable.name: _source(variable.name, checkpoint_shapes, use_moving_averages)
        for variable in variables
        if checkpoint_shapes is not None and not in_any_scope(variable.name, exclude_scopes)
    }
    if checkpoint_shapes is not None and not ignore_missing:
        missing = [name for name, source in wanted.items() if source is None]
        _refuse_missing(missing, len(wanted), checkpoint_shapes, is_for_training)
    if checkpoint_shapes is not None:
        _refuse_other_shapes(variables, wanted, checkpoint_shapes, head_scopes, is_for_training)
    planned = tuple(
        PlannedVariable(
            name=variable.name,
            shape=variable.shape,
            source=wanted.get(variable.name),
            is_trained=not trainable_scopes or in_any_scope(variable.name, trainable_scopes),
            is_statistic=variable.is_statistic,
        )
        for variable in variables
    )
    _refuse_initialised_and_frozen(planned, has_checkpoint=checkpoint_shapes is not None)
    return VariablePlan(planned, trainable_scopes)


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


def _refuse_missing(
    missing: list[str], num_wanted: int, checkpoint_shapes: Mapping[str, Shape], is_for_training: bool
) -> None:
    if not missing:
        return
    roots = sorted({name.split("/")[0] for name in checkpoint_shapes if "/" in name})
    if len(missing) == num_wanted:
        raise UserError(
            f"--checkpoint is of another network: none of the {num_wanted} variables to restore, such as {missing[0]}, "
            f"is in it; its variables lie under {', '.join(roots) or 'no scope'}.",
            "Give the --model that the checkpoint was made with, or that model's checkpoint.",
        )
    scopes = sorted({name.rsplit("/", 1)[0] for name in missing})
    raise UserError(
        f"--checkpoint lacks {len(missing)} of the {num_wanted} variables to restore: {_listed(missing)}.",
        "Give the --model that it was made with."
        if not is_for_training
        else f"Leave them out with --exclude-scopes {','.join(scopes[:3])}, or initialise what is missing with "
        "--ignore-missing-vars.",
    )


def _refuse_other_shapes(
    variables: Sequence[NetworkVariable],
    wanted: Mapping[str, str | None],
    checkpoint_shapes: Mapping[str, Shape],
    head_scopes: Sequence[str],
    is_for_training: bool,
) -> None:
    differing = {}
    for variable in variables:
        source = wanted.get(variable.name)
        if source is not None and checkpoint_shapes[source] != variable.shape:
            differing[variable.name] = (checkpoint_shapes[source], variable.shape)
    if not differing:
        return
    name, (found, expected) = next(iter(differing.items()))
    scopes = [scope for scope in head_scopes if any(in_scope(other, scope) for other in differing)]
    if not all(in_any_scope(other, scopes) for other in differing):
        scopes = sorted({other.rsplit("/", 1)[0] for other in differing})
    more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
    raise UserError(
        f"--checkpoint: {name} is {list(found)} in the checkpoint and {list(expected)} in the network{more}.",
        f"To initialise instead of restoring: --exclude-scopes {','.join(scopes)}"
        if is_for_training
        else "Give the --model and the data set, or the --labels-offset, that the checkpoint was made with.",
    )


def _refuse_initialised_and_frozen(planned: Sequence[PlannedVariable], *, has_checkpoint: bool) -> None:
    stray = [variable.name for variable in planned if variable.source is None and not variable.is_trained]
    if not stray:
        return
    scopes = sorted({name.rsplit("/", 1)[0] for name in stray})
    mend = (
        f"Train them too with --trainable-scopes ...,{','.join(scopes[:3])}, or restore them: take them out of "
        "--exclude-scopes."
        if has_checkpoint
        else "Give the pretrained weights with --checkpoint, or train all variables: leave out --trainable-scopes."
    )
    raise UserError(
        f"{len(stray)} variables would be random and stay so, not restored and not trained: {_listed(stray)}.", mend
    )


def _listed(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
