"""The evaluation at the end of a training, by the settings of its run: what finetune-eval does, its report included."""

import logging
import shlex
from pathlib import Path

from finetune.commands.evaluate import AnyResult, evaluate
from finetune.datasets.description import LABELS_FILE
from finetune.errors import UserError
from finetune.model.checkpoint_names import BEST_FILE
from finetune.runs.provenance import PROVENANCE_FILE
from finetune.settings.evaluate import EvalSettings
from finetune.settings.flags import flat_values
from finetune.settings.settings_file import CONFIG_FILE
from finetune.settings.train import TrainSettings
from finetune.trackers.tracked_run import TrackedRun

# That a tracker keeps: what the run was made by, and what it came to.
FILES_OF_RUN = (CONFIG_FILE, LABELS_FILE, PROVENANCE_FILE, BEST_FILE)

log = logging.getLogger("finetune")


def evaluate_at_end(settings: TrainSettings, split: str) -> AnyResult | None:
    """Evaluates the best checkpoint of a run, else its newest, where a report is wanted.

    Args:
        settings: Of the run, which has come to its end.
        split: That it validated on; empty: there is none, which is said.

    Raises:
        UserError: As `evaluate`; the run itself is whole, and the command is told that makes the report alone.
    """
    if not settings.run.report:
        return None
    if not split:
        log.warning("There is no validation split to evaluate on: the run gets no report.")
        return None
    data, network, run = settings.data, settings.network, settings.run.folder
    try:
        return evaluate(
            EvalSettings(
                checkpoint=(run,),
                dataset_dir=data.records,
                dataset_name=data.dataset_name,
                split=split,
                match_labels=data.match_labels,
                on_corrupt=data.on_corrupt,
                num_preprocessing_threads=data.num_preprocessing_threads,
                model=network.model,
                trust_code=network.trust_code,
                **flat_values(settings.gpus),
            )
        )
    except UserError as error:
        words = ["finetune-eval", "--checkpoint", str(run), "--dataset-dir", str(data.records), "--split", split]
        raise UserError(
            f"The training is done and kept in {run}, but its evaluation failed: {error}",
            f"Then evaluate it by {shlex.join(words)}",
        ) from error


def tell_results(tracked: TrackedRun, run: Path, evaluation: AnyResult | None) -> None:
    """Gives a tracker what a run came to: its files, and those of its evaluation, with the figures of these.

    Args:
        tracked: Where it is kept.
        run: The run's folder.
        evaluation: Of its end; None: there was none.
    """
    tracked.files(run, FILES_OF_RUN)
    if evaluation is None:
        return
    scores, folder = evaluation.scores, evaluation.output_dir
    known = {f"evaluation/{name}": value for name, value in scores.summary().items() if value is not None}
    tracked.metrics(evaluation.step or 0, known)
    tracked.files(folder, sorted(path.name for path in folder.iterdir()))
