"""Settings in groups: flat to whoever gives them, in parts to whoever needs them."""

import ast
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from finetune.settings.convert import ConvertSettings
from finetune.settings.flags import flags_of, flat_values
from finetune.settings.settings_file import read_toml, to_toml_table
from finetune.settings.stage import OptimizerSettings, StageSettings
from finetune.settings.train import DataSettings, TrainSettings

ROOT = Path(__file__).parents[1]


def test_flat_values_groups_and_both_give_the_same_settings():
    flat = TrainSettings(dataset_dir=Path("d"), max_steps=5, optimizer="adam")
    stage = StageSettings(max_steps=5, update=OptimizerSettings("adam"))
    assert flat == TrainSettings(data=DataSettings(dataset_dir=Path("d")), stage=stage)
    assert flat == TrainSettings(dataset_dir=Path("d"), stage=StageSettings(max_steps=7), max_steps=5, optimizer="adam")
    assert flat.stage.update.optimizer == "adam"
    assert dataclasses.replace(flat, max_steps=6).stage.max_steps == 6
    assert flat_values(flat)["max_steps"] == 5


def test_settings_are_frozen_compared_and_hashed():
    settings = TrainSettings(dataset_dir="d")
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.stage.max_steps = 5
    assert {settings, TrainSettings(dataset_dir=Path("d"))} == {settings}


def test_unknown_and_missing_names_are_pythons_own_mistakes():
    with pytest.raises(TypeError, match="batch_sise"):
        TrainSettings(dataset_dir="d", batch_sise=8)
    with pytest.raises(TypeError, match="dataset_dir"):
        ConvertSettings(seed=8)


def test_values_become_what_settings_hold():
    settings = TrainSettings(
        dataset_dir="d", batch_size=np.int64(8), learning_rate=1, trainable_scopes=["a", "b"], save_interval_seconds=5
    )
    assert settings.data.dataset_dir == Path("d")
    assert type(settings.stage.batch_size) is int
    assert type(settings.stage.schedule.learning_rate) is float
    assert settings.stage.trainable_scopes == ("a", "b")


def test_each_optimizer_has_slims_epsilon_but_for_adam():
    epsilons = {name: OptimizerSettings(name).epsilon for name in ("rmsprop", "adadelta", "adam")}
    assert epsilons == {"rmsprop": 1.0, "adadelta": 1.0, "adam": 1e-8}
    assert OptimizerSettings("adam", opt_epsilon=0.1).epsilon == 0.1


def test_the_settings_of_an_old_run_are_read_and_written_as_they_were():
    path = ROOT / "tests/reference/config_of_an_old_run.toml"
    values = read_toml(TrainSettings, path)
    settings = TrainSettings(**values)
    assert settings.network.exclude_scopes == settings.stage.trainable_scopes == ("LeNet/fc4",)
    assert settings.stage.moving_average_decay == 0.9
    written = to_toml_table(settings)
    assert {name: written[name] for name in values} == {
        name: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
    }
    # What is newer than the run has the value that says what was done then.
    newer = {name: written[name] for name in written.keys() - values.keys()}
    assert newer == {
        "worker_replicas": 1,
        "sync_batch_norm": False,
        "best_by": "accuracy",
        "track": "none",
        "task": "single-label",
        "positive_weights": [],
        "head": "linear",
        "head_dropout": 0.0,
        "deterministic": False,
        "early_stopping_min_delta": 0.0,
        "scale_learning_rate": "none",
        "on_divergence": "stop",
        "probe": False,
        "on_corrupt": "fail",
        "accumulate_steps": 1,
        "recompute_activations": False,
        "layer_decay": 1.0,
        "recalibrate_batch_norm": 0,
        "learning_rate_boundaries": [],
        "learning_rate_values": [],
        "lion_beta1": 0.9,
        "rmsprop_initial_accumulator_value": 1.0,
        "lion_beta2": 0.99,
        "crop_area": [],
        "randaugment": [],
        "random_erasing": 0.0,
        "loss": "cross-entropy",
        "focal_gamma": 2.0,
        "class_weights": [],
        "balanced_sampling": False,
        "mixup": 0.0,
        "cutmix": 0.0,
        "pseudo_label_fraction": 0.25,
        "pseudo_label_refresh": 100,
        "pseudo_label_threshold": "0.95",
    }


def test_each_flag_stands_in_one_group():
    names = [flag.name for flag in flags_of(TrainSettings)]
    assert len(names) == len(set(names))


def test_no_library_function_takes_the_settings_of_a_whole_training():
    taken = []
    for path in (ROOT / "finetune").rglob("*.py"):
        if path.parent == ROOT / "finetune/commands":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.arg) and node.annotation and "TrainSettings" in ast.unparse(node.annotation):
                taken.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.arg}")
    assert taken == []
