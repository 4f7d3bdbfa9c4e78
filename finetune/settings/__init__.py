"""Settings of the commands: groups of frozen fields, each field a flag with its rules; command lines and TOML.

What every other package may know; TensorFlow is not loaded. A module for each command's settings.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "command_line": ["parse_flags"],
        "completion": ["CompletionSettings"],
        "convert": ["ConvertSettings"],
        "data_service": ["DataServiceSettings"],
        "download": ["DownloadSettings"],
        "evaluate": ["EvalSettings"],
        "export": ["ExportSettings"],
        "flags": ["CommandSettings", "flag", "flags_of", "group"],
        "import_weights": ["ImportSettings"],
        "inspect": ["InspectSettings"],
        "predict": ["PredictSettings"],
        "settings_file": ["read_toml", "to_toml_table"],
        "train": ["TrainSettings"],
    },
)
