"""Results of evaluations and the record files they are of, made on the spot."""

import numpy as np
from image_files import encode, picture

from finetune.datasets.dataset import Dataset, Shard
from finetune.datasets.records import Record, encode_record
from finetune.datasets.tfrecord import RecordWriter
from finetune.evaluation.metrics import score_batch
from finetune.evaluation.result_files import EvalResult
from finetune.runs.trained_network import TrainedNetwork

NUM_SHARDS = 3


def random_scores(num_classes, num_examples, *, lead=3.0, seed=0, keep_logits=False):
    """Scores of a classifier that is right the more often the more the true logit leads."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, num_classes, num_examples)
    logits = random.normal(size=[num_examples, num_classes]).astype(np.float32)
    logits[np.arange(num_examples), labels] += lead
    names = [f"class_{label}/{index}.jpg" for index, label in enumerate(labels)]
    return score_batch(logits, labels, names, keep_logits=keep_logits)


def write_dataset(folder, scores, class_names, encoded=None):
    """Records of the images that were scored: a picture for each class, or those in `encoded`."""
    folder.mkdir()
    encoded = encoded or [encode(picture(label)) for label in range(min(scores.num_classes, 20))]
    shards = []
    for number, positions in enumerate(np.array_split(np.arange(scores.num_examples), NUM_SHARDS)):
        path = folder / f"made_validation_{number:05d}-of-{NUM_SHARDS:05d}.tfrecord"
        with RecordWriter(path) as writer:
            for position in positions:
                label = int(scores.labels[position])
                image = encoded[label % len(encoded)]
                writer.write(encode_record(Record(image, "jpg", label, 32, 40, scores.filenames[position])))
        shards.append(Shard(path, writer.num_records, writer.num_bytes, writer.sha256()))
    return Dataset("made", "validation", tuple(shards), scores.num_classes, tuple(class_names))


def make_result(folder, scores, *, class_names=None, run_dir=None, encoded=None):
    """The result of an evaluation, as if of a checkpoint in `run_dir`."""
    class_names = class_names or [f"class {label}" for label in range(scores.num_classes)]
    output_dir = folder / "eval"
    output_dir.mkdir()
    return EvalResult(
        checkpoint=str((run_dir or folder) / "model.ckpt-20"),
        checkpoint_name="model.ckpt-20",
        step=20,
        network=TrainedNetwork("cifarnet", "cifarnet", None, False, 0, False, "float32"),
        tta="none",
        dataset=write_dataset(folder / "records", scores, class_names, encoded),
        data_sha256="0" * 64,
        scores=scores,
        class_names=list(class_names),
        output_dir=output_dir,
    )
