"""A run that goes on: it proves that it goes on where it was, and says what isn't what it was."""

import dataclasses
import json
import logging
import os
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from image_files import encode, picture
from tiny_runs import CLASSES, write_records

from finetune import api
from finetune.commands import train
from finetune.datasets.description import write_labels
from finetune.datasets.records import Record, encode_record
from finetune.datasets.tfrecord import RecordWriter
from finetune.errors import UserError
from finetune.evaluation.seen_images import caution
from finetune.model.checkpoint import GLOBAL_STEP, Checkpoint, write_checkpoint
from finetune.model.checkpoint_names import DATA_CHAIN, RECORD_FINGERPRINTS
from finetune.model.recognise import kind_of, variable_shapes
from finetune.runs.mean_checkpoint import MeanCheckpoint
from finetune.runs.provenance import changes_between, facts_at, read_provenance, same_validation_since, with_history
from finetune.runs.run_folder import RunFolder
from finetune.settings.settings_file import read_toml
from finetune.settings.train import TrainSettings
from finetune.training import devices
from finetune.trunk.features import values_hash

NETWORK = ["--model=lenet", "--image-size=8", "--optimizer=adam", "--learning-rate=0.001", "--precision=float32"]
STEPS = ["--batch-size=4", "--log-every=2", "--eval-every=0"]
TWO_DEVICES = ["--num-clones=2", "--batch-size=1"]
NUM_RECORDS = 10


def write_training_shards(folder, *, num_shards=3, changed=None, num_records=NUM_RECORDS, suffix="jpg"):
    """Pictures in several shards; the changed one is another picture, the suffix is of their names alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(num_shards):
        with RecordWriter(folder / f"tiny_train_{shard:05d}-of-{num_shards:05d}.tfrecord") as writer:
            for number in range(num_records * shard // num_shards, num_records * (shard + 1) // num_shards):
                content = encode(picture(99 if number == changed else number, width=40))
                writer.write(encode_record(Record(content, "jpg", number % len(CLASSES), 32, 40, f"{number}.{suffix}")))
    write_labels(folder / "labels.txt", CLASSES)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_records(tmp_path_factory.mktemp("resumption") / "records", num_images=6)
    return write_training_shards(folder)


def begin(data, run, *words, max_steps=5):
    return train.main(
        [f"--dataset-dir={data}", f"--train-dir={run}", *NETWORK, *STEPS, f"--max-steps={max_steps}", *words]
    )


def resume(run, *words):
    return train.main(["--resume", f"--train-dir={run}", *words])


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A run of five steps, resumed to the seventh: two checkpoints."""
    run = tmp_path_factory.mktemp("resumption") / "run"
    assert begin(data, run) == 0
    assert resume(run, "--max-steps=7") == 0
    return run


