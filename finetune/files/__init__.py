"""Files of ours: written whole or not at all, read with a check of what they hold, one program at a time in a folder.

The names below are loaded when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "csv_cells": ["cells_of", "text_of"],
        "folder_lock": ["sole_use"],
        "json_files": ["MayLack", "Number", "read_json", "read_json_lines", "read_json_or_tell"],
        "whole_files": ["whole_file", "whole_folder", "whole_set", "write_json", "write_text"],
    },
)
