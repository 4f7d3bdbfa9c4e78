"""A network as it was trained: rebuilt by the settings of its run, with the weights of a checkpoint."""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.datasets.description import LABELS_FILE, read_labels
from finetune.datasets.records import ENCODED, LABEL
from finetune.errors import UserError
from finetune.model.recognise import image_size_at, other_model
from finetune.model.scopes import MOVING_AVERAGE_SUFFIX, Purpose, in_any_scope, plan_variables
from finetune.nets import spec_of
from finetune.nets.heads import LINEAR, head_in_words
from finetune.nets.keras_networks.model_file import keep_to
from finetune.notices import tell_once
from finetune.runs.run_folder import ARCHITECTURE_FILE, settings_of_run
from finetune.settings.choices import SINGLE_LABEL
from finetune.settings.flags import flags_of, flat_values
from finetune.settings.head import HeadSettings
from finetune.settings.settings_file import CONFIG_FILE
from finetune.settings.train import DEFAULT_MODEL
from finetune.settings.trust import TRUST_CODE, refuse_modules

if TYPE_CHECKING:
    from finetune.model.checkpoint import Checkpoint
    from finetune.model.model import Model
    from finetune.nets.spec import NetSpec

log = logging.getLogger("finetune")


@dataclasses.dataclass(frozen=True)
class TrainedNetwork:
    """What a network must be rebuilt with, and how the records are read that it was trained on.

    Attributes:
        model: Name of the network.
        preprocessing: Name of the preprocessing.
        image_size: Height and width of the images in pixels; None: the network's own.
        use_grayscale: Whether the images have one channel.
        labels_offset: What is subtracted from the labels of the records.
        use_moving_averages: Whether the moving averages of the weights are used instead of the weights.
        precision: Type that the layers compute in.
        image_key: Of the image in the records.
        label_key: Of the label in the records.
        resize: How whole pictures become squares; None: as the preprocessing does it.
        head: As `--head` takes it.
        head_dropout: As `--head-dropout` takes it.
        head_pooling: As `--head-pooling` takes it; None: it isn't said.
        task: Whether an image has one label, a word of `TASKS`.
    """

    model: str
    preprocessing: str
    image_size: int | None
    use_grayscale: bool
    labels_offset: int
    use_moving_averages: bool
    precision: str
    image_key: str = ENCODED
    label_key: str = LABEL
    resize: str | None = None
    head: str = LINEAR
    head_dropout: float = 0.0
    head_pooling: str | None = None
    task: str = SINGLE_LABEL


def network_settings(given: Any, checkpoint_prefix: str) -> TrainedNetwork:
    """What the command says, else what the checkpoint's run says, else what is the network's own.

    Args:
        given: Settings of a command; those that are None, or that it doesn't have, were not given.
        checkpoint_prefix: A run's checkpoint, or any other.

    Raises:
        UserError: The run names a module as its network, and the command neither names nor trusts it; the run has
            another head than the command says.
    """
    folder = Path(checkpoint_prefix).parent
    run = settings_of_run(folder) or {}
    said = {name: getattr(given, name, None) for name in ("model", "preprocessing", TRUST_CODE)}
    refuse_modules(run, said, folder / CONFIG_FILE)
    if run:
        _refuse_other_head(given, run, folder)
        _refuse_other_task(given, run, folder)

    def known(name: str, default: Any) -> Any:
        value = getattr(given, name, None)
        return value if value is not None else run.get(name, default)

    model = known("model", DEFAULT_MODEL)
    keep_to(model, folder / ARCHITECTURE_FILE if model == run.get("model") else None)
    given_preprocessing = getattr(given, "preprocessing", None)
    return TrainedNetwork(
        model=model,
        preprocessing=known("preprocessing", model) if model == run.get("model") else given_preprocessing or model,
        image_size=known("image_size", None),
        use_grayscale=known("use_grayscale", False),
        labels_offset=known("labels_offset", 0),
        use_moving_averages=known("moving_average", known("moving_average_decay", None) is not None),
        precision=known("precision", "float32"),
        image_key=known("image_key", ENCODED),
        label_key=known("label_key", LABEL),
        resize=known("resize", None),
        task=known("task", SINGLE_LABEL),
        **flat_values(HeadSettings(**{flag.name: known(flag.name, flag.default) for flag in flags_of(HeadSettings)})),
    )


def _refuse_other_head(given: Any, run: Mapping[str, Any], folder: Path) -> None:
    """Of two heads the run's is the one of its weights; how it pools doesn't even show in their shapes."""
    for flag in flags_of(HeadSettings):
        said, of_run = getattr(given, flag.name, None), run.get(flag.name, flag.default)
        if said is not None and said != of_run:
            was = f"{flag.option} {of_run}" if of_run is not None else f"no {flag.option}"
            raise UserError(
                f"{flag.option} is {said}, but {folder} was trained with {was}.",
                f"Leave out {flag.option}: a run's own head is known.",
            )


def _refuse_other_task(given: Any, run: Mapping[str, Any], folder: Path) -> None:
    said, of_run = getattr(given, "task", None), run.get("task", SINGLE_LABEL)
    if said is not None and said != of_run:
        raise UserError(
            f"--task is {said}, but {folder} was trained with --task {of_run}.",
            "Leave out --task: a run's own is known.",
        )


