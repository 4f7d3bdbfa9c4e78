"""Channels that are dead in a checkpoint, found where their statistics stay while their weights are trained.

The channels of ImageNet's networks that training has let die have a moving variance near 0. Where it stays, whatever
their weights become is multiplied by up to 1/√ε, 32 for an ε of 0.001, and an optimizer such as Adam moves weights of
tiny gradients as far as others.

They are said, and trained like all others: kept still, with gradients masked in kernel, gamma and beta, they change
nothing beyond chance. MobileNet V1 (42 of 10,944 below 1e-6) on the quick start's cells at 128 pixels, all variables by
Adam at 1e-4 for 150 steps, frozen statistics: accuracy 0.834, 0.843, 0.837 with seeds 0 to 2, kept still 0.837, 0.843,
0.837. The dip in the first 50 steps comes either way: it is the rate's.
"""

import logging

from finetune.model.model import Model
from finetune.model.scopes import VariablePlan

log = logging.getLogger("finetune")


def count_dead_channels(model: Model, plan: VariablePlan) -> dict[str, tuple[int, int]]:
    """Of each trained layer whose statistics stay the number of dead channels and of all, by its full scope name.

    A channel is dead where its variance is below the ε that is added to it.

    Args:
        model: Restored, and frozen as the settings say.
        plan: Which of its variables are trained.
    """
    counts = {}
    for layer in model.batch_norm_decays:
        if model.is_frozen(layer) and not plan.is_frozen(layer):
            variance = model.model_variables[f"{layer}/moving_variance"].numpy()
            counts[layer] = int((variance < model.spec.batch_norm_epsilon).sum()), len(variance)
    return counts


def tell_dead_channels(model: Model, plan: VariablePlan) -> None:
    """Says how many there are, if any."""
    counts = count_dead_channels(model, plan)
    num_dead = sum(dead for dead, _ in counts.values())
    if not num_dead:
        return
    epsilon = model.spec.batch_norm_epsilon
    log.info(
        "Batch norm: %d of %s channels, in %d of %d layers, are dead in the checkpoint (variance below %g). Their "
        "statistics stay, so that what becomes of their weights is multiplied by up to %.0f.",
        num_dead,
        f"{sum(channels for _, channels in counts.values()):,}",
        sum(dead > 0 for dead, _ in counts.values()),
        len(counts),
        epsilon,
        epsilon**-0.5,
    )
