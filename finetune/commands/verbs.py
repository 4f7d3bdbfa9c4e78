"""The verbs of the command `finetune`, a line each. Nothing of theirs is imported to list them."""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Verb:
    """What `finetune VERB` runs.

    Attributes:
        module: Of `finetune.commands`; its function `main` takes the words of the command line and the program's name.
        settings: The class in `finetune.settings` whose fields are its flags.
        summary: What it does, in one sentence, which its own `--help` begins with.
        has_program: Whether there is a program `finetune-VERB`, too.
    """

    module: str
    settings: str
    summary: str
    has_program: bool = True

    def load_main(self) -> Callable[..., int]:
        """Imports the verb's module, and none of the others."""
        main: Callable[..., int] = importlib.import_module(f"finetune.commands.{self.module}").main
        return main

    def load_settings(self) -> type[Any]:
        """Imports its settings alone."""
        settings: type[Any] = getattr(importlib.import_module("finetune.settings"), self.settings)
        return settings


VERBS = {
    "convert": Verb("convert", "ConvertSettings", "Converts a folder of images into TFRecord shards."),
    "train": Verb("train", "TrainSettings", "Fine-tunes an image classifier."),
    "eval": Verb("evaluate", "EvalSettings", "Evaluates a checkpoint on a split of a data set."),
    "predict": Verb("predict", "PredictSettings", "Predicts the classes of image files."),
    "export": Verb("export", "ExportSettings", "Writes a checkpoint as SavedModel, TFLite, ONNX or OpenVINO."),
    "inspect": Verb("inspect", "InspectSettings", "Shows what checkpoints hold, plans of trainings, all networks."),
    "import": Verb("import_weights", "ImportSettings", "Writes weights of other programs as a slim checkpoint."),
    "download": Verb("download", "DownloadSettings", "Downloads published checkpoints and data sets by name."),
    "data-service": Verb(
        "data_service",
        "DataServiceSettings",
        "Decodes and augments images for trainings of other processes.",
        has_program=False,
    ),
    "completion": Verb(
        "completion", "CompletionSettings", "Prints a script that completes all this in bash or zsh.", has_program=False
    ),
}
