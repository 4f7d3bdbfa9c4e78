"""Wherever a network meets a data set their classes are matched by name, or refused: never by number alone."""

import csv
import json
import shutil

import numpy as np
import pytest
from tiny_runs import CLASSES, write_records, write_run

from finetune.commands import evaluate, export, predict, train
from finetune.datasets.class_matching import match_labels, output_order
from finetune.datasets.dataset import Dataset
from finetune.errors import UserError
from finetune.model.checkpoint import Checkpoint, write_checkpoint

TURNED = ("red", "blue", "green")  # The same classes, as another folder may sort them.
CAPITAL = ("Red", "blue", "green")


def dataset_of(*names, num_classes=None):
    return Dataset("wild", "train", (), num_classes or len(names), names or None)


# The rule


@pytest.mark.parametrize(
    ("data", "network", "how", "outputs"),
    [
        (("a", "b"), ("a", "b"), None, None),
        (("b", "a"), ("a", "b"), None, (1, 0)),
        (("c", "a", "b"), ("a", "b", "c"), None, (2, 0, 1)),
        (("b", "c"), ("a", "b", "c"), None, (1, 2)),
        (("Left Lung", "heart"), ("heart", "left_lung"), "name", (1, 0)),
        (("B", "a", "A"), ("A", "a", "B"), "name", (2, 1, 0)),
        (("cafe\u0301", "b"), ("b", "caf\u00e9"), "name", (1, 0)),
        (("hund", "katze"), ("dog", "cat"), "index", None),
    ],
)
def test_labels_follow_the_names(data, network, how, outputs):
    matched = match_labels(dataset_of(*data), network, "run", how=how, may_lack_classes=True)
    assert matched.outputs == outputs


@pytest.mark.parametrize(
    ("data", "network", "how", "parts"),
    [
        (
            ("Functional", "defective"),
            ("defective", "functional"),
            None,
            ["functional  Functional", "match-labels name"],
        ),
        (("cat", "dog"), ("cat", "dogs", "emu"), None, ["dogs     dog", "emu      -", "1 name is the same"]),
        (("cat", "dog", "emu"), ("cat", "dog"), None, ["-        emu"]),
        (("hund", "katze"), ("dog", "cat"), "name", ["No name is the same", "--match-labels index"]),
        (("crane", "crane", "kite"), ("kite", "crane", "crane"), None, ["stands there twice"]),
    ],
)
def test_names_that_differ_are_refused_side_by_side(data, network, how, parts):
    with pytest.raises(UserError) as caught:
        match_labels(dataset_of(*data), network, "runs/a", how=how, may_lack_classes=True)
    for part in ["wild", "runs/a", *parts]:
        assert part in str(caught.value)


def test_advice_names_only_ways_that_work():
    for data, network in ((("hund", "katze"), ("dog", "cat")), (("a", "b", "x"), ("a", "b"))):
        with pytest.raises(UserError) as caught:
            match_labels(dataset_of(*data), network, "run", may_lack_classes=True)
        assert "match-labels name" not in str(caught.value)
        assert ("match-labels index" in str(caught.value)) == (len(data) == len(network))


def test_a_class_that_is_not_there_is_no_matter_in_evaluation_alone(caplog):
    assert match_labels(dataset_of("b"), ("a", "b"), "run", may_lack_classes=True).outputs == (1,)
    with pytest.raises(UserError, match=r"a +-"):
        match_labels(dataset_of("b"), ("a", "b"), "run")


def test_labels_below_the_offset_have_no_output():
    matched = match_labels(dataset_of("background", "b", "a"), ("a", "b"), "run", labels_offset=1)
    assert matched.outputs == (1, 0)


def test_data_without_names_goes_by_number_as_far_as_there_are_classes():
    assert match_labels(dataset_of(num_classes=2), ("a", "b", "c"), "run").outputs is None
    with pytest.raises(UserError, match="labels for 4 classes, run has 3: a, b, c"):
        match_labels(dataset_of(num_classes=4), ("a", "b", "c"), "run")


def test_outputs_in_the_order_of_another_network():
    assert output_order(("b", "c", "a"), ("a", "b", "c"), "run") == (2, 0, 1)
    assert output_order(("x", "x"), ("x", "x"), "run") == (0, 1)
    with pytest.raises(UserError, match=r"--compare[\s\S]*-labels-offset"):
        output_order(("a", "b"), ("a", "c"), "run")


# The commands


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """The same pictures of the same classes under several namings, in folders by name."""
    root = tmp_path_factory.mktemp("records")
    for name, names in {"same": CLASSES, "turned": TURNED}.items():
        write_records(root / name, names=names)
        write_records(root / name, names=names, split="train")
    for split in ("train", "validation"):
        write_records(root / "capital", classes=("blue", "green", "Red"), names=CAPITAL, split=split)
        write_records(root / "other", classes=("blue", "green", "violet"), split=split)
        write_records(root / "fewer", classes=("green", "red"), split=split)
    return root


