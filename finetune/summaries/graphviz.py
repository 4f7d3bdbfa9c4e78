"""A drawing of a network, drawn by Graphviz's `dot`, which takes its words from standard input."""

import html
import itertools
import shutil
import subprocess
from collections.abc import Mapping

from finetune.errors import first_line
from finetune.evaluation.plots import DOTS_PER_INCH, FONT
from finetune.summaries.drawing import FAINT, INK, PAPER, Drawing, Look, Node
from finetune.summaries.layout import columns

# In points: of all text, and the least width of a box.
TEXT_SIZE, NODE_WIDTH = 10, 175
# Seconds; a drawing takes one or two.
MOST_SECONDS = 60


class GraphvizError(Exception):
    """Graphviz is there, and gave no drawing."""


def find_dot() -> str | None:
    """The path of `dot`; None: there is none."""
    return shutil.which("dot")


def run_dot(dot: str, drawing: Drawing, file_format: str) -> bytes:
    """The bytes of a "png" or "svg" file.

    Raises:
        GraphvizError: It fails, gives nothing, or takes too long.
    """
    try:
        done = subprocess.run(
            [dot, f"-T{file_format}"],
            input=dot_source(drawing).encode(),
            capture_output=True,
            timeout=MOST_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GraphvizError(first_line(error)) from error
    if done.returncode or not done.stdout:
        told = done.stderr.decode(errors="replace").strip().splitlines()
        raise GraphvizError(told[0] if told else f"it ended with status {done.returncode}")
    return done.stdout


def dot_source(drawing: Drawing) -> str:
    """The drawing in Graphviz's language; its columns stand beside each other, and arrows between them leave it so."""
    parts = columns(len(drawing.nodes))
    column_of = {node: number for number, part in enumerate(parts) for node in part}
    lines = [
        "digraph network {",
        f'graph [dpi={DOTS_PER_INCH}, fontname="{FONT}", labelloc=t, nodesep=0.5, ranksep=0.25, splines=true,',
        f"  label=<{_title(drawing)}>]",
        f'node [shape=plain, fontname="{FONT}", fontcolor="{INK}"]',
        "edge [arrowsize=0.7]",
    ]
    lines += [f"{number} [label=<{_label(node)}>]" for number, node in enumerate(drawing.nodes)]
    for part in parts:  # One below the other, where nothing flows between them, too.
        missing = [pair for pair in itertools.pairwise(part) if pair not in drawing.arrows]
        lines += [f"{above} -> {below} [style=invis]" for above, below in missing]
    heads = " -> ".join(str(part[0]) for part in parts)
    lines.append(f"{{rank=same; {heads} [style=invis]}}")
    for (source, target), is_cut in zip(drawing.arrows, drawing.is_cut, strict=True):
        look = f'color="{INK}", style=dashed, penwidth=2.2' if is_cut else f'color="{FAINT}"'
        lines.append(f"{source} -> {target} [{look}, {_order(source, target, column_of)}]")
    return "\n".join([*lines, "}\n"])


def _order(source: int, target: int, column_of: Mapping[int, int]) -> str:
    """Columns are straight, and stay as they are whatever flows between them."""
    if column_of[source] != column_of[target]:
        return "constraint=false"
    return "weight=100" if target == source + 1 else "weight=1"


def _title(drawing: Drawing) -> str:
    first, *others = map(html.escape, drawing.title)
    rows = "".join(f'<TR><TD ALIGN="LEFT">{_text(line)}</TD></TR>' for line in (f"<B>{first}</B>", *others))
    samples = "".join(f"<TD {_frame(look)}>{_text(html.escape(words))}</TD>" for words, look in drawing.legend)
    cut = f"<TD>{_text('dashed: crosses the frontier')}</TD>" if any(drawing.is_cut) else ""
    legend = f'<TABLE BORDER="0" CELLPADDING="4" CELLSPACING="6"><TR>{samples}{cut}</TR></TABLE>'
    return f'<TABLE BORDER="0" CELLSPACING="0">{rows}<TR><TD ALIGN="LEFT">{legend}</TD></TR></TABLE>'


def _label(node: Node) -> str:
    rows = [f"<B>{html.escape(node.name)}</B>", *map(html.escape, node.lines)]
    told = "".join(f'<TR><TD BORDER="0" ALIGN="LEFT" WIDTH="{NODE_WIDTH}">{_text(row)}</TD></TR>' for row in rows)
    kept = "".join(
        f'<TR><TD BORDER="0" ALIGN="LEFT" BGCOLOR="{INK}">{_text(html.escape(text), PAPER)}</TD></TR>'
        for text in node.kept
    )
    return f'<TABLE CELLBORDER="0" CELLSPACING="0" CELLPADDING="3" {_frame(node.look)}>{told}{kept}</TABLE>'


def _text(words: str, colour: str = INK) -> str:
    return f'<FONT COLOR="{colour}" POINT-SIZE="{TEXT_SIZE}">{words}</FONT>'


def _frame(look: Look) -> str:
    """Graphviz's frames are whole points wide, and have no hatches: what is partly so has a dashed frame."""
    style = ' STYLE="dashed"' if look.hatch else ""
    return f'BORDER="{max(1, round(look.width))}" COLOR="{look.frame}" BGCOLOR="{look.fill}"{style}'
