"""A drawing of a network as a file: by Graphviz where it is there, otherwise by matplotlib."""

import logging

from finetune.summaries.drawing import Drawing
from finetune.summaries.graphviz import GraphvizError, find_dot, run_dot
from finetune.summaries.plot import plot

log = logging.getLogger("finetune")


def render_drawing(drawing: Drawing, file_format: str) -> tuple[bytes, str]:
    """The bytes of a "png" or "svg" file, and in words what drew it."""
    dot = find_dot()
    if dot is not None:
        try:
            return run_dot(dot, drawing, file_format), "by Graphviz"
        except GraphvizError as error:
            log.warning("Graphviz can't draw the network, it is drawn without it: %s", error)
    return plot(drawing, file_format), "without Graphviz"
