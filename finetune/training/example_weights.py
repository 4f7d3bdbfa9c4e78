"""How much images count in training: by their classes' weights, and by their own; and whether all classes alike."""

import logging
from collections.abc import Sequence

import numpy as np

from finetune.datasets.record_index import RecordIndex
from finetune.errors import UserError, did_you_mean
from finetune.notices import few
from finetune.settings.objective import AUTO, BALANCED, ObjectiveSettings, parse_class_weights
from finetune.types import Array

log = logging.getLogger("finetune")

# Of more classes only the heaviest and the lightest are named.
MOST_CLASSES_LISTED = 6
MOST_OF_EITHER_END = 3
# Of a class with a few images, each of which would else move the weights of the network more than all others together.
MOST_POSITIVE_WEIGHT = 20.0


def needs_index(objective: ObjectiveSettings, *, has_weights: bool) -> bool:
    """Whether something has to be known of all records before the first step."""
    counts = objective.class_weights == (BALANCED,) or objective.positive_weights == (AUTO,)
    return objective.balanced_sampling or counts or has_weights


def check_class_names(objective: ObjectiveSettings, names: Sequence[str] | None) -> None:
    """Makes sure that classes that are weighted by name are classes of the data.

    Raises:
        UserError: One isn't; no names are known; no class of the data would count.
    """
    weights = parse_class_weights(objective.class_weights)
    of_positives = parse_class_weights(objective.own_positive_weights, "--positive-weights")
    for option, given, instead in (
        ("--class-weights", weights, BALANCED),
        ("--positive-weights", of_positives, AUTO),
    ):
        if given and names is None:
            raise UserError(
                f"{option} names classes, but the data has no names of classes.",
                f"Put a labels.txt beside the shards, a line id:name for each class; or give {option} {instead}.",
            )
        for name in given:
            if name not in (names or ()):
                raise UserError(
                    f"{option}: there is no class {name!r} in the data.", did_you_mean(name, list(names or ()))
                )
            if list(names or ()).count(name) > 1:
                raise UserError(f"{option}: the data has more than one class {name!r}.", "Correct labels.txt.")
    if names and weights.keys() >= set(names) and not any(weights.values()):
        raise UserError("--class-weights gives all classes the weight 0.", "Give some of them a weight above 0.")


def class_weights(
    objective: ObjectiveSettings, names: Sequence[str], num_classes: int, index: RecordIndex | None
) -> tuple[float, ...]:
    """The weight of each class, by the network's output; empty where all count alike. Says what they are.

    Args:
        objective: Which are asked for; checked by `check_class_names`.
        names: Of the classes, by output; empty: they aren't known.
        num_classes: How many outputs there are.
        index: Of the training split, where weights are balanced.
    """
    if objective.class_weights == (BALANCED,):
        assert index is not None
        counts = np.bincount(index.outputs, minlength=num_classes)
        weights = balanced_weights(counts)
        _tell(weights, names, counts)
        return weights
    by_name = parse_class_weights(objective.class_weights)
    if not by_name:
        return ()
    weights = tuple(by_name.get(name, 1.0) for name in names)
    _tell(weights, names, None)
    return weights


def positive_weights(
    objective: ObjectiveSettings, names: Sequence[str], num_classes: int, index: RecordIndex | None
) -> tuple[float, ...]:
    """How much images that have a class count for it, by output; empty where as much as others. Says what they are.

    Args:
        objective: Which are asked for; checked by `check_class_names`.
        names: Of the classes, by output; empty: they aren't known.
        num_classes: How many outputs there are.
        index: Of the training split, where weights are found in it.
    """
    counts: Array | None = None
    weights: tuple[float, ...] = ()
    if objective.positive_weights == (AUTO,):
        assert index is not None
        counts = index.outputs.sum(axis=0, dtype=np.int64)
        weights = found_positive_weights(counts, len(index.outputs))
    elif by_name := parse_class_weights(objective.own_positive_weights, "--positive-weights"):
        weights = tuple(by_name.get(name, 1.0) for name in names)
    if weights:
        _tell(weights, names or list(map(str, range(num_classes))), counts, what="Positive weights")
    return weights


def found_positive_weights(counts: Array, num_images: int) -> tuple[float, ...]:
    """Images without a class for each that has it, at most `MOST_POSITIVE_WEIGHT`; 1 for a class that none has.

    Args:
        counts: Number of images of each class.
        num_images: Of all.
    """
    return tuple(min((num_images - count) / count, MOST_POSITIVE_WEIGHT) if count else 1.0 for count in counts.tolist())


def balanced_weights(counts: Array) -> tuple[float, ...]:
    """As scikit-learn has them: n / (classes * count of the class), where classes without images aren't counted.

    Their mean over all images is 1. A class without images has the weight 1, which nothing is multiplied by.

    Args:
        counts: Number of images of each class.
    """
    num_present = np.count_nonzero(counts)
    return tuple(float(counts.sum() / (num_present * count)) if count else 1.0 for count in counts)


def weights_of_probe(
    objective: ObjectiveSettings, of_classes: Sequence[float], index: RecordIndex | None, num_classes: int
) -> tuple[float, ...]:
    """The classes' weights for an optimum over all images at once: with those that balanced sampling comes to."""
    if not objective.balanced_sampling:
        return tuple(of_classes)
    assert index is not None
    balanced = balanced_weights(np.bincount(index.outputs, minlength=num_classes))
    return tuple((np.array(balanced) * np.array(of_classes or 1.0)).tolist())


def tell_weights_of_images(index: RecordIndex | None) -> None:
    """Says that images have weights, and of what kind; and that these count in training alone."""
    if index is None or index.weights is None:
        return
    weights = index.weights
    log.info(
        "Weights of images: from %g to %g, %.3g in the mean, %d of %d are 0. In validation all count alike.",
        *(weights.min(), weights.max(), weights.mean(), np.count_nonzero(weights == 0), len(weights)),
    )


def tell_balanced_sampling(index: RecordIndex, num_classes: int) -> None:
    """Says what an epoch is."""
    counts = np.bincount(index.outputs, minlength=num_classes)
    counts = counts[counts > 0]
    per_class = len(index.outputs) / len(counts)
    log.info(
        "Balanced sampling: an epoch of %d draws has each of %d classes %.5g times: an image of the largest, of %d, "
        "%.2g times, one of the smallest, of %d, %.2g times.",
        *(len(index.outputs), len(counts), per_class, counts.max(), per_class / counts.max()),
        *(counts.min(), per_class / counts.min()),
    )


def _tell(weights: Sequence[float], names: Sequence[str], counts: Array | None, what: str = "Class weights") -> None:
    def described(place: int) -> str:
        name = names[place] if place < len(names) else str(place)
        images = "" if counts is None else f" ({counts[place]} image{'' if counts[place] == 1 else 's'})"
        return f"{name} {weights[place]:.4g}{images}"

    order = sorted(range(len(weights)), key=lambda place: -weights[place])
    if counts is not None:
        order = [place for place in order if counts[place]]
    if len(order) <= MOST_CLASSES_LISTED:
        log.info("%s: %s.", what, few([described(place) for place in order], MOST_CLASSES_LISTED))
        return
    heaviest, lightest = order[:MOST_OF_EITHER_END], order[-MOST_OF_EITHER_END:]
    log.info(
        "%s: of %d classes the heaviest are %s, the lightest %s.",
        what,
        len(order),
        ", ".join(map(described, heaviest)),
        ", ".join(map(described, lightest)),
    )
