"""A run on disk: its folder, what its results rest on, and the network that was trained in it.

The names below are loaded when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "run_folder": ["RunFolder", "settings_of_run"],
        "trained_network": ["TrainedNetwork", "restore_network"],
    },
)
