"""A network's variables, the plan for them, and the checkpoints that hold their values.

Scopes and plans need no TensorFlow, so the names below are loaded when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "checkpoint": ["Checkpoint", "open_checkpoint", "write_checkpoint"],
        "model": ["Model"],
        "scopes": ["VariablePlan", "plan_variables"],
    },
)