def figures(run, records, output, *words):
    given = [f"--checkpoint={run}", f"--dataset-dir={records}", f"--output-dir={output}", "--no-report"]
    assert evaluate.main([*given, "--write-logits", *words]) == 0
    with (output / "predictions.csv").open() as file:
        rows = {row["filename"]: row for row in csv.DictReader(file)}
    return json.loads((output / "metrics.json").read_text()), rows


@pytest.mark.parametrize(("name", "words"), [("turned", []), ("capital", ["--match-labels=name"])])
def test_an_evaluation_does_not_depend_on_the_order_of_the_classes(run, records, tmp_path, capsys, name, words):
    expected, expected_rows = figures(run, records / "same", tmp_path / "same")
    assert "matched by name" not in capsys.readouterr().err
    metrics, rows = figures(run, records / name, tmp_path / "other", *words)
    assert "matched by name" in capsys.readouterr().err
    assert 0 < expected["accuracy"] < 1
    del expected["data_sha256"], metrics["data_sha256"]
    assert metrics == expected
    assert rows == expected_rows


def test_a_test_set_that_lacks_a_class(run, records, tmp_path, capsys):
    metrics, rows = figures(run, records / "fewer", tmp_path)
    assert "it lacks blue" in capsys.readouterr().err
    assert [(one["name"], one["support"]) for one in metrics["classes"]] == [("blue", 0), ("green", 6), ("red", 6)]
    assert {row["label_name"] for row in rows.values()} == {"green", "red"}


@pytest.mark.parametrize("name", ["capital", "other"])
def test_an_evaluation_on_other_classes_is_refused_until_numbers_are_asked_for(run, records, tmp_path, capsys, name):
    words = [f"--checkpoint={run}", f"--dataset-dir={records / name}", f"--output-dir={tmp_path}", "--no-report"]
    assert evaluate.main(words) == 2
    error = capsys.readouterr().err
    assert "red" in error
    assert {"capital": "Red", "other": "violet"}[name] in error
    assert evaluate.main([*words, "--match-labels=index"]) == 0


def test_a_comparison_of_runs_whose_outputs_are_in_another_order(run, records, tmp_path):
    """A run with its outputs turned around is the same classifier: nothing differs."""
    checkpoint = Checkpoint(str(run / "model.ckpt-7"))
    turned = shutil.copytree(run, tmp_path / "turned")
    order = [CLASSES.index(name) for name in TURNED]
    values = {name: checkpoint.read(name) for name in checkpoint.shapes}
    for name in ("CifarNet/logits/weights", "CifarNet/logits/biases"):
        values[name] = values[name][..., order]
    write_checkpoint(turned / "model.ckpt-7", values)
    (turned / "labels.txt").write_text("".join(f"{label}:{name}\n" for label, name in enumerate(TURNED)))
    for name in ("same", "turned"):
        words = [f"--dataset-dir={records / name}", f"--output-dir={tmp_path / name}"]
        assert evaluate.main([*words, "--compare", str(run), str(turned)]) == 0
        comparison = json.loads((tmp_path / name / "comparison.json").read_text())
        assert comparison["num_differing"] == 0
        expected = figures(run, records / "same", tmp_path / "alone")[0]["accuracy"]
        assert [one["accuracy"] for one in comparison["runs"]] == [expected, expected]


def test_weights_of_runs_on_other_classes_have_no_mean(run, tmp_path, records, capsys):
    turned = write_run(tmp_path / "turned", classes=TURNED)
    words = [f"--dataset-dir={records / 'same'}", f"--output-dir={tmp_path / 'out'}"]
    assert evaluate.main([*words, f"--checkpoint={run}", f"--checkpoint={turned}"]) == 2
    assert "labels.txt" in capsys.readouterr().err


@pytest.mark.parametrize("command", [evaluate, export])
def test_outputs_without_names_are_told_to_go_by_number(run, records, tmp_path, capsys, command):
    nameless = shutil.copytree(run, tmp_path / "nameless")
    (nameless / "labels.txt").unlink()
    words = [f"--checkpoint={nameless}", f"--dataset-dir={records / 'same'}", f"--output-dir={tmp_path / 'out'}"]
    assert command.main(words) == 0
    guessed = f"{nameless}/model.ckpt-7 has no names of its classes: its outputs are taken for the data's by number."
    assert guessed in capsys.readouterr().err


@pytest.fixture(scope="module")
def run_from_1(tmp_path_factory):
    """A run on records whose label 0 is a background that has no output."""
    run = write_run(tmp_path_factory.mktemp("runs") / "from_1", labels_offset=1)
    (run / "labels.txt").write_text("0:background\n1:blue\n2:green\n3:red\n")
    return run