def names_of_outputs(checkpoint: "Checkpoint", spec: "NetSpec", labels_offset: int) -> tuple[str, ...] | None:
    """Names of a checkpoint's classes, in the order of its outputs, from labels.txt beside it; None: not known.

    Args:
        checkpoint: A run's, or another one with such a file.
        spec: Of its network.
        labels_offset: Label of the first output where no run says it: a run's labels.txt is of the data that it was
            trained on, whatever other data call their first class.
    """
    from finetune.model.recognise import count_classes, variable_shapes

    path = Path(checkpoint.prefix).parent / LABELS_FILE
    if not path.is_file():
        tell_by_number(checkpoint)
        return None
    names = read_labels(path)[labels_offset_of_run(path.parent, labels_offset) :]
    num_outputs = count_classes(spec, variable_shapes(checkpoint.shapes))
    if num_outputs is not None and len(names) != num_outputs:
        log.info("%s names %d classes for %d outputs: it is not used.", path, len(names), num_outputs)
        tell_by_number(checkpoint)
        return None
    return names


def tell_by_number(checkpoint: "Checkpoint") -> None:
    """Says what is guessed where a network's classes have no names."""
    tell_once(f"{checkpoint.prefix} has no names of its classes: its outputs are taken for the data's by number.")


def labels_offset_of_run(folder: Path, default: int) -> int:
    """Label of the first output in a run's own labels.txt; the default where the folder is no run's."""
    offset: int = (settings_of_run(folder) or {}).get("labels_offset", default)
    return offset


def restore_network(network: TrainedNetwork, num_classes: int, checkpoint: "Checkpoint") -> "Model":
    """The network with a checkpoint's weights.

    Args:
        network: What it is rebuilt with.
        num_classes: Number of logits.
        checkpoint: Where its weights are.

    Raises:
        UserError: The checkpoint is another network's, or holds no moving averages though they are wanted.
    """
    import tensorflow as tf

    from finetune.model.model import Model

    model = Model(
        spec_of(network),
        num_classes,
        image_size=network.image_size,
        channels=1 if network.use_grayscale else None,
        initialise=False,
    )
    if model.spec.head is not None:  # Of which a checkpoint doesn't show all.
        tell_once(head_in_words(model.spec))
    model.compute_dtype = tf.as_dtype(network.precision)
    restore_weights(model, network, checkpoint)
    return model


def restore_networks(
    network: TrainedNetwork, num_classes: int, checkpoint: "Checkpoint", num_clones: int
) -> "dict[str | None, Model]":
    """As `restore_network`, the same on each of so many devices, by their names; None: where TensorFlow chooses.

    Raises:
        UserError: As `restore_network`; there are fewer devices.
    """
    import tensorflow as tf

    from finetune.model.gpus import devices_side_by_side

    copies = {}
    for device in devices_side_by_side(num_clones):
        with tf.device(device):
            copies[device] = restore_network(network, num_classes, checkpoint)
    return copies


def restore_weights(model: "Model", network: TrainedNetwork, checkpoint: "Checkpoint") -> None:
    """Puts a checkpoint's weights into the network.

    Raises:
        UserError: As `restore_network`.
    """
    if network.use_moving_averages and not any(name.endswith(MOVING_AVERAGE_SUFFIX) for name in checkpoint.shapes):
        raise UserError(
            f"--moving-average: {checkpoint.prefix} holds no moving averages of the weights.",
            "Leave the flag out (and --moving-average-decay), or give --no-moving-average for a run that kept some.",
        )
    # Imported weights may lack the auxiliary head, of which nothing but training has use.
    auxiliary_scopes = model.spec.head_scopes[1:]
    needed = [
        variable
        for variable in model.network_variables()
        if variable.name in checkpoint.shapes or not in_any_scope(variable.name, auxiliary_scopes)
    ]
    plan = plan_variables(
        needed,
        checkpoint_shapes=checkpoint.shapes,
        head_scopes=model.spec.head_scopes,
        use_moving_averages=network.use_moving_averages,
        purpose=Purpose(
            command="evaluate",
            checkpoint=checkpoint.prefix,
            name_prefix=checkpoint.name_prefix,
            is_grayscale=network.use_grayscale,
            is_object_based=checkpoint.is_object_based,
            find_model=other_model(network.model),
            find_image_size=image_size_at(model.spec, 1 if network.use_grayscale else None),
        ),
    )
    model.restore(checkpoint, plan)


def scored_with(network: TrainedNetwork, tta: str = "none") -> dict[str, str | int | None]:
    """What the probabilities of some weights hang on besides, by name, as decision.json has it."""
    return {
        "preprocessing": network.preprocessing,
        "resize": network.resize,
        "image_size": network.image_size or spec_of(network).image_size,
        "tta": tta,
    }


def weights_sha256(model: "Model") -> str:
    """The hash of a network's weights, by their names."""
    from finetune.trunk.features import values_hash

    return values_hash((name, variable.numpy()) for name, variable in sorted(model.model_variables.items()))
