"""Runs and record files as small as can be, made on the spot: random weights, no training."""

import functools

import numpy as np
from image_files import encode, picture
from reference_networks import ReferenceModel

from finetune.datasets.description import write_labels
from finetune.datasets.records import Record, encode_record
from finetune.datasets.tfrecord import RecordWriter
from finetune.model.checkpoint import write_checkpoint
from finetune.nets import get_spec
from finetune.nets.heads import head_of, with_head
from finetune.settings.head import HEAD_FLAGS, HeadSettings

CLASSES = ("blue", "green", "red")


def write_run(folder, model="cifarnet", classes=CLASSES, **settings):
    """A run's folder with random weights, and settings of finetune-train in its config.toml."""
    channels = 1 if settings.get("use_grayscale") else None
    head = head_of(HeadSettings(**{name: settings[name] for name in HEAD_FLAGS if name in settings}))
    values = values_of_network(model, len(classes), settings.get("image_size"), channels, head)
    write_checkpoint(folder / "model.ckpt-7", {**values, "global_step": np.int64(7)})
    settings = {"model": model, "dataset_dir": "nowhere", **settings}
    lines = [
        f"{name} = {str(value).lower() if isinstance(value, bool) else repr(value)}" for name, value in settings.items()
    ]
    (folder / "config.toml").write_text("\n".join(lines).replace("'", '"'), encoding="utf-8")
    write_labels(folder / "labels.txt", tuple(classes))
    return folder


@functools.lru_cache(maxsize=3)  # Of the largest half a gigabyte each.
def values_of_network(model, num_classes, image_size, channels, head=None):
    """Random weights by name, drawn once for all runs of the same network."""
    spec = with_head(get_spec(model), head)
    network = ReferenceModel(spec, num_classes, image_size=image_size, channels=channels)
    return {name: variable.numpy() for name, variable in network.model_variables.items()}


def write_records(folder, *, classes=CLASSES, num_images=12, split="validation", names=None, weights=None):
    """Record files of pictures that JPEG files with the same names hold, in `folder`/images.

    The classes take turns; `names` are theirs in the order of the labels, where that is another one. `weights` take
    turns, too.
    """
    names = list(names or classes)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    with RecordWriter(folder / f"tiny_{split}_00000-of-00001.tfrecord") as writer:
        for index in range(num_images):
            name = f"{split}_{index:02d}.jpg"
            content = encode(picture(index, width=40 + index))
            (folder / "images" / name).write_bytes(content)
            label = names.index(classes[index % len(classes)])
            weight = weights[index % len(weights)] if weights else None
            writer.write(encode_record(Record(content, "jpg", label, 32, 40 + index, name, weight)))
    write_labels(folder / "labels.txt", tuple(names))
    return folder