@pytest.fixture
def run(trained, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(trained, tmp_path / "run")


def chain_of(run):
    return {line["step"]: line["data_chain"] for line in RunFolder(run).read_metrics() if "data_chain" in line}


def values_at(run, step):
    checkpoint = Checkpoint(str(run / f"model.ckpt-{step}"))
    return {name: checkpoint.read(name) for name in checkpoint.shapes}


def rewrite(run, step, **values):
    """A checkpoint with other values; those that are None are left out."""
    kept = {**values_at(run, step), **values}
    write_checkpoint(run / f"model.ckpt-{step}", {name: value for name, value in kept.items() if value is not None})


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def change_provenance(run, change):
    recorded = json.loads((run / "provenance.json").read_text())
    for part in (recorded, *recorded.get("before", [])):
        change(part)
    (run / "provenance.json").write_text(json.dumps(recorded))


# What steps were given


def test_the_chain_is_that_of_an_unbroken_run_and_no_other_seeds(data, trained, tmp_path):
    assert begin(data, tmp_path / "whole", max_steps=7) == 0
    assert begin(data, tmp_path / "other", "--seed=1", max_steps=2) == 0
    whole = chain_of(tmp_path / "whole")
    assert list(whole) == [2, 4, 6, 7]
    assert len(set(whole.values())) == 4
    assert chain_of(trained) == {**whole, 5: chain_of(trained)[5]}
    assert chain_of(tmp_path / "other")[2] != whole[2]
    kept, unbroken = values_at(trained, 7), values_at(tmp_path / "whole", 7)
    for name in unbroken:
        np.testing.assert_array_equal(kept[name], unbroken[name], err_msg=name)
    assert (kept[RECORD_FINGERPRINTS] > 0).all()


def test_several_devices_with_the_same_global_batch_are_given_the_same(data, trained, tmp_path):
    assert begin(data, tmp_path / "two", "--batch-size=2", "--num-clones=2", max_steps=4) == 0
    assert chain_of(tmp_path / "two").items() <= chain_of(trained).items()


@pytest.mark.parametrize(
    ("of_both", "of_passes"),
    [
        ([], []),
        (["--trainable-scopes=LeNet/fc4", "--cache-features=2"], []),
        (
            [],
            [
                "--num-clones=2",
                "--batch-size=1",
                "--moving-average-decay=0.9",
                "--optimizer=adamw",
                "--layer-decay=0.5",
            ],
        ),
    ],
)
def test_passes_of_a_step_are_given_what_its_large_batch_would_be_also_when_resumed(
    data, trained, tmp_path, of_both, of_passes
):
    words = [f"--checkpoint={trained}", "--clip-gradients=0.5", *of_both]
    in_passes = [*words, "--batch-size=2", "--accumulate-steps=2", *of_passes]
    assert begin(data, tmp_path / "large", *words, max_steps=4) == 0
    assert begin(data, tmp_path / "whole", *in_passes, max_steps=4) == 0
    assert begin(data, tmp_path / "parts", *in_passes, max_steps=3) == 0
    assert resume(tmp_path / "parts", "--max-steps=4") == 0
    assert chain_of(tmp_path / "whole") == chain_of(tmp_path / "large")
    resumed, unbroken = values_at(tmp_path / "parts", 4), values_at(tmp_path / "whole", 4)
    for name in unbroken:
        np.testing.assert_array_equal(resumed[name], unbroken[name], err_msg=name)
    assert verify(tmp_path / "parts") == 0


@pytest.mark.parametrize("words", [["--optimizer=adamw", "--layer-decay=0.5"], ["--optimizer=lion"]])
def test_optimizers_with_decoupled_decay_go_on_to_the_bit_and_have_none_in_the_loss(data, tmp_path, words):
    words = [*words, "--weight-decay=0.1"]
    assert begin(data, tmp_path / "whole", *words, max_steps=3) == 0
    assert begin(data, tmp_path / "parts", *words, max_steps=2) == 0
    assert resume(tmp_path / "parts", "--max-steps=3") == 0
    resumed, unbroken = values_at(tmp_path / "parts", 3), values_at(tmp_path / "whole", 3)
    for name in unbroken:
        np.testing.assert_array_equal(resumed[name], unbroken[name], err_msg=name)
    assert {line.get("weight_decay_loss", 0.0) for line in RunFolder(tmp_path / "whole").read_metrics()} == {0.0}


def test_a_run_without_a_chain_is_resumed_and_says_that_nothing_can_be_checked(run, capsys):
    rewrite(run, 7, **{DATA_CHAIN: None, RECORD_FINGERPRINTS: None})
    (run / "provenance.json").write_text("{}")
    assert resume(run, "--max-steps=9") == 0
    said = capsys.readouterr().err
    assert "model.ckpt-7 doesn't say what its steps were given" in said
    assert "data and versions and machine can't be compared: provenance.json doesn't say" in said
    assert DATA_CHAIN in values_at(run, 9)


@pytest.mark.parametrize("links", [np.zeros([3], np.uint8), np.zeros([2, 32], np.float32)])
def test_notes_of_another_form_are_none(run, capsys, links):
    rewrite(run, 7, **{DATA_CHAIN: links, RECORD_FINGERPRINTS: np.zeros([2, 2])})
    assert resume(run, "--max-steps=8") == 0
    assert "model.ckpt-7 doesn't say what its steps were given" in capsys.readouterr().err


def test_a_chain_that_does_not_go_on_is_refused_before_anything_is_written(run, capsys):
    rewrite(run, 7, **{DATA_CHAIN: np.zeros([2, 32], np.uint8)})
    before = contents(run)
    assert resume(run, "--max-steps=9") == 2
    assert "step 7 would not be given again what the run gave it" in capsys.readouterr().err
    assert contents(run) == before
    assert resume(run, "--max-steps=9", "--allow-changed=data") == 0


@pytest.mark.parametrize("words", [["--verify"], ["--allow-changed=seed"]])
def test_what_is_of_a_resumed_run_needs_resume(tmp_path, capsys, words):
    assert train.main([f"--dataset-dir={tmp_path}", *words]) == 2
    assert "Give --resume with it" in capsys.readouterr().err


def test_what_checkpoints_note_on_the_data_is_no_variable_and_has_no_mean(run):
    rewrite(run, 5, **{DATA_CHAIN: None, RECORD_FINGERPRINTS: np.zeros([3], np.int32)})
    checkpoints = [Checkpoint(str(run / f"model.ckpt-{step}")) for step in (5, 7)]
    assert {kind_of(name, checkpoints[1].shapes) for name in (DATA_CHAIN, RECORD_FINGERPRINTS)} == {"note on data"}
    assert set(variable_shapes(checkpoints[1].shapes)) == set(variable_shapes(MeanCheckpoint(checkpoints).shapes))
    assert not {DATA_CHAIN, RECORD_FINGERPRINTS} & set(variable_shapes(checkpoints[1].shapes))


# Other settings, software, machine


@pytest.mark.parametrize(
    ("words", "name", "change"),
    [
        (["--seed=5"], "seed", "seed is 5, was 0"),
        (["--batch-size=5"], "batch_size", "batch_size is 5, was 4"),
        (["--accumulate-steps=2"], "accumulate_steps", "accumulate_steps is 2, was 1"),
        (
            ["--batch-size=4", "--num-clones=2"],
            "num_clones",
            "num_clones is 2, was 1",
        ),
        (["--precision=bfloat16"], "precision", "precision is bfloat16, was float32"),
        (["--preprocessing=cifarnet"], "preprocessing", "preprocessing is cifarnet, was None"),
    ],
)
def test_what_makes_it_another_run_is_refused_unless_allowed(run, capsys, words, name, change):
    before = contents(run)
    assert resume(run, "--max-steps=8", *words) == 2
    error = capsys.readouterr().err
    assert change in error
    assert f"--allow-changed {name}." in error
    assert contents(run) == before
    assert resume(run, "--max-steps=8", *words, f"--allow-changed={name}") == 0
    assert f"Goes on as another run, since --allow-changed says so: {change}" in capsys.readouterr().err
    recorded = json.loads((run / "provenance.json").read_text())
    assert [part["first_step"] for part in [*recorded["before"], recorded]] == [0, 5, 7]
    first = name.partition(",")[0]
    assert recorded["settings"].get(first) != recorded["before"][0]["settings"].get(first)
    assert verify(run) == 0


def test_another_number_of_devices_makes_the_same_steps(data, trained, tmp_path, capsys):
    """One device, two, passes, and one again, with as many images in a step: against one all the way."""
    assert begin(data, tmp_path / "whole", max_steps=8) == 0
    assert begin(data, tmp_path / "parts", max_steps=3) == 0
    capsys.readouterr()
    assert resume(tmp_path / "parts", "--max-steps=5", "--num-clones=2") == 2
    assert "Give --global-batch-size 4, which keeps the images of a step;" in capsys.readouterr().err
    ways = ([*TWO_DEVICES, "--accumulate-steps=2"], ["--batch-size=2", "--accumulate-steps=2", "--num-clones=1"])
    for last, words in zip((5, 7, 8), (*ways, ["--global-batch-size=4", "--accumulate-steps=1"]), strict=True):
        assert resume(tmp_path / "parts", f"--max-steps={last}", *words) == 0
        assert "Each step has the 4 images that it would have had." in capsys.readouterr().err
        assert verify(tmp_path / "parts") == 0
    assert chain_of(tmp_path / "parts")[8] == chain_of(tmp_path / "whole")[8]
    parts, whole = values_at(tmp_path / "parts", 8), values_at(tmp_path / "whole", 8)
    for name in whole:
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("words", [["--mixup=0.2"], ["--trainable-scopes=LeNet/fc4", "--cache-features=2"]])
def test_other_devices_are_refused_where_they_make_other_steps(data, trained, tmp_path, capsys, words):
    """And nothing is advised that would not mend it."""
    assert begin(data, tmp_path / "run", f"--checkpoint={trained}", *words) == 0
    capsys.readouterr()
    assert resume(tmp_path / "run", "--max-steps=6", "--global-batch-size=4", "--num-clones=2") == 2
    error = capsys.readouterr().err
    assert "num_clones is 2, was 1" in error
    assert "Give what it was trained with" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num-clones=2", "--global-batch-size=5"], "makes 2 parts.\n  Give 4 or 6, or another number of parts."),
        (["--accumulate-steps=4", "--global-batch-size=3"], "makes 4 parts.\n  Give 4, or another number of parts."),
        (["--global-batch-size=11"], "a step takes 11 images, but the split train has 10"),
    ],
)
def test_a_global_batch_that_can_not_be_shared_out(data, tmp_path, capsys, words, message):
    assert begin(data, tmp_path / "run", *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_stage_keeps_its_global_batch_on_other_devices(data, tmp_path):
    """By its own number of passes."""
    config = tmp_path / "stages.toml"
    config.write_text(
        "global_batch_size = 4\n[[stages]]\ntrainable_layers = 'all'\nsteps = 2\n"
        "[[stages]]\ntrainable_layers = 'all'\nsteps = 2\naccumulate_steps = 2\n"
    )
    words = [f"--dataset-dir={data}", f"--config={config}", *NETWORK, "--log-every=2", "--eval-every=0"]
    assert train.main([*words, f"--train-dir={tmp_path / 'whole'}"]) == 0
    assert train.main([*words, f"--train-dir={tmp_path / 'parts'}", "--num-clones=2"]) == 0
    assert chain_of(tmp_path / "parts") == chain_of(tmp_path / "whole")
    assert tomllib.loads((tmp_path / "parts/config.toml").read_text())["global_batch_size"] == 4


def test_a_file_of_settings_that_was_changed_is_noticed(run, capsys):
    config = run / "config.toml"
    config.write_text(config.read_text().replace("seed = 0", "seed = 3"))
    assert resume(run, "--max-steps=8") == 2
    assert "seed is 3, was 0" in capsys.readouterr().err


def test_what_may_move_last_bits_is_said_and_goes_on(run, capsys):
    def change(part):
        part["versions"]["tensorflow"] = "2.0.0"
        part["machine"] |= {"processor": "x86_64 avx512f", "threads": 64}

    change_provenance(run, change)
    assert resume(run, "--max-steps=8", "--weight-decay=0.001") == 0
    error = capsys.readouterr().err
    assert "Changed from here on: weight_decay is 0.001, was 4e-05." in error
    said = next(line for line in error.splitlines() if line.startswith("Weights may come out otherwise"))
    for words in ("tensorflow is", "was 2.0.0", "processor is", "was x86_64 avx512f", "threads is", "was 64"):
        assert words in said


# Other data


def test_other_training_images_are_refused_and_the_record_is_named(run, tmp_path, capsys):
    other = write_training_shards(shutil.copytree(data_of(run), tmp_path / "other"), changed=4)
    words = ["--max-steps=8", f"--dataset-dir={other}"]
    before = contents(run)
    assert resume(run, *words) == 2
    error = capsys.readouterr().err
    assert "data (sha256) is" in error
    assert f"what has changed is record 1 (counted from 0) of {other / 'tiny_train_00001-of-00003.tfrecord'}." in error
    assert contents(run) == before
    assert resume(run, *words, "--allow-changed=data") == 0
    recorded = json.loads((run / "provenance.json").read_text())
    assert recorded["before"][1]["data"]["sha256"] != recorded["data"]["sha256"]
    assert verify(run) == 0
    assert resume(run, "--max-steps=9") == 0


def test_another_number_of_records_is_refused(run, tmp_path, capsys):
    other = write_training_shards(shutil.copytree(data_of(run), tmp_path / "other"), num_records=12)
    assert resume(run, "--max-steps=8", f"--dataset-dir={other}") == 2
    assert "with 12 records that were 10" in capsys.readouterr().err
    assert resume(run, "--max-steps=8", f"--dataset-dir={other}", "--allow-changed=data") == 0


def test_records_that_no_step_has_seen_may_be_others_for_all_that_the_run_knows(data, tmp_path, capsys):
    assert begin(data, tmp_path / "run", max_steps=1) == 0
    unseen = np.flatnonzero(values_at(tmp_path / "run", 1)[RECORD_FINGERPRINTS] == 0)
    other = write_training_shards(shutil.copytree(data, tmp_path / "other"), changed=unseen[0])
    assert resume(tmp_path / "run", "--max-steps=2", f"--dataset-dir={other}") == 2
    assert "though not in the records that its steps have seen so far" in capsys.readouterr().err


def test_other_files_with_the_same_records_are_the_same_data(run, tmp_path, capsys):
    other = write_training_shards(shutil.copytree(data_of(run), tmp_path / "other"), suffix="jpeg")
    assert resume(run, "--max-steps=8", f"--dataset-dir={other}") == 0
    assert "their images and classes those that the run has seen" in capsys.readouterr().err
    assert verify(run) == 0


def test_a_record_that_changes_while_the_run_trains_is_noticed(run, tmp_path, capsys, monkeypatch):
    """As it would be where the hash of the data is taken from a dataset.json whose time is not older."""
    other = write_training_shards(shutil.copytree(data_of(run), tmp_path / "other"), changed=4)
    recorded = json.loads((run / "provenance.json").read_text())
    monkeypatch.setattr("finetune.training.training_data.content_hash", lambda d: recorded_hash(recorded, d.split))
    assert resume(run, "--max-steps=12", f"--dataset-dir={other}") == 2
    error = capsys.readouterr().err
    assert f"record 1 (counted from 0) of {other / 'tiny_train_00001-of-00003.tfrecord'} has changed since" in error


def test_other_validation_images_begin_another_search_for_the_best(run, tmp_path, capsys):
    other = write_records(shutil.copytree(data_of(run), tmp_path / "other"), num_images=9)
    (run / "best.json").write_text('{"checkpoint": "model.ckpt-5", "step": 5, "accuracy": 1.0, "loss": 0.0}')
    figures = {"split": "validation", "accuracy": 1.0, "top_5_accuracy": 1.0, "loss": 0.0, "num_examples": 6}
    RunFolder(run).write_metrics(7, figures)  # Of the images before.
    assert resume(run, "--max-steps=8", f"--dataset-dir={other}") == 0
    error = capsys.readouterr().err
    assert "The validation images aren't those before" in error
    assert '"accuracy": 1.0' in error
    assert json.loads((run / "best.json").read_text())["step"] == 8
    recorded = json.loads((run / "provenance.json").read_text())
    assert [part["validation"]["num_examples"] for part in [*recorded["before"], recorded]] == [6, 6, 9]
    assert resume(run, "--max-steps=9") == 0  # As before, but for what was validated long ago.
    assert json.loads((run / "best.json").read_text())["step"] in (8, 9)


def test_a_run_at_its_end_is_not_validated_twice_unless_on_other_images(run, tmp_path):
    before = RunFolder(run).read_metrics()
    assert resume(run) == 0
    assert RunFolder(run).read_metrics() == before
    other = write_records(shutil.copytree(data_of(run), tmp_path / "other"), num_images=9)
    assert resume(run, f"--dataset-dir={other}") == 0
    assert [line["num_examples"] for line in RunFolder(run).read_metrics()[len(before) :]] == [9]


def data_of(run):

    return Path(json.loads((run / "provenance.json").read_text())["settings"]["dataset_dir"])


def recorded_hash(recorded, split):
    return next(recorded[what]["sha256"] for what in ("data", "validation") if recorded[what]["split"] == split)


# --verify


def verify(run, *words):
    return resume(run, "--verify", *words)


def test_steps_made_again_prove_a_checkpoint_and_leave_the_run_alone(trained, capsys):
    before = contents(trained)
    assert verify(trained) == 0
    output = capsys.readouterr().out
    assert output.startswith(
        f"proven: steps 6 to 7 of {trained}, made again, give what model.ckpt-7 holds, bit for bit"
    )
    values = values_at(trained, 7)
    compared = sorted(set(values) - {GLOBAL_STEP, RECORD_FINGERPRINTS})
    assert f"{len(compared)} arrays, sha256 {values_hash((name, values[name]) for name in compared)[:16]}" in output
    assert len(output.splitlines()) == 1
    assert contents(trained) == before


def test_a_single_checkpoint_is_proven_from_the_start(run, capsys):
    for path in run.glob("model.ckpt-7.*"):
        path.unlink()
    assert verify(run) == 0
    said = capsys.readouterr()
    assert "model.ckpt-5 is the only checkpoint of the run: its steps are made again from the start" in said.err
    assert said.out.startswith("proven: steps 1 to 5")


def test_a_start_that_is_gone_cannot_be_made_again(data, trained, tmp_path, capsys):
    pretrained = shutil.copytree(trained, tmp_path / "pretrained")
    assert begin(data, tmp_path / "run", f"--checkpoint={pretrained}", max_steps=2) == 0
    assert verify(tmp_path / "run") == 0
    shutil.rmtree(pretrained)
    assert verify(tmp_path / "run") == 2
    assert "is the only checkpoint of the run, and its start can't be made again" in capsys.readouterr().err


def test_steps_over_which_the_run_went_on_otherwise_cannot_be_made_again(run, capsys):
    assert resume(run, "--max-steps=9", "--seed=5", "--allow-changed=seed", "--max-to-keep=1") == 0
    kept = {path.name for path in run.glob("*.index")}
    for name in kept - {"model.ckpt-9.index"}:
        (run / name).unlink()
    assert verify(run) == 2
    assert "between the steps 0 and 9 the run went on otherwise than before: seed is 5, was 0" in (
        capsys.readouterr().err
    )


def test_verify_from_python(trained):
    settings = TrainSettings(**read_toml(TrainSettings, trained / "config.toml"))
    proven = api.verify(settings)
    assert (proven.first_step, proven.last_step) == (5, 7)
    with pytest.raises(UserError, match=r"api\.verify"):
        api.train(dataclasses.replace(settings, resume=True, verify=True))


def test_images_of_an_earlier_part_trained_it_too(run, tmp_path):
    sha256 = json.loads((run / "provenance.json").read_text())["data"]["sha256"]
    other = write_training_shards(shutil.copytree(data_of(run), tmp_path / "other"), changed=4)
    assert resume(run, "--max-steps=8", f"--dataset-dir={other}", "--allow-changed=data") == 0
    assert caution(run, "model.ckpt-8", sha256) == "these images trained it: expect less on new ones"


def test_verify_finds_a_changed_record(run, tmp_path, capsys):
    other = write_training_shards(shutil.copytree(data_of(run), tmp_path / "other"), changed=9)
    assert verify(run, f"--dataset-dir={other}") == 2
    error = capsys.readouterr().err
    assert f"what has changed is record 3 (counted from 0) of {other / 'tiny_train_00002-of-00003.tfrecord'}." in error


@pytest.mark.parametrize(
    ("words", "change"),
    [
        (["--seed=5"], "seed is 5, was 0"),
        (["--precision=bfloat16"], "precision is bfloat16, was float32"),
        (["--augmentation=none"], "augmentation is none, was default"),
    ],
)
def test_verify_finds_another_setting(trained, capsys, words, change):
    assert verify(trained, *words) == 2
    assert f"--verify: this would be another run than the one that made the last checkpoint: {change}." in (
        capsys.readouterr().err
    )


def test_verify_finds_a_weight_a_slot_or_an_order_that_was_changed(run, capsys):
    name = "LeNet/conv1/weights"
    changed = values_at(run, 7)[name].copy()
    changed.flat[3] = np.nextafter(changed.flat[3], np.inf)
    rewrite(run, 7, **{name: changed})
    assert verify(run) == 2
    error = capsys.readouterr().err
    assert "made again, don't give what" in error
    assert f"1 of {len(values_at(run, 7)) - 2} arrays differ" in error
    assert name in error
    metrics = run / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace(chain_of(run)[7], "0" * 16))
    assert verify(run) == 2
    assert "in steps 7 to 7 the run was given other images" in capsys.readouterr().err


