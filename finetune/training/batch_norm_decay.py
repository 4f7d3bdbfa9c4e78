"""How far batch norm's moving statistics follow the weights within a run: their decay, and what it means in a line.

After n updates by a decay d the share d^n of a moving statistic is what it began with. Slim's decays are made for
millions of steps on ImageNet: of 0.9997 a run of 620 steps leaves 83 %, and so validates, and gives, a network whose
weights have moved on and whose statistics have not.
"""

import logging
import math
from collections.abc import Collection, Sequence

from finetune.model.model import Model
from finetune.settings.stage import StageSettings

log = logging.getLogger("finetune")

# A decay of 1 - 50/n leaves e^-5, less than a hundredth, of what statistics began with after a tenth of the n updates,
# when the first of ten validations is due, and then averages over the last fiftieth of the run, as far as noise allows:
# by 0.9 over some 20 batches. Longer averages would lag behind weights whose rate is high, shorter ones be noise; only
# where all of the run is too short for them, e^-5 is left at its end.
WINDOWS_IN_A_RUN = 50
LEAST_AUTO_DECAY = 0.9
E_FOLDINGS = 5
# What statistics may hold of their beginning at the end of a run.
LARGEST_SHARE = 0.1
# To get there, where it isn't known when the run ends.
MOST_STEPS = 1000

ADVISED_BATCHES = 20


def fitting_decay(own: float, num_updates: int) -> float:
    """What `--batch-norm-decay auto` comes to.

    Args:
        own: The network's decay, which is never exceeded.
        num_updates: Passes of the run, each of which moves the statistics.
    """
    decay = min(max(LEAST_AUTO_DECAY, 1 - WINDOWS_IN_A_RUN / num_updates), math.exp(-E_FOLDINGS / num_updates))
    return min(own, round(decay, 6))


def resolve_decay(stage: StageSettings, own: Collection[float], num_steps: int | None) -> float | None:
    """The decay of the layers that are updated, in a number; None: each layer's own. Says what "auto" came to.

    Args:
        stage: Of the run.
        own: The decays of the layers that are updated.
        num_steps: Of the stage; None: it has no end.
    """
    if stage.batch_norm_decay is not None and not own:
        log.info("--batch-norm-decay: no layer's moving statistics are updated, so that nothing decays.")
    if stage.batch_norm_decay != "auto":
        return stage.batch_norm_decay
    if not own:
        return None
    if num_steps is None:
        log.info("--batch-norm-decay auto: without --max-steps the network's own, %s.", _in_words(own))
        return None
    decay = fitting_decay(min(own), num_steps * stage.accumulate_steps)
    log.info("--batch-norm-decay auto: %g for %d steps; the network's own is %s.", decay, num_steps, _in_words(own))
    return decay


def share_left(decay: float, num_steps: int, stage: StageSettings) -> float:
    """What a statistic still holds of its beginning after so many steps, 0 to 1."""
    return float(decay ** (num_steps * stage.accumulate_steps))


def tell_statistics(model: Model, restored: Collection[str], stage: StageSettings, num_steps: int | None) -> None:
    """Says before the first step what becomes of the moving statistics in this run; a warning where they stay behind.

    Args:
        model: Frozen as the settings say, its decay resolved.
        restored: Full scope names of the layers that began with a checkpoint's statistics.
        stage: Of the run.
        num_steps: Of the stage; None: it has no end.
    """
    layers = model.updated_batch_norms()
    if not layers:
        if stage.recalibrate_batch_norm:
            log.info("--recalibrate-batch-norm: no layer's moving statistics are updated, so that none are taken anew.")
        return
    if stage.recalibrate_batch_norm:
        log.info(
            "Batch norm: the moving statistics of %s are taken anew over %d batches before each validation and at the "
            "end.",
            _layers(len(layers)),
            stage.recalibrate_batch_norm,
        )
        return
    for is_restored in (True, False):
        chosen = [layer for layer in layers if (layer in restored) == is_restored]
        if chosen:
            _tell(model, chosen, stage, num_steps, is_restored=is_restored)


def _tell(
    model: Model, layers: Sequence[str], stage: StageSettings, num_steps: int | None, *, is_restored: bool
) -> None:
    decays = model.decays_of(layers)
    slowest = max(decays)
    what = f"the moving statistics of {_layers(len(layers))}"
    begun_with = "the checkpoint's" if is_restored else "their initial mean 0 and variance 1"
    if num_steps is not None:
        share = share_left(slowest, num_steps, stage)
        is_behind = share > LARGEST_SHARE
        still = "still " if is_behind else ""
        said = f"after {num_steps} steps {what} {still}hold {_percent(share)} of {begun_with}"
    else:
        needed = math.ceil(math.log(LARGEST_SHARE) / math.log(slowest) / stage.accumulate_steps) if slowest else 1
        is_behind = needed > MOST_STEPS
        said = f"{what} hold {_percent(LARGEST_SHARE)} of {begun_with} after {needed:,} steps"
    said += f" (decay {_in_words(decays)})"
    if not is_behind:
        log.info("Batch norm: %s.", said)
        return
    until = "" if num_steps is not None else " until then"
    log.warning(
        "Batch norm: %s, while the weights move on and are trained with each batch's own: validation, and the network "
        "in use, will be wrong%s.\n  %s",
        said,
        until,
        mends(is_restored=is_restored, has_end=num_steps is not None),
    )


def mends(*, is_restored: bool, has_end: bool) -> str:
    """The flags that make statistics fit the weights, in a sentence.

    Args:
        is_restored: Whether the statistics are a checkpoint's, and so worth keeping.
        has_end: Whether it is known when the run ends.
    """
    ways = [
        "--batch-norm-decay auto" if has_end else "--batch-norm-decay 0.99",
        f"--recalibrate-batch-norm {ADVISED_BATCHES}",
        *(["--batch-norm frozen"] if is_restored else []),
    ]
    return f"{', '.join(ways[:-1])} or {ways[-1]} mends it."


def _in_words(decays: Collection[float]) -> str:
    lowest, highest = min(decays), max(decays)
    return f"{lowest:g}" if lowest == highest else f"{lowest:g} to {highest:g}"


def _layers(number: int) -> str:
    return f"{number} layer{'' if number == 1 else 's'}"


def _percent(share: float) -> str:
    if share < 0.0001:
        return "less than 0.01 %"
    return f"{100 * share:.0f} %" if share > LARGEST_SHARE else f"{100 * share:.2g} %"
