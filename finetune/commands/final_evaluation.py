"""The evaluation at the end of a training, by the settings of its run: what finetune-eval does, its report included."""

import logging
import shlex

from finetune.commands.evaluate import AnyResult, evaluate
from finetune.errors import UserError
from finetune.settings.evaluate import EvalSettings
from finetune.settings.flags import flat_values
from finetune.settings.train import TrainSettings

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
