"""`--features` and `--nearest`: a command's network as one that gives features, and what is done with these."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.embeddings.feature_files import WEIGHTS, FeatureRow, feature_file
from finetune.evaluation.metrics import Scores
from finetune.evaluation.similar_images import SimilarImages
from finetune.files.folder_lock import sole_writer
from finetune.files.write_errors import write_errors_told
from finetune.prediction.classifier import Classifier
from finetune.prediction.writers import Prediction
from finetune.remote.urls import named
from finetune.runs.trained_network import weights_sha256
from finetune.settings.predict import PredictSettings

if TYPE_CHECKING:
    from finetune.commands.evaluator import Evaluator
    from finetune.embeddings.neighbours import NearestImages
    from finetune.embeddings.training_images import FeatureNetwork


def feature_network_of(classifier: Classifier, argument: str) -> "FeatureNetwork":
    """The classifier's network.

    Raises:
        UserError: As `PooledFeatures`.
    """
    from finetune.embeddings.pooled_features import PooledFeatures
    from finetune.embeddings.training_images import FeatureNetwork

    return FeatureNetwork(
        pooled=PooledFeatures(classifier.model, argument),
        network=classifier.network,
        options=classifier.read_options,
        checkpoint=classifier.checkpoint.prefix,
        class_names=classifier.class_names,
        has_class_names=classifier.has_class_names,
        weights_sha256=weights_sha256(classifier.model),
    )


def nearest_images(network: "FeatureNetwork", settings: PredictSettings) -> "NearestImages | None":
    """What similar images are looked for in; None: they aren't asked for.

    Raises:
        UserError: As `find_trained_on` and `features_elsewhere`.
    """
    from finetune.embeddings.neighbours import NearestImages
    from finetune.embeddings.training_images import features_elsewhere, find_trained_on

    if settings.nearest is None:
        return None
    if settings.nearest_to is not None:
        return NearestImages(features_elsewhere(settings.nearest_to, network, "--nearest-to"), settings.nearest)
    return NearestImages(find_trained_on(network, "--nearest").features, settings.nearest)


def similar_to_mistakes(evaluator: "Evaluator", scores: Scores, num_nearest: int) -> SimilarImages | None:
    """The training images that are the most similar to the mistakes of a report; None: it has no mistakes.

    Args:
        evaluator: That scored the split, by the weights of a run.
        scores: Of the split.
        num_nearest: Images for each mistake.

    Raises:
        UserError: As `find_trained_on`.
    """
    import tensorflow as tf

    from finetune.datasets.decoding import decode_image
    from finetune.embeddings.neighbours import NearestImages
    from finetune.embeddings.pooled_features import PooledFeatures
    from finetune.embeddings.training_images import FeatureNetwork, find_trained_on
    from finetune.evaluation.report import worst_mistakes
    from finetune.evaluation.thumbnails import read_encoded

    mistakes = worst_mistakes(scores)
    if not mistakes:
        return None
    options = evaluator.read_options()
    network = FeatureNetwork(
        pooled=PooledFeatures(evaluator.model, "--nearest"),
        network=evaluator.network,
        options=options,
        checkpoint=evaluator.checkpoint.prefix,
        class_names=evaluator.class_names,
        has_class_names=evaluator.has_class_names,
        weights_sha256=evaluator.weights_sha256,
    )
    trained_on = find_trained_on(network, "--nearest")
    positions, images = [], []
    for position, encoded in read_encoded(evaluator.dataset, mistakes):
        image = decode_image(tf.constant(encoded), options.channels)
        positions.append(position)
        images.append(options.preprocessing.evaluate(image, options.image_size, options.image_size))
    _, features = network.pooled(tf.stack(images))
    nearest = NearestImages(trained_on.features, num_nearest)
    return SimilarImages(trained_on.dataset, dict(zip(positions, nearest.of(features), strict=True)))


def keep_features(predictions: Iterable[Prediction], path: Path, network: "FeatureNetwork") -> Iterator[Prediction]:
    """Writes the features of predictions as these pass; the file is whole when the last one has passed.

    Raises:
        UserError: It can't be written.
    """
    with (
        sole_writer(path, flag="--features", program="finetune-predict"),
        write_errors_told(),
        feature_file(path, network.pooled.num_features, {WEIGHTS: network.weights_sha256}) as file,
    ):
        for prediction in predictions:
            if prediction.features is not None:
                guess = prediction.guesses[0]
                row = (named(prediction.filename), guess.class_id, guess.name, guess.probability, prediction.features)
                file.add(FeatureRow(*row))
            yield prediction