def test_verify_takes_the_schedule_of_the_steps_that_were_made(run, capsys):
    """A resumption that ended before its first checkpoint has left its settings in config.toml."""
    config = run / "config.toml"
    config.write_text(config.read_text().replace("learning_rate = 0.001", "learning_rate = 0.5"))
    assert verify(run) == 0
    assert "proven" in capsys.readouterr().out


HEAD = ["--trainable-scopes=LeNet/fc4", "--cache-features=2", "--cache-memory=0", "--moving-average-decay=0.9"]


def test_a_moved_run_on_features_with_averages_is_resumed_and_proven(data, trained, tmp_path, capsys):
    head = [*HEAD, f"--checkpoint={trained}"]
    assert begin(data, tmp_path / "run", *head, max_steps=9) == 0
    assert begin(data, tmp_path / "whole", *head, max_steps=30) == 0
    moved = tmp_path / "elsewhere" / "moved run"
    moved.parent.mkdir()
    (tmp_path / "run").rename(moved)
    capsys.readouterr()
    assert resume(moved, "--max-steps=30") == 0
    assert "holds them already" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    resumed, whole = values_at(moved, 30), values_at(tmp_path / "whole", 30)
    for name in whole:
        np.testing.assert_array_equal(resumed[name], whole[name], err_msg=name)
    before = contents(moved)
    assert verify(moved) == 0
    said = capsys.readouterr()
    assert "proven: steps 10 to 30" in said.out
    assert "holds them already" in said.err
    assert contents(moved) == before
    shutil.rmtree(moved / "features")
    assert verify(moved) == 0
    assert not (moved / "features").exists()


