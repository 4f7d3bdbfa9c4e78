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

From a folder of photographs, which is converted by itself, to an accuracy and a report it takes three lines:

    from finetune.api import TrainSettings, train
    run = train(TrainSettings(images_dir=Path("photos"), model="mobilenet_v2"))
    print(run.best_accuracy, run.report)

Mistakes that the user can mend raise `UserError`; Ctrl-C in a training raises `TrainingInterrupted`, which is a
KeyboardInterrupt, once its checkpoint is written. Importing this module loads no TensorFlow; the functions do.
"""

from finetune.commands import convert as _convert
from finetune.commands import cross_validation as _cross_validation
from finetune.commands import download as _download
from finetune.commands import evaluate as _evaluate
from finetune.commands import export as _export
from finetune.commands import predict as _predict
from finetune.commands import sweep as _sweep
from finetune.commands import train as _train
from finetune.commands import verification as _verification
from finetune.commands.conversion import Conversion
from finetune.commands.copies import with_copies
from finetune.commands.cross_validation import CrossValidation
from finetune.commands.export import ExportResult
from finetune.commands.sweep import SweepResult
from finetune.commands.train import TrainingInterrupted, TrainResult
from finetune.commands.verification import Verification
from finetune.errors import UserError
from finetune.evaluation.result_files import EvalResult
from finetune.model.scopes import VariablePlan
from finetune.prediction import classifier as _classifier
from finetune.prediction.classifier import Classifier
from finetune.prediction.writers import Guess, Prediction
from finetune.settings.classifier import ClassifierSettings
from finetune.settings.convert import ConvertSettings
from finetune.settings.download import DownloadSettings
from finetune.settings.evaluate import EvalSettings
from finetune.settings.export import ExportSettings
from finetune.settings.predict import PredictSettings
from finetune.settings.stages import Stage
from finetune.settings.train import TrainSettings

convert = with_copies(_convert.convert)
cross_validate = with_copies(_cross_validation.cross_validate)
download = with_copies(_download.download)
evaluate = with_copies(_evaluate.evaluate)
export = with_copies(_export.export)
plan = with_copies(_train.plan)
predict = with_copies(_predict.predict)
restore_classifier = with_copies(_classifier.restore_classifier)
sweep = with_copies(_sweep.sweep)
train = with_copies(_train.train)
verify = with_copies(_verification.verify)

__all__ = [
    "Classifier",
    "ClassifierSettings",
    "Conversion",
    "ConvertSettings",
    "CrossValidation",
    "DownloadSettings",
    "EvalResult",
    "EvalSettings",
    "ExportResult",
    "ExportSettings",
    "Guess",
    "PredictSettings",
    "Prediction",
    "Stage",
    "SweepResult",
    "TrainResult",
    "TrainSettings",
    "TrainingInterrupted",
    "UserError",
    "VariablePlan",
    "Verification",
    "convert",
    "cross_validate",
    "download",
    "evaluate",
    "export",
    "plan",
    "predict",
    "restore_classifier",
    "sweep",
    "train",
    "verify",
]
