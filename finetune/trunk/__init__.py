"""What is frozen is computed once: where the trunk ends, the model in two parts, the features between them.

It knows models and plans, and nothing of training. The names below are loaded when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "features": ["Features", "compute_features", "feature_batches"],
        "linear_head": ["LinearHead", "find_linear_head"],
        "split_model": ["SplitModel"],
    },
)
