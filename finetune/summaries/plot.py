"""A drawing of a network, drawn with matplotlib."""

from typing import TYPE_CHECKING, Any

from finetune.evaluation.plots import GLYPH_WIDTH, LIGHT, in_style, render
from finetune.summaries.drawing import FAINT, INK, PAPER, Drawing, Look, Node
from finetune.summaries.layout import BOX_WIDTH, MARGIN, Box, Layout, Point, lay_out

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE_SIZE, NAME_SIZE, TEXT_SIZE, SMALLEST = 8.5, 8.5, 7.5, 5.0
# In inches: a line of text; what a box has around its lines; a strip with what is kept, a box of the legend.
LINE, AROUND, STRIP, SAMPLE = 0.165, 0.12, 0.2, 0.3
BOLDER = 1.16  # Of bold letters beside others.


def plot(drawing: Drawing, file_format: str) -> bytes:
    """The bytes of a "png" or "svg" file; an SVG holds its text as text."""
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "hatch.linewidth": 0.6}):
        return render(network_figure(drawing), file_format)


def network_figure(drawing: Drawing) -> "Figure":
    """The figure; one unit of its axes is an inch."""
    from matplotlib.figure import Figure

    heights = [_height_of_text(node) + STRIP * len(node.kept) for node in drawing.nodes]
    layout = lay_out(heights, drawing.arrows, top=MARGIN + LINE * (len(drawing.title) + 2) + MARGIN)
    longest = max(len(line) for line in drawing.title) * TITLE_SIZE * GLYPH_WIDTH / 72
    width = max(layout.width, longest + 2 * MARGIN)
    with in_style(LIGHT):
        figure = Figure(figsize=(width, layout.height))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, width), ylim=(layout.height, 0))
        axes.axis("off")
        _write_title(axes, drawing)
        _draw_arrows(axes, drawing, layout)
        for node, box in zip(drawing.nodes, layout.boxes, strict=True):
            _draw_node(axes, node, box)
    return figure


def _write_title(axes: "Axes", drawing: Drawing) -> None:
    for number, line in enumerate(drawing.title):
        weight = "bold" if number == 0 else "normal"
        _write(axes, (MARGIN, MARGIN + number * LINE), line, TITLE_SIZE, weight=weight)
    left, top = MARGIN, MARGIN + LINE * (len(drawing.title) + 0.6)
    for words, look in drawing.legend:
        _draw_box(axes, look, (left, top - 0.07), SAMPLE, 0.14)
        _write(axes, (left + SAMPLE + 0.08, top), words, TEXT_SIZE)
        left += SAMPLE + 0.3 + len(words) * TEXT_SIZE * GLYPH_WIDTH / 72
    if any(drawing.is_cut):
        axes.plot([left, left + SAMPLE], [top, top], color=INK, linewidth=2.2, linestyle=(0, (2, 1)))
        _write(axes, (left + SAMPLE + 0.08, top), "crosses the frontier", TEXT_SIZE)


def _draw_arrows(axes: "Axes", drawing: Drawing, layout: Layout) -> None:
    for route, is_cut in zip(layout.routes, drawing.is_cut, strict=True):
        colour, width = (INK, 2.2) if is_cut else (FAINT, 1.0)
        style = (0, (2, 1)) if is_cut else "solid"
        axes.plot(*zip(*route, strict=True), color=colour, linewidth=width, linestyle=style, zorder=2 if is_cut else 1)
        _draw_head(axes, route[-2], route[-1], colour)


def _draw_head(axes: "Axes", before: Point, end: Point, colour: str) -> None:
    """A triangle of its own: matplotlib's arrows change their size with the line's width."""
    length, half = 0.09, 0.05
    towards = tuple((b > a) - (b < a) for a, b in zip(before, end, strict=True))
    back = end[0] - length * towards[0], end[1] - length * towards[1]
    across = half * towards[1], half * towards[0]
    corners = [end, (back[0] + across[0], back[1] + across[1]), (back[0] - across[0], back[1] - across[1])]
    axes.fill(*zip(*corners, strict=True), color=colour, linewidth=0, zorder=3)


def _draw_node(axes: "Axes", node: Node, box: Box) -> None:
    _draw_box(axes, node.look, (box.left, box.top), BOX_WIDTH, box.height)
    left, line = box.left + 0.09, box.top + (LINE + AROUND) / 2
    _write_within(axes, (left, line), node.name, NAME_SIZE, weight="bold")
    for number, text in enumerate(node.lines, start=1):
        _write_within(axes, (left, line + LINE * number), text, TEXT_SIZE)
    for number, text in enumerate(node.kept):
        top = box.top + _height_of_text(node) + STRIP * number
        _draw_box(axes, Look(INK, INK, 0.8), (box.left, top), BOX_WIDTH, STRIP)
        _write_within(axes, (left, top + STRIP / 2), text, TEXT_SIZE, color=PAPER)


def _height_of_text(node: Node) -> float:
    return LINE * (1 + len(node.lines)) + AROUND


def _draw_box(axes: "Axes", look: Look, corner: Point, width: float, height: float) -> None:
    from matplotlib.patches import Rectangle

    if look.hatch:  # In a colour that letters stand out from, which to matplotlib is that of a frame.
        hatched = Rectangle(corner, width, height, facecolor=look.fill, edgecolor=look.hatch, linewidth=0, zorder=4)
        hatched.set_hatch("////")
        axes.add_patch(hatched)
    fill = "none" if look.hatch else look.fill
    axes.add_patch(
        Rectangle(corner, width, height, facecolor=fill, edgecolor=look.frame, linewidth=look.width, zorder=4)
    )


def _write_within(axes: "Axes", place: Point, text: str, size: float, **style: Any) -> None:
    """As large as the box lets it."""
    glyph = GLYPH_WIDTH * (BOLDER if style.get("weight") == "bold" else 1) / 72
    room = (BOX_WIDTH - 0.18) / (max(len(text), 1) * glyph)
    size = min(size, max(room, SMALLEST))
    most = int((BOX_WIDTH - 0.18) / (size * glyph))
    _write(axes, place, text if len(text) <= most else f"{text[: most - 1]}…", size, **style)


def _write(axes: "Axes", place: Point, text: str, size: float, **style: Any) -> None:
    axes.text(*place, text, fontsize=size, va="center", zorder=5, parse_math=False, **style)
