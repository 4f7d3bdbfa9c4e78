"""The scope plan: as data, and as people read it."""

import dataclasses
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from finetune.model.scopes import VariablePlan

_FATES = {"trained": "trained", "updated": "updated (moving statistics)", "frozen": "frozen"}


def describe_plan(plan: VariablePlan) -> dict[str, Any]:
    """What becomes of each variable, and how many share a fate."""
    return {
        "variables": [dataclasses.asdict(variable) for variable in plan.variables],
        "counts": [
            {"from": origin, "in_training": fate, "num_variables": num_variables, "num_parameters": num_parameters}
            for origin, fate, num_variables, num_parameters in plan.counts()
        ],
    }


def variables_table(plan: VariablePlan) -> Table:
    """A row for each variable; its name is folded where there is no room for it, and nothing else is."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("variable", overflow="fold")
    for name in ("shape", "from", "in training"):
        table.add_column(name, no_wrap=True)
    for variable in plan.variables:
        origin = "initialised" if variable.source is None else "restored"
        fate = "trained" if variable.is_trained else "frozen"
        table.add_row(*map(Text, (variable.name, str(list(variable.shape)), origin, fate)))
    return table


def plan_table(plan: VariablePlan) -> Table:
    """Restored or initialised × trained or frozen, with counts of variables and parameters; fits 80 columns."""
    table = Table(title="Plan of the variables", title_justify="left", show_footer=True)
    counts = plan.counts()
    table.add_column("from", footer="all")
    table.add_column("in training")
    table.add_column("variables", justify="right", footer=f"{sum(row[2] for row in counts):,}")
    table.add_column("parameters", justify="right", footer=f"{sum(row[3] for row in counts):,}")
    for origin, fate, num_variables, num_parameters in counts:
        table.add_row(origin, _FATES[fate], f"{num_variables:,}", f"{num_parameters:,}")
    return table


def plan_text(plan: VariablePlan) -> str:
    """The plan, and how many of the variables come from moving averages, in lines for the log of a command.

    They are as wide as the terminal, and without colours, since a log may go into a file.
    """
    console = Console(stderr=True, color_system=None, force_jupyter=False)  # A notebook's would show an empty cell.
    with console.capture() as capture:
        _print_plan(plan, console)
    return capture.get().rstrip("\n")


def _print_plan(plan: VariablePlan, console: Console) -> None:
    console.print(plan_table(plan))
    num_averages = sum(variable.source != variable.name for variable in plan.restored)
    for variable in plan.restored:
        if variable.sums_colours:
            console.print(f"{variable.name} is summed over the colours of the checkpoint's (--grayscale-stem sum).")
    if num_averages:
        console.print(
            f"{num_averages} variables are restored from their moving averages (--no-ema: from the raw ones)."
        )
