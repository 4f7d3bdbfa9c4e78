"""`--checkpoint NAME`: the published weights of a network; with photographs they are what a training begins from."""

import dataclasses
import logging
import shlex
from pathlib import Path

from finetune.commands.download import obtain_published
from finetune.errors import UserError
from finetune.nets.keras_networks.model_file import ENDING, is_model_file
from finetune.nets.keras_networks.table import APPLICATIONS
from finetune.published.catalogue import catalogue
from finetune.published.obtain import default_folder
from finetune.settings.choices import FROM_SCRATCH
from finetune.settings.recipes import RECIPES
from finetune.settings.train import TrainSettings

log = logging.getLogger("finetune")


def with_published_weights(settings: TrainSettings) -> TrainSettings:
    """The settings with the path of the weights in place of a network's name, fetched where they aren't here yet.

    Without --checkpoint a training of photographs, or by a recipe, begins from those of its network, one of records
    from scratch, and one that goes on from its own.

    Raises:
        UserError: None were published of the network; they can't be fetched.
    """
    network = settings.network
    begins_from_them = settings.source.photographs_path is not None or settings.course.recipe in RECIPES
    if not settings.run.resume and network.checkpoint is None and is_model_file(network.model):
        raise _of_file(network.model)
    if settings.run.resume or (network.checkpoint is None and not begins_from_them):
        return settings
    name = network.model if network.checkpoint is None else str(network.checkpoint)
    networks = {*APPLICATIONS, *(published.name for published in catalogue().values() if not published.is_dataset)}
    if network.checkpoint is not None and (name in networks or name == FROM_SCRATCH) and _is_there(network.checkpoint):
        log.info("--checkpoint %s: the path of this name is taken; it is a name that means something, too.", name)
        return settings
    if name == FROM_SCRATCH:
        return _with_checkpoint(settings, None)
    if name in networks:
        return _with_checkpoint(settings, _obtained(name))
    if network.checkpoint is None:
        raise UserError(
            f"No weights of {network.model} were published, which the training would begin from.",
            f"Give --checkpoint PATH, or --checkpoint {FROM_SCRATCH} to train it from scratch.",
        )
    return settings


def _with_checkpoint(settings: TrainSettings, checkpoint: Path | None) -> TrainSettings:
    return dataclasses.replace(settings, network=dataclasses.replace(settings.network, checkpoint=checkpoint))


def _of_file(model: str) -> UserError:
    imported = shlex.quote(f"{model.removesuffix(ENDING)}.ckpt")
    return UserError(
        f"--model {model}: no --checkpoint is given, so that its weights would be drawn anew.",
        f"Take its own: finetune-import {shlex.quote(model)} --model {shlex.quote(model)} --output {imported}\n"
        f"  and give --checkpoint {imported}; or --checkpoint {FROM_SCRATCH} to train it from scratch.",
    )


def _is_there(path: Path) -> bool:
    return path.exists() or path.with_name(f"{path.name}.index").exists()


def _obtained(name: str) -> Path:
    folder = default_folder()
    try:
        return obtain_published(name, folder)
    except UserError as error:
        if name in APPLICATIONS:
            raise
        (url,) = catalogue()[name].urls
        archive, unpacked = url.rsplit("/", 1)[-1], folder / name
        unpack = f"mkdir -p {unpacked} && tar -xf {archive} -C {unpacked}"
        raise UserError(
            f"The published weights of {name} can't be had: {str(error).splitlines()[0]}",
            f"Fetch {url} where it can be reached, and unpack it here: {unpack}\n"
            f"  Or give --checkpoint PATH of other weights, or --checkpoint {FROM_SCRATCH} to train from scratch.",
        ) from error
