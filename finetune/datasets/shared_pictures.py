"""One picture in several class folders: of images with several labels it has all of theirs."""

from collections import defaultdict

from finetune.datasets.folders import ImageFolder, readable_name
from finetune.datasets.image_walk import Reason
from finetune.datasets.multilabel_splits import by_class
from finetune.files.whole_files import sha256


def with_labels_of_copies(found: ImageFolder) -> None:
    """Gives each picture the labels of all class folders of its split that hold a file of the same bytes.

    The first of the files by name is kept, and the others are left out. Names of files don't count: img_001.jpg of one
    class and of another are two pictures.
    """
    labels: dict[str, set[str]] = defaultdict(set)
    for split, classes in found.splits.items():
        kept: dict[str, str] = {}
        for file, name in sorted((file, name) for name, files in classes.items() for file in files):
            first = kept.setdefault(sha256(found.root / file), file)
            labels[first].add(name)
            if first != file:
                found.left_out.setdefault(Reason.SAME_PICTURE, []).append(readable_name(file))
        found.files[split] = list(kept.values())
    found.labels = {file: tuple(sorted(names)) for file, names in labels.items()}
    for split, files in found.files.items():
        found.splits[split] = by_class(files, found.labels, sorted(found.splits[split]))