def test_data_may_begin_at_another_label_than_the_runs_own(run, run_from_1, records, tmp_path, capsys):
    """The run's labels.txt is counted from the run's lowest label, the data's from theirs."""
    expected = figures(run, records / "same", tmp_path / "expected")[0]["accuracy"]
    given = [f"--checkpoint={run_from_1}", f"--dataset-dir={records / 'turned'}"]
    for command, name in ((evaluate, "eval"), (export, "export")):
        words = [*given, f"--output-dir={tmp_path / name}"]
        assert command.main(words) == 2
        assert "give --labels-offset 0." in capsys.readouterr().err
        assert command.main([*words, "--labels-offset=0"]) == 0
        assert "matched by name" in capsys.readouterr().err
    assert json.loads((tmp_path / "eval/metrics.json").read_text())["accuracy"] == expected
    measured = json.loads((tmp_path / "export/export.json").read_text())["measured"]
    assert {one["accuracy"] for one in measured} == {expected}
    runs = ["--compare", str(run), str(run_from_1)]
    assert evaluate.main([given[1], f"--output-dir={tmp_path / 'both'}", *runs, "--labels-offset=0"]) == 0
    assert json.loads((tmp_path / "both/comparison.json").read_text())["num_differing"] == 0


def test_an_export_is_measured_by_name(run, records, tmp_path, capsys):
    accuracy = figures(run, records / "same", tmp_path / "eval")[0]["accuracy"]
    words = [f"--checkpoint={run}", f"--output-dir={tmp_path / 'served'}"]
    assert export.main([*words, f"--dataset-dir={records / 'other'}"]) == 2
    assert "violet" in capsys.readouterr().err
    assert export.main([*words, f"--dataset-dir={records / 'turned'}"]) == 0
    description = json.loads((tmp_path / "served/export.json").read_text())
    assert description["class_names"] == list(CLASSES)
    assert {one["accuracy"] for one in description["measured"]} == {accuracy}


def test_names_given_to_predict_that_contradict_the_runs_are_told(run, records, tmp_path, capsys):
    words = [f"--checkpoint={run}", str(records / "same/images/train_00.jpg")]
    assert predict.main([*words, f"--labels={records / 'same/labels.txt'}"]) == 0
    assert "in another order" not in capsys.readouterr().err
    assert predict.main([*words, f"--labels={records / 'turned/labels.txt'}"]) == 0
    assert "in another order" in capsys.readouterr().err


TRAIN = ["--model=cifarnet", "--batch-size=4", "--optimizer=momentum", "--learning-rate=0.001", "--weight-decay=0"]


def losses(run):
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if line.get("split") == "validation"}


def test_a_second_stage_with_the_head_of_the_first(run, records, tmp_path, capsys):
    words = [*TRAIN, f"--checkpoint={run}", "--max-steps=2"]
    for name in ("same", "turned"):
        train_dir = tmp_path / name
        assert train.main([*words, f"--dataset-dir={records / name}", f"--train-dir={train_dir}"]) == 0
        assert (train_dir / "labels.txt").read_text() == "0:blue\n1:green\n2:red\n"
    same, turned = (Checkpoint(str(tmp_path / name / "model.ckpt-2")) for name in ("same", "turned"))
    for name in same.shapes:
        np.testing.assert_array_equal(turned.read(name), same.read(name), err_msg=name)
    assert losses(tmp_path / "turned") == losses(tmp_path / "same")
    capsys.readouterr()
    given = [f"--dataset-dir={records / 'other'}", f"--train-dir={tmp_path / 'other'}"]
    assert train.main([*words, *given]) == 2
    error = capsys.readouterr().err
    assert "violet" in error
    assert "--exclude-scopes CifarNet/logits" in error
    given[1] += "_again"
    assert train.main([*words, *given, "--exclude-scopes=CifarNet/logits"]) == 0
    assert (tmp_path / "other_again/labels.txt").read_text() == "0:blue\n1:green\n2:violet\n"


def test_a_second_stage_on_records_from_1_without_names(run_from_1, records, tmp_path):
    data = write_records(tmp_path / "data", names=("background", *CLASSES), split="train")
    (data / "labels.txt").unlink()
    words = [*TRAIN, f"--checkpoint={run_from_1}", "--max-steps=1", "--labels-offset=1"]
    assert train.main([*words, f"--dataset-dir={data}", f"--train-dir={tmp_path / 'run'}"]) == 0
    assert (tmp_path / "run/labels.txt").read_text() == "0:0\n1:blue\n2:green\n3:red\n"
    figures(tmp_path / "run", records / "same", tmp_path / "eval", "--labels-offset=0")


def test_a_resumed_run_keeps_its_classes(records, tmp_path, capsys):
    train_dir = tmp_path / "run"
    words = [*TRAIN, f"--dataset-dir={records / 'same'}", f"--train-dir={train_dir}"]
    assert train.main([*words, "--max-steps=3"]) == 0  # A whole epoch: the same images and classes are known again.
    resume = ["--resume", f"--train-dir={train_dir}", "--max-steps=4"]
    assert train.main([*resume, f"--dataset-dir={records / 'other'}"]) == 2
    error = capsys.readouterr().err
    assert "violet" in error
    assert "--dataset-dir" in error
    labels = (train_dir / "labels.txt").read_text()
    assert labels == "0:blue\n1:green\n2:red\n"
    assert train.main([*resume, f"--dataset-dir={records / 'turned'}"]) == 0
    assert (train_dir / "labels.txt").read_text() == labels
    whole = tmp_path / "whole"
    assert train.main([*words[:-1], f"--train-dir={whole}", "--max-steps=4"]) == 0
    assert losses(train_dir)[4] == losses(whole)[4]
