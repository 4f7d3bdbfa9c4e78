"""Names of files and classes, and what servers answer: no commands for a terminal, no formulas for a spreadsheet."""

import csv
import io
import logging

import pytest
from broken_server import serving

from finetune.commands import command, download, predict
from finetune.commands.conversion import Conversion, print_summary
from finetune.commands.log_lines import logging_as_told
from finetune.datasets.image_rules import RULES_OF_OTHER_RECORDS
from finetune.errors import visible
from finetune.files.csv_cells import cells_of, text_of
from finetune.model.checkpoint_table import tensors_table
from finetune.prediction.writers import Asked, Guess, Prediction, write_csv

EVIL = "\x1b]0;owned\x07\x9b2J\rname"
FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'=1", "''=1"]
PLAIN = ["", "a=1", "'quoted'", "'", "1-2", "é", " =1"]


@pytest.mark.parametrize("name", FORMULAS)
def test_no_cell_is_a_formula_and_each_can_be_read_back(name):
    (cell,) = cells_of([name])
    assert cell == "'" + name
    assert text_of(cell) == name


@pytest.mark.parametrize("name", PLAIN)
def test_other_cells_are_as_they_were(name):
    assert cells_of([name]) == [name]
    assert text_of(name) == name


def test_numbers_stay_numbers():
    assert cells_of([-1.5, -3, float("-inf")]) == [-1.5, -3, float("-inf")]


def test_predictions_in_csv_hold_no_formula():
    file = io.StringIO()
    guesses = (Guess(0, "=class", 0.5), Guess(1, "-other", 0.25))
    write_csv([Prediction("@file.jpg", guesses), Prediction("=bad.jpg", (), error="+nothing")], file, Asked(top_k=2))
    rows = list(csv.reader(io.StringIO(file.getvalue())))
    assert rows[1] == ["'@file.jpg", "0", "'=class", "0.5", "1", "'-other", "0.25", ""]
    assert rows[2][0] == "'=bad.jpg" and rows[2][-1] == "'+nothing"


def test_control_characters_become_escapes():
    assert visible(EVIL) == "\\x1b]0;owned\\x07\\x9b2J\\rname"
    assert visible("a\tb\nü 日") == "a\tb\nü 日"


def is_clean(text):
    return not any(letter in text for letter in EVIL[:-4] if not letter.isprintable())


def test_errors_and_log_lines_hold_no_control_characters(capsys):
    assert download.main([EVIL]) == 2
    with logging_as_told("test"):
        logging.getLogger("finetune").info("%s", EVIL)
    told = capsys.readouterr().err
    assert told.count("\\x1b]0;owned\\x07") == 2
    assert is_clean(told)


def test_what_a_server_answers_reaches_the_terminal_as_escapes(tmp_path, capsys):
    with serving() as server:
        server.reason = "Not\x1b[31m Found"
        assert download.main(["mobilenet_v1", f"--base-url={server.url}", f"--output-dir={tmp_path}"]) == 2
    told = capsys.readouterr().err
    assert "404 Not\\x1b[31m Found" in told
    assert "\x1b" not in told


@pytest.mark.parametrize("is_terminal", [True, False])
def test_standard_output_is_raw_for_programs_alone(capsys, monkeypatch, is_terminal):
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal, raising=False)
    command.say(EVIL)
    with predict._open_output(None) as file:
        file.write(EVIL)
    assert is_clean(capsys.readouterr().out) == is_terminal


def test_tables_hold_no_control_characters(capsys, tmp_path):
    tensor = {"name": EVIL, "shape": [1], "num_values": 1, "kind": "variable"}
    assert visible(EVIL) in [
        cell.plain for column in tensors_table({"tensors": [tensor]}).columns for cell in column.cells
    ]
    nothing = dict.fromkeys(("guessed", "corrupt", "ignored", "remarks"), ())
    nothing |= {name: {} for name in ("reencoded", "changed", "duplicates", "contradictions", "num_without_labels")}
    of_train = {"num_images": {"train": 3}, "num_shards": {"train": 1}, "task": "single-label"}
    counts = {"train": (3,)}
    print_summary(
        Conversion(tmp_path, EVIL, (EVIL,), counts, **of_train, image_rules=RULES_OF_OTHER_RECORDS, **nothing)
    )
    out = capsys.readouterr().out
    assert "\\x1b]0;owned" in out
    assert is_clean(out)