def test_a_run_that_was_too_short_for_features_goes_on_without_them(data, trained, tmp_path, capsys):
    words = ["--trainable-scopes=LeNet/fc4", f"--checkpoint={trained}", "--augmentation=none"]
    assert begin(data, tmp_path / "run", *words, max_steps=2) == 0
    assert resume(tmp_path / "run", "--max-steps=20") == 0
    assert "--cache-features auto: as the run was begun, none" in capsys.readouterr().err
    assert verify(tmp_path / "run") == 0
    assert resume(tmp_path / "run", "--max-steps=22", "--cache-features=1") == 2
    error = capsys.readouterr().err
    assert "Changed from here on: cache_features is 1, was auto." in error
    assert "would not be given again what the run gave it" in error


# The same weights for the same seed


@pytest.mark.slow
def test_the_number_of_readers_changes_no_weight(data, tmp_path):
    hashes = set()
    for number in range(6):
        threads = [f"--num-readers={1 + number % 4}", f"--num-preprocessing-threads={1 + number}"]
        assert begin(data, tmp_path / f"{number}", *threads, "--eval-split=train") == 0
        hashes.add(values_hash(sorted(values_at(tmp_path / f"{number}", 5).items())))
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("gpus", "on_cpu", "is_enabled"), [([], False, False), (["a"], True, False), (["a"], False, True)]
)
def test_deterministic_operations_are_asked_for_on_a_gpu(monkeypatch, caplog, gpus, on_cpu, is_enabled):
    asked = []
    monkeypatch.setattr(devices.tf.config, "get_visible_devices", lambda kind: gpus)
    monkeypatch.setattr(devices.tf.config.experimental, "enable_op_determinism", lambda: asked.append(True))
    with caplog.at_level(logging.INFO):
        devices.make_deterministic(on_cpu=on_cpu)
    assert bool(asked) == is_enabled
    assert ("nothing is to be done for it on a CPU" in caplog.text) != is_enabled


