"""Finetune from Python: the functions that the commands call, each with the settings that its flags set.

    from pathlib import Path
    from finetune.api import EvalSettings, PredictSettings, TrainSettings, evaluate, plan, predict, train

    head, records = ("MobilenetV2/Logits",), Path("records")
    settings = TrainSettings(
        dataset_dir=records,
        train_dir=Path("runs/head"),
        model="mobilenet_v2",
        max_steps=100,
        checkpoint=Path("mobilenet_v2_1.0_224.ckpt"),
        exclude_scopes=head,
        trainable_scopes=head,
    )
    print(plan(settings).counts())
    run = train(settings)
    print(evaluate(EvalSettings(dataset_dir=records, checkpoint=(run.train_dir,))).scores.accuracy)
    for prediction in predict(PredictSettings(checkpoint=run.train_dir, images=("photos",))):
        print(prediction.filename, prediction.guesses[0].name)

Mistakes that the user can mend raise `UserError`; Ctrl-C in a training raises `TrainingInterrupted`, which is a
KeyboardInterrupt, once its checkpoint is written. Importing this module loads no TensorFlow; the functions do.
"""

from finetune.classifier import Classifier, restore_classifier
from finetune.config import EvalSettings, TrainSettings
from finetune.convert import Conversion, ConvertSettings, convert
from finetune.errors import UserError
from finetune.evaluate import evaluate
from finetune.export import ExportResult, ExportSettings, export
from finetune.predict import PredictSettings, predict
from finetune.predictions import Guess, Prediction
from finetune.result_files import EvalResult
from finetune.scopes import VariablePlan
from finetune.train import TrainingInterrupted, TrainResult, plan, train

__all__ = [
    "Classifier",
    "Conversion",
    "ConvertSettings",
    "EvalResult",
    "EvalSettings",
    "ExportResult",
    "ExportSettings",
    "Guess",
    "PredictSettings",
    "Prediction",
    "TrainResult",
    "TrainSettings",
    "TrainingInterrupted",
    "UserError",
    "VariablePlan",
    "convert",
    "evaluate",
    "export",
    "plan",
    "predict",
    "restore_classifier",
    "train",
]
