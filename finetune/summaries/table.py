"""The summary of a network as people read it."""

from collections.abc import Iterator

from rich import box
from rich.table import Table
from rich.text import Text

from finetune.model.scopes import all_scopes
from finetune.summaries.summary import NetworkSummary, Part, in_words

# On a terminal, beside the words.
_STYLES = {"trained": "bold", "partly": "bold", "frozen": "dim"}
_NO_FATE = {"none": ""}


def layers_table(summary: NetworkSummary) -> Table:
    """A row for each layer, by its whole scope, for files."""
    table = _table()
    for layer in summary.layers:
        table.add_row(*map(Text, _cells(layer, layer.name)))
    return table


def layers_tree(summary: NetworkSummary) -> Table:
    """The same for 80 columns: groups of layers with what is theirs below them, by the rest of its name."""
    table = _table()
    table.title = Text(f"Layers, all in the scope {summary.root_scope}" if summary.root_scope else "Layers")
    for part, name in _branches(summary):
        style = "bold" if part.kind == "group" else _STYLES.get(part.in_training, "")
        table.add_row(*(Text(cell, style=style) for cell in _cells(part, name)))
    return table


def totals_table(summary: NetworkSummary) -> Table:
    """How many values are trained, frozen, and moving statistics."""
    table = Table(title="Parameters", title_justify="left", show_header=False, show_footer=False)
    table.add_column("of what")
    table.add_column("parameters", justify="right")
    totals = summary.totals()
    moved = f", of which {summary.num_moved_statistics:,} move" if summary.num_moved_statistics else ""
    rows = {
        "trained": totals["trained"],
        "frozen": totals["frozen"],
        f"moving statistics{moved}": totals["statistics"],
        "all": totals["parameters"],
    }
    for name, count in rows.items():
        table.add_row(name, f"{count:,}")
    return table


def _table() -> Table:
    """Without a space to spare: names of slim's layers take what 80 columns have."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, title_justify="left")
    table.add_column("#", justify="right")
    table.add_column("layer", overflow="fold")
    for column in ("kind", "output"):
        table.add_column(column, no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    return table


def _cells(part: Part, name: str) -> list[str]:
    is_group = part.kind == "group"
    return [
        "" if is_group else str(part.index),
        name,
        "" if is_group else part.kind,
        in_words(part.output_shape),
        f"{part.num_parameters:,}",
        _NO_FATE.get(part.in_training, part.in_training),
    ]


def _branches(summary: NetworkSummary) -> Iterator[tuple[Part, str]]:
    """Groups of one scope that is no layer's own, and layers, each with the rest of its name, set in by its depth."""
    headings = {group.scopes[0]: group for group in summary.groups if len(group.scopes) == 1}
    known = {*headings, *(layer.name for layer in summary.layers)}
    is_told: set[str] = set()
    for layer in summary.layers:
        above = [scope for scope in all_scopes([layer.name])[:-1] if scope in known]
        for depth, scope in enumerate(above):
            if scope in headings and scope not in is_told:
                is_told.add(scope)
                yield headings[scope], _rest(summary, scope, above[:depth])
        is_told.add(layer.name)
        yield layer, _rest(summary, layer.name, above)


def _rest(summary: NetworkSummary, scope: str, above: list[str]) -> str:
    taken_off = above[-1] if above else summary.root_scope
    rest = scope.removeprefix(f"{taken_off}/") if taken_off else scope
    return "  " * len(above) + rest
