"""Contact sheets of training images, drawn with matplotlib."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from finetune.evaluation.plots import Theme, drawable, in_style
from finetune.types import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# In inches: an image, a line of text beside them, and what the title needs.
CELL, MARGIN, LEAST_WIDTH = 1.5, 0.25, 4.5


def contact_sheet_figure(title: str, names: Sequence[str], rows: Sequence[Sequence[Array]], theme: Theme) -> "Figure":
    """Images, and what training makes of each: a row for each image, a column for each epoch.

    Args:
        title: Of the sheet.
        names: Of the rows.
        rows: In each the original and its outcomes, [H,W,C] of any size in [0, 255].
        theme: Colours.
    """
    from matplotlib.figure import Figure

    num_rows, num_columns = len(rows), len(rows[0])
    width = max(MARGIN + num_columns * CELL, LEAST_WIDTH)
    height = 2 * MARGIN + num_rows * CELL
    with in_style(theme):
        figure = Figure(figsize=(width, height))
        figure.suptitle(title, fontsize=9, y=1 - 0.3 * MARGIN / height, parse_math=False)
        all_axes = figure.subplots(num_rows, num_columns, squeeze=False)
        left, top = MARGIN / width, 1 - 2 * MARGIN / height
        figure.subplots_adjust(left, 0.005, 0.995, top, wspace=0.04, hspace=0.04)
        for axes, picture in zip(all_axes.flat, itertools.chain.from_iterable(rows), strict=True):
            axes.imshow(np.round(picture).astype(np.uint8), cmap="gray", vmin=0, vmax=255)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        for row, name in enumerate(names):
            all_axes[row][0].set_ylabel(drawable(name, row), fontsize=8, parse_math=False)
        for column in range(num_columns):
            all_axes[0][column].set_title(f"epoch {column}" if column else "original", fontsize=8)
    return figure
