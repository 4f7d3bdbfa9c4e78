"""Runs with augmentations beyond slim's: recorded, resumed to the bit, on features, in stages, refused where idle."""

import json

import numpy as np
import pytest
from tiny_runs import write_run

from finetune.commands import train
from finetune.model.checkpoint import Checkpoint
from finetune.settings.settings_file import read_toml
from finetune.settings.train import TrainSettings

NETWORK = ["--model=lenet", "--image-size=8", "--batch-size=4", "--log-every=1", "--eval-every=0"]
AUGMENTED = {
    "keras": ["--augmentation=keras", "--random-erasing=0.5"],
    "randaugment": ["--augmentation=randaugment", "--randaugment=3,7", "--crop-area=0.3,0.9"],
    "turns": ["--augmentation=turns", "--random-erasing=1"],
}


NEW = ("crop_area", "randaugment", "random_erasing")


def begin(records, run, *words):
    return train.main([f"--dataset-dir={records}", f"--train-dir={run}", *NETWORK, "--cache-features=off", *words])


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The flag that names weights to begin from."""
    folder = write_run(tmp_path_factory.mktemp("augmented"), "lenet", image_size=8)
    return f"--checkpoint={folder / 'model.ckpt-7'}"


def resume(run, *words):
    return train.main(["--resume", f"--train-dir={run}", *words])


def assert_same_weights(run, other, step):
    values, others = (Checkpoint(str(each / f"model.ckpt-{step}")) for each in (run, other))
    for name in values.shapes:
        np.testing.assert_array_equal(values.read(name), others.read(name), err_msg=name)


@pytest.mark.parametrize("name", AUGMENTED)
def test_a_resumed_run_ends_as_the_unbroken_one(name, records, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert begin(records, whole, "--max-steps=6", *AUGMENTED[name]) == 0
    assert begin(records, broken, "--max-steps=3", *AUGMENTED[name]) == 0
    assert resume(broken, "--max-steps=6", "--num-preprocessing-threads=1") == 0
    assert_same_weights(whole, broken, 6)
    assert resume(broken, "--verify") == 0


def test_what_is_augmented_otherwise_is_another_run(records, tmp_path, capsys):
    run = tmp_path / "run"
    assert begin(records, run, "--max-steps=2", *AUGMENTED["randaugment"]) == 0
    recorded = read_toml(TrainSettings, run / "config.toml")
    assert (recorded["randaugment"], recorded["crop_area"]) == ((3, 7), (0.3, 0.9))
    for words, change in (
        (["--random-erasing=0.5"], "random_erasing is 0.5, was 0.0"),
        (["--randaugment=3,8"], "randaugment is [3, 8], was [3, 7]"),
        (["--crop-area="], "crop_area is [], was [0.3, 0.9]"),
    ):
        assert resume(run, "--max-steps=4", *words) == 2
        assert change in capsys.readouterr().err
    assert resume(run, "--max-steps=4", "--crop-area=", "--allow-changed=crop_area") == 0


def test_features_are_kept_of_so_many_outcomes(records, weights, tmp_path):
    words = [weights, "--cache-features=2", "--cache-memory=0", "--trainable-scopes=LeNet/fc4", *AUGMENTED["keras"]]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert begin(records, whole, *words, "--max-steps=8") == 0
    assert json.loads((whole / "provenance.json").read_text())["cached_views"] == 2
    views = [np.load(whole / "features" / f"view_{view}" / "0.npy") for view in (0, 1)]
    assert np.abs(views[0] - views[1]).max() > 0
    assert begin(records, broken, *words, "--max-steps=3") == 0
    assert resume(broken, "--max-steps=8") == 0
    assert_same_weights(whole, broken, 8)


def test_erasing_alone_makes_several_views_worth_keeping(records, weights, tmp_path):
    words = [weights, "--cache-features=auto", "--trainable-scopes=LeNet/fc4", "--augmentation=none", "--max-steps=20"]
    assert begin(records, tmp_path / "plain", *words) == 0
    assert begin(records, tmp_path / "erased", *words, "--random-erasing=0.3") == 0
    for run, num_views in (("plain", 1), ("erased", 4)):
        assert json.loads((tmp_path / run / "provenance.json").read_text())["cached_views"] == num_views


def test_stages_have_their_own(records, weights, tmp_path):
    config = tmp_path / "stages.toml"
    config.write_text(
        "augmentation = 'inception'\ncrop_area = [0.4, 1.0]\nsave_interval_seconds = 0\n"
        "[[stages]]\ntrainable_layers = 'head'\nsteps = 2\naugmentation = 'turns'\nrandom_erasing = 0.5\n"
        "[[stages]]\nsteps = 2\naugmentation = 'randaugment'\nrandaugment = [1, 3]\n"
        "[[stages]]\nname = 'last'\nsteps = 2\n",
        encoding="utf-8",
    )
    run = tmp_path / "run"
    assert begin(records, run, weights, f"--config={config}") == 0
    parts = json.loads((run / "provenance.json").read_text())
    told = [
        [part["settings"][name] for name in ("augmentation", "crop_area", "randaugment", "random_erasing")]
        for part in (*parts["before"], parts)
    ]
    assert told == [
        ["turns", [], [], 0.5],
        ["randaugment", [], [1, 3], 0.0],
        ["inception", [0.4, 1.0], [], 0.0],
    ]
    assert resume(run, "--verify") == 0
    assert read_toml(TrainSettings, run / "config.toml")["stages"] == read_toml(TrainSettings, config)["stages"]


def test_what_a_later_stage_cannot_have_is_said_before_the_first(records, tmp_path, capsys):
    config = tmp_path / "stages.toml"
    config.write_text(
        "[[stages]]\nsteps = 2\n[[stages]]\nname = 'later'\nsteps = 2\ncrop_area = [0.4, 1.0]\n", encoding="utf-8"
    )
    assert begin(records, tmp_path / "run", f"--config={config}") == 2
    error = capsys.readouterr().err
    assert "--crop-area 0.4,1 would have no effect with --augmentation default of the preprocessing lenet" in error
    assert not (tmp_path / "run").exists()


def test_a_run_from_before_these_flags_goes_on(records, tmp_path):
    run = tmp_path / "run"
    assert begin(records, run, "--max-steps=2") == 0
    config, provenance = run / "config.toml", run / "provenance.json"
    lines = [line for line in config.read_text().splitlines() if not line.startswith(tuple(NEW))]
    config.write_text("\n".join(lines), encoding="utf-8")
    facts = json.loads(provenance.read_text())
    for name in NEW:
        del facts["settings"][name]
    provenance.write_text(json.dumps(facts), encoding="utf-8")
    assert resume(run, "--max-steps=4") == 0
    assert resume(run, "--verify") == 0