# provenance.json


def test_facts_are_those_of_the_part_that_made_the_step():
    first, second = {"first_step": 0, "data": "a"}, {"first_step": 5, "data": "b"}
    recorded = with_history(second, first)
    assert recorded == {**second, "before": [first]}
    assert with_history({**second, "first_step": 9}, recorded) == recorded
    third = {"first_step": 9, "data": "c"}
    assert with_history(third, recorded)["before"] == [first, second]
    assert [facts_at(recorded, step)["data"] for step in (1, 5, 6, 9)] == ["a", "a", "b", "b"]


def test_validations_count_from_the_step_on_since_which_they_are_on_the_same_images():
    def part(first_step, sha256):
        return {"first_step": first_step, "data": {"sha256": "d"}, "validation": {"sha256": sha256}}

    old, new, newer = part(0, "a"), part(5, "b"), part(9, "b")
    assert same_validation_since(old) == 0
    assert same_validation_since({**newer, "before": [old, new]}) == 5
    assert same_validation_since({**part(9, "a"), "before": [old, new]}) == 9
    assert same_validation_since({**newer, "before": [{"versions": {}}]}) == 0  # An older run doesn't say.
    assert same_validation_since({**newer, "before": [{"data": {"sha256": "d"}}]}) == 9  # It had none.


