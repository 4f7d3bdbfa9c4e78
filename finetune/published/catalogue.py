"""What can be downloaded by name: the archives of published checkpoints, and data sets. TensorFlow is not needed."""

import dataclasses

from finetune.errors import UserError, did_you_mean
from finetune.nets import MODELS
from finetune.published.known_datasets import KNOWN_DATASETS
from finetune.settings.choices import PUBLISHED_DATASETS

_MOBILENET_V1 = "https://download.tensorflow.org/models/mobilenet_v1_2018_02_22/"


@dataclasses.dataclass(frozen=True)
class Published:
    """A name and the files behind it.

    Attributes:
        name: As `finetune-download` takes it.
        urls: Addresses of its files.
        is_dataset: Whether they are a data set's images, not a network's checkpoint.
    """

    name: str
    urls: tuple[str, ...]
    is_dataset: bool = False


# MobileNet V1 was published for four widths, each trained at four image sizes (slim's nets/mobilenet_v1.md).
_MOBILENET_V1_SIZES = tuple(
    Published(f"mobilenet_v1_{width}_{size}", (f"{_MOBILENET_V1}mobilenet_v1_{width}_{size}.tgz",))
    for width in ("1.0", "0.75", "0.5", "0.25")
    for size in (224, 192, 160, 128)
)


def catalogue() -> dict[str, Published]:
    """Everything that can be downloaded, by name: networks of the table, other sizes of MobileNet V1, data sets."""
    networks = (Published(spec.name, (spec.published_file,)) for spec in MODELS.values() if spec.published_file)
    datasets = (Published(name, KNOWN_DATASETS[name].urls, is_dataset=True) for name in PUBLISHED_DATASETS)
    return {published.name: published for published in (*networks, *_MOBILENET_V1_SIZES, *datasets)}


def get_published(name: str) -> Published:
    """What is published under a name.

    Raises:
        UserError: Nothing is; the nearest names are given.
    """
    known = catalogue()
    if name in known:
        return known[name]
    if name in MODELS:
        raise UserError(f"No checkpoint of {name} was published.", "Train it from scratch: leave out --checkpoint.")
    dataset = KNOWN_DATASETS.get(name)
    if dataset is not None and dataset.how_to_get is not None:
        raise UserError(*dataset.how_to_get)
    raise UserError(f"There is nothing called {name!r} to download.", did_you_mean(name, known))
