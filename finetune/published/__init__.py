"""Weights and data sets that others published: their addresses, how they are fetched, checked, kept and unpacked.

The names below are loaded when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "catalogue": ["Published", "get_published"],
        "obtain": ["default_folder", "find_checkpoint"],
    },
)
