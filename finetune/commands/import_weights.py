"""`finetune-import`: weights that other programs wrote, as a slim checkpoint.

Names and shapes are checked on both sides. Where the file holds a network that can be run, its logits on a fixed image
are compared with those of our network with the imported weights, and a difference is refused.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.commands.command import run_command, say
from finetune.commands.tensorflow_start import start_tensorflow
from finetune.commands.verbs import VERBS
from finetune.errors import UserError
from finetune.files.folder_lock import sole_writer
from finetune.files.write_errors import write_errors_told
from finetune.model.scopes import in_any_scope
from finetune.nets import spec_of
from finetune.nets.spec import NetSpec
from finetune.notices import few
from finetune.settings.import_weights import ImportSettings
from finetune.types import Array

if TYPE_CHECKING:
    from finetune.foreign_weights.foreign_file import ForeignFile
    from finetune.model.model import Model


# Largest difference of logits, as a part of the largest logit, that rounding explains.
TOLERANCE = 1e-4

_OTHER_MODEL = "Give the --model, and the --head, that the file was made with."

log = logging.getLogger("finetune")


@dataclasses.dataclass(frozen=True)
class ImportResult:
    """What was written.

    Attributes:
        checkpoint: Prefix of the checkpoint.
        num_variables: In it.
        num_parameters: Their values, moving statistics included.
        num_classes: Outputs of the head.
        remarks: What the user must know about these weights; a sentence each.
    """

    checkpoint: Path
    num_variables: int
    num_parameters: int
    num_classes: int
    remarks: tuple[str, ...]


def import_weights(settings: ImportSettings) -> ImportResult:
    """Writes the weights of a foreign file as a slim checkpoint.

    Raises:
        UserError: The file can't be read or is not of this network: names, shapes or logits differ.
    """
    with write_errors_told(), sole_writer(settings.output, flag="--output", program="finetune-import"):
        return _import_weights(settings)


def _import_weights(settings: ImportSettings) -> ImportResult:
    from finetune.foreign_weights import open_weights
    from finetune.model.checkpoint import count_not_finite, write_checkpoint
    from finetune.model.gpus import use_gpus
    from finetune.model.model import Model
    from finetune.model.recognise import describe_variables

    use_gpus(settings)
    path = _only_file(settings)
    spec = spec_of(settings)
    if Path(f"{settings.output}.index").exists() and not settings.overwrite:
        raise UserError(f"--output: the checkpoint {settings.output} exists.", "Replace it with --overwrite.")
    source = open_weights(path, spec.name)
    num_classes = settings.num_classes or source.num_classes(spec)
    if not num_classes:
        raise UserError(f"{path} holds no {spec.head_scopes[0]}, the head of {spec.name}.", _OTHER_MODEL)
    image_size = _image_size(path, source)
    # Before anything of the sizes that the file claims takes memory, they are compared with what it holds.
    shapes = {variable.name: variable.shape for variable in describe_variables(spec, num_classes, image_size)}
    found = source.find_weights(spec, shapes)
    missing = _check_missing(path, spec, [name for name in shapes if name not in found.absent], found.values)
    _refuse_not_finite(path, count_not_finite(found.values.items()))
    model = Model(spec, num_classes, image_size=image_size, initialise=False)
    for name, value in found.values.items():
        model.model_variables[name].assign(value)
    comparison = _compare_logits(path, model, source)
    write_checkpoint(settings.output, found.values)
    return ImportResult(
        settings.output,
        num_variables=len(found.values),
        num_parameters=sum(value.size for value in found.values.values()),
        num_classes=num_classes,
        remarks=(*found.remarks, *_describe_strays(missing, found.leftovers), comparison),
    )


def _import_and_print(settings: ImportSettings) -> None:
    start_tensorflow()
    result = import_weights(settings)
    for remark in result.remarks:
        log.info(remark)
    say(
        f"{result.checkpoint}: {result.num_variables} variables, {result.num_parameters:,} values, "
        f"{result.num_classes} classes"
    )


def _only_file(settings: ImportSettings) -> Path:
    if len(settings.file) != 1:
        raise UserError(f"finetune-import takes one FILE, not {len(settings.file)}.", "See finetune-import --help.")
    return Path(settings.file[0])


def _image_size(path: Path, source: "ForeignFile") -> int | None:
    from finetune.model.recognise import LARGEST_IMAGE_SIZE

    size = source.image_size()
    if size is not None and not 0 < size <= LARGEST_IMAGE_SIZE:
        raise UserError(f"{path} takes images of {size:,} pixels; {LARGEST_IMAGE_SIZE} are the most.", _OTHER_MODEL)
    return size


def _refuse_not_finite(path: Path, counts: Mapping[str, int]) -> None:
    if counts:
        raise UserError(
            f"{path}: {len(counts)} variables hold NaN or infinity: {few(list(counts))}. Nothing was written.",
            "Give a file of sound weights.",
        )


def _check_missing(path: Path, spec: NetSpec, expected: Sequence[str], found: Mapping[str, Any]) -> list[str]:
    """Names of the variables that the file lacks and may lack: those of auxiliary heads, needed in training only."""
    absent = [name for name in expected if name not in found]
    needed = [name for name in absent if not in_any_scope(name, spec.head_scopes[1:])]
    if needed:
        raise UserError(
            f"{path} lacks {len(needed)} of the {len(expected)} variables of {spec.name}: {few(needed)}.",
            _OTHER_MODEL,
        )
    return absent


def _describe_strays(missing: Sequence[str], leftovers: Sequence[str]) -> list[str]:
    lines = []
    if missing:
        lines.append(f"Not in the file, auxiliary head, left out: {len(missing)} variables ({few(missing)}).")
    if leftovers:
        lines.append(f"In the file, not the network's, left out: {len(leftovers)} arrays ({few(leftovers)}).")
    return lines


def _compare_logits(path: Path, model: "Model", source: "ForeignFile") -> str:
    """A sentence on how near the logits are on a fixed image.

    Raises:
        UserError: They differ by more than rounding.
    """
    images = _fixed_images(model)
    before = source.logits(images)
    if before is None:
        return "The file holds no network to run, so logits could not be compared."
    after = _own_logits(model, images)
    difference = float(abs(after - before).max() / (abs(before).max() or 1.0))
    if not difference <= TOLERANCE:
        raise UserError(
            f"{path}: with these weights {model.spec.name} computes other logits than the file's own network: "
            f"they differ by {difference:.1e} of the largest, more than {TOLERANCE:.0e}.",
            "The file's network is another one, for all its names. Nothing was written.",
        )
    return f"Logits on a fixed image differ by at most {difference:.0e} of the largest from the file's own."


def _fixed_images(model: "Model") -> "Array":
    """The image that is compared on: coarse noise in [-1,1], [1,H,W,C], always the same."""
    import numpy as np

    size = model.image_size
    coarse = np.random.RandomState(0).uniform(-1, 1, [8, 8, model.channels]).astype(np.float32)
    rows = np.arange(size) * 8 // size
    return coarse[rows][:, rows][np.newaxis]


def _own_logits(model: "Model", images: "Array") -> "Array":
    import numpy as np
    import tensorflow as tf

    network = tf.function(lambda images: model(images, is_training=False).logits, autograph=False)
    return np.asarray(network(tf.constant(images)))[0]


def main(argv: Sequence[str] | None = None, prog: str = "finetune-import") -> int:
    """The command."""
    return run_command(
        ImportSettings,
        _import_and_print,
        prog=prog,
        description=f"{VERBS['import'].summary} Names, shapes and logits are checked.",
        argv=argv,
    )