@pytest.mark.parametrize(
    "content",
    ["", "[", "[1]", '"x"', "null", '{"before": 1}', '{"before": [1]}', '{"data": {}}', '{"settings": 3}', "[" * 10**5],
)
def test_a_provenance_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "provenance.json").write_text(content)
    with pytest.raises(UserError, match=r"provenance.json (can't be read|is not what a run writes)"):
        read_provenance(tmp_path)


def test_changes_are_found_by_name_and_what_is_not_known_is_no_change():
    before = {"settings": {"seed": 0}, "versions": {"tensorflow": "1"}, "data": {"sha256": "a"}}
    now = {
        "settings": {"batch_size": 32, "seed": 1},
        "versions": {"numpy": "2", "tensorflow": "2"},
        "machine": {"threads": 2},
        "data": {"sha256": "a"},
        "validation": {"sha256": "b"},
    }
    changes = {change.name: change.makes_another_run for change in changes_between(before, now)}
    assert changes == {"tensorflow": False, "validation": False, "seed": True}


def test_threads_that_are_not_set_are_the_cores_that_may_be_used(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 5}, raising=False)
    monkeypatch.setattr(devices.tf.config.threading, "get_intra_op_parallelism_threads", lambda: 0)
    assert devices.describe_machine(on_cpu=True)["threads"] == 3
