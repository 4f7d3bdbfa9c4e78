"""Lays out the photographs of solar cells in the package elpv-dataset as class folders: functional, defective.

    python scripts/quickstart_data.py FOLDER

Deitsch et al., "Automatic classification of defective photovoltaic module cells in electroluminescence images", Solar
Energy 185, 2019. Two experts' judgements make the label, the probability that a cell is defective: 0, 1/3, 2/3 or 1.
"""

import importlib.util
import shutil
import sys
from pathlib import Path

DEFECTIVE_ABOVE = 0.5


def main() -> None:
    """Copies every photograph into the folder of its class; the outer folder appears when all are there."""
    folder = Path(sys.argv[1])
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for class_name in ("functional", "defective"):
        (partial / class_name).mkdir(parents=True)
    source = package_data()
    for line in (source / "labels.csv").read_text(encoding="utf-8").splitlines():
        image, probability, _ = line.split()
        class_name = "defective" if float(probability) > DEFECTIVE_ABOVE else "functional"
        shutil.copy(source / image, partial / class_name)
    partial.rename(folder)


def package_data() -> Path:
    """The folder of the installed package that holds `images` and `labels.csv`."""
    package = importlib.util.find_spec("elpv_dataset")
    if package is None or package.origin is None:
        sys.exit('The package elpv-dataset is missing: install the extra "demo".')
    return Path(package.origin).parent / "data"


if __name__ == "__main__":
    main()
