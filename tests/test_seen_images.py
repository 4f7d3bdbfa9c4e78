"""What is said of an accuracy on images that the run had seen."""

import json

import pytest

from finetune.evaluation.seen_images import caution

TRAINING, VALIDATION, NEW = "a" * 64, "b" * 64, "c" * 64


def make_run(folder, num_validations):
    """The files of a run that was validated so many times, and was best at step 2."""
    provenance = {
        "versions": {},
        "data": {"name": "tiny", "split": "train", "num_examples": 8, "sha256": TRAINING},
        "validation": {"name": "tiny", "split": "validation", "num_examples": 12, "sha256": VALIDATION},
    }
    (folder / "provenance.json").write_text(json.dumps(provenance))
    lines = [{"step": 1, "loss": 0.5}]
    lines += [{"step": step, "split": "validation", "accuracy": 0.5} for step in range(1, num_validations + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "best.json").write_text(json.dumps({"checkpoint": "model.ckpt-2"}))
    for step in (1, 2):
        (folder / f"model.ckpt-{step}.index").touch()
    return folder


@pytest.mark.parametrize(
    ("checkpoint_name", "data", "num_validations", "words"),
    [
        ("model.ckpt-1", TRAINING, 3, "these images trained it"),
        ("model.ckpt-2", VALIDATION, 3, "the best of 3 checkpoints"),
        ("model.ckpt-2", VALIDATION, 1, None),
        ("model.ckpt-1", VALIDATION, 3, None),
        ("mean of model.ckpt-1, model.ckpt-2", VALIDATION, 3, None),
        ("model.ckpt-2", NEW, 3, None),
    ],
)
def test_what_is_said(tmp_path, checkpoint_name, data, num_validations, words):
    said = caution(make_run(tmp_path, num_validations), checkpoint_name, data)
    assert said is None if words is None else words in said


def test_nothing_is_said_of_what_is_no_run_of_ours(tmp_path):
    assert caution(tmp_path, "model.ckpt-2", TRAINING) is None


def test_a_run_of_before_knows_its_training_images_alone(tmp_path):
    run = make_run(tmp_path, 3)
    provenance = json.loads((run / "provenance.json").read_text())
    del provenance["validation"]
    (run / "provenance.json").write_text(json.dumps(provenance))
    assert caution(run, "model.ckpt-2", VALIDATION) is None
