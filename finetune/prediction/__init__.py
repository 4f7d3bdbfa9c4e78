"""Files of images in, classes out.

The names below are loaded when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "classifier": ["Classifier", "restore_classifier"],
        "stream": ["classify"],
        "writers": ["Guess", "Prediction"],
    },
)
