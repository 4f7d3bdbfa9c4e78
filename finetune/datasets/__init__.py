"""Records: folders and tables of images become shards, shards become batches; classes matched by name.

The names below are loaded when they are first used, for batches need TensorFlow and finding images doesn't.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "bad_records": ["reading"],
        "dataset": ["Dataset"],
        "dataset_search": ["find_dataset", "find_splits"],
        "decoding": ["ReadOptions"],
        "pipeline": ["evaluation_batches", "training_batches"],
        "shards": ["write_shards"],
    },
)
