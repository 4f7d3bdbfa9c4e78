"""In a notebook's cell: bars that are updated in place, seldom; tables that are drawn; text that stays text."""

import builtins
import logging
import sys
import types
from pathlib import Path

import pytest
from rich.table import Table

from finetune import progress
from finetune.commands.conversion import Conversion, summary_text
from finetune.commands.tables import print_table
from finetune.model.plan_table import plan_text
from finetune.model.scopes import VariablePlan


@pytest.fixture
def shown(monkeypatch):
    """What a notebook would show, as HTML, each update of a thing in a list of its own; rich knows it by its shell."""
    cells = []

    class Shown:
        def __init__(self, thing):
            cells.append([])
            self.update(thing)

        def update(self, thing):
            cells[-1].append(thing._repr_mimebundle_([], [])["text/html"])

    shell = type("ZMQInteractiveShell", (), {})()
    module = types.SimpleNamespace(display=lambda thing, display_id=False: Shown(thing))
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(builtins, "get_ipython", lambda: shell, raising=False)
    return cells


def advance_often(num_times):
    with progress.progress("Reading", num_times) as advance:
        for _ in range(num_times):
            advance(1)


def test_a_bar_is_updated_in_place_and_seldom(shown, monkeypatch, capsys, caplog):
    clock = iter(range(10**6))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock) / 100)
    with caplog.at_level(logging.INFO):
        advance_often(1000)
    (bar,) = shown
    assert 10 <= len(bar) <= 13  # Of 1,000 steps in ten seconds.
    assert "Reading" in bar[0]
    assert "0/1000" in bar[0]
    assert "1000/1000" in bar[-1]
    assert bar[-1].startswith("<pre")
    assert not caplog.messages
    assert capsys.readouterr() == ("", "")


def test_a_logger_that_is_told_to_be_quiet_shows_no_bar(shown, monkeypatch):
    monkeypatch.setattr(progress.log, "level", logging.WARNING)
    advance_often(5)
    assert not shown


def test_where_there_is_no_notebook_there_is_no_bar(capsys):
    advance_often(5)
    assert capsys.readouterr() == ("", "")


def test_tables_are_drawn(shown, capsys):
    table = Table("name", "number")
    table.add_row("<daisy>", "7")
    print_table(table)
    (drawn,) = shown
    assert "│ &lt;daisy&gt; │ 7 " in drawn[0]
    assert not capsys.readouterr().out


def test_what_is_for_the_log_is_text_and_shows_nothing_itself(shown):
    assert plan_text(VariablePlan((), trainable_scopes=())).startswith("Plan of the variables")
    conversion = Conversion(
        Path("records"),
        "flowers",
        ("daisy",),
        {"train": (3,)},
        {"train": 3},
        {},
        "single-label",
        {"train": 1},
        {},
        {},
        (),
        None,
        *[()] * 5,
    )
    assert "daisy" in summary_text(conversion)
    assert not shown
