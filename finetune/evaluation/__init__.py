"""One exact pass over a split, and what it says: scores, calibration, comparison, files and the report.

The names below are loaded when they are first used, for passes need TensorFlow and plots need Matplotlib.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "comparison": ["Comparison"],
        "metrics": ["Scores"],
        "report": ["write_report"],
        "result_files": ["EvalResult"],
        "scoring": ["inference_function", "score"],
    },
)
