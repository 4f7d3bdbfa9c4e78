"""One run: what a step is and what it is given, when to log, validate and save, on which devices in which type.

The names below are loaded when they are first used, for most of them need TensorFlow.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "best": ["find_best", "read_validations"],
        "devices": ["choose_strategy"],
        "image_inputs": ["TrainingData", "TrainingImages", "TrainingInputs"],
        "inputs": ["make_inputs"],
        "loop": ["Occasions", "TrainingLoop"],
        "losses": ["TrainingLoss"],
        "moving_averages": ["MovingAverages"],
        "optimizers": ["Optimizer"],
        "run_log": ["RunLog"],
        "schedules": ["Schedule", "make_schedule"],
        "state": ["TrainingState"],
        "step": ["TrainingStep"],
    },
)
