"""The probe: a run that begins with the head's optimum, or is nothing else; and the head's own weight decay."""

import json
import re
import shutil
import tomllib

import numpy as np
import pytest
import tensorflow as tf
from test_commands import write_colour_folders
from tiny_runs import CLASSES, write_records, write_run

from finetune.api import evaluate
from finetune.commands import convert, train
from finetune.errors import UserError
from finetune.model.checkpoint import Checkpoint
from finetune.model.model import Model, Outputs, variable_name
from finetune.nets import get_spec
from finetune.settings.evaluate import EvalSettings
from finetune.settings.stage import StageSettings
from finetune.training.head_decay import decayed_variables
from finetune.training.losses import TrainingLoss
from finetune.training.optimizers import decoupled_decays

HEADS = {"cifarnet": "CifarNet/logits", "lenet": "LeNet/fc4"}
# In CifarNet a layer lies between dropout and the head: the features that are cached aren't those in front of the head.
MODEL = "cifarnet"
PROBE = ["--probe", "--batch-size=8", "--log-every=1", "--optimizer=adam", "--learning-rate=0.001"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    images = write_colour_folders(folder / "images")
    words = [f"--images-dir={images}", f"--dataset-dir={folder / 'records'}", "--dataset-name=colours", "--workers=1"]
    assert convert.main([*words, "--validation-fraction=0.25"]) == 0
    for model in HEADS:
        write_run(folder / model, model=model)
    return folder


def flags(data, model=MODEL):
    return [
        f"--dataset-dir={data / 'records'}",
        f"--model={model}",
        f"--checkpoint={data / model}",
        f"--exclude-scopes={HEADS[model]}",
        "--cache-features=2",
    ]


def make_run(data, run, *words, model=MODEL):
    return train.main([*flags(data, model), f"--train-dir={run}", f"--trainable-scopes={HEADS[model]}", *PROBE, *words])


@pytest.fixture(scope="module")
def probed(data):
    """A run that is a probe and nothing else."""
    assert make_run(data, data / "probed", "--max-steps=0") == 0
    return data / "probed"


def values_of(run, step):
    checkpoint = Checkpoint(str(run / f"model.ckpt-{step}"))
    return {name: checkpoint.read(name) for name in checkpoint.shapes}


def check_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


def settings_of(run):
    return tomllib.loads((run / "config.toml").read_text())


def lines_of(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]


def test_a_probe_alone_is_a_run_of_no_steps(data, probed):
    best = json.loads((probed / "best.json").read_text())
    assert (best["checkpoint"], best["step"]) == ("model.ckpt-0", 0)
    assert best["accuracy"] >= 0.75
    (line,) = lines_of(probed)
    assert (line["step"], line["split"], line["accuracy"]) == (0, "validation", best["accuracy"])
    before, after = values_of(data / MODEL, 7), values_of(probed, 0)
    for name in before.keys() - {"global_step"}:
        is_of_head = name.startswith(f"{HEADS[MODEL]}/")
        assert np.array_equal(before[name], after[name]) != is_of_head, name
    assert after["global_step"] == 0
    settings = settings_of(probed)
    assert settings["probe"] is True
    assert isinstance(settings["head_weight_decay"], float)


@pytest.mark.slow  # Networks of the size that they have.
@pytest.mark.parametrize(
    ("model", "size"),
    [("vgg_a", 64), ("mobilenet_v3_small", 64)],
)
def test_heads_of_other_kinds(data, tmp_path, capsys, model, size):
    """With an auxiliary head, with dropout farther in front, over several positions, behind a layer."""
    weights, run = tmp_path / "weights", tmp_path / "run"
    write_run(weights, model, image_size=size)
    scopes = ",".join(get_spec(model).head_scopes)
    words = [f"--model={model}", f"--image-size={size}", f"--dataset-dir={data / 'records'}", "--precision=float32"]
    words += [f"--checkpoint={weights}", f"--trainable-scopes={scopes}", "--probe", "--augmentation=none"]
    assert train.main([*words, f"--train-dir={run}", "--head-weight-decay=1", "--max-steps=0"]) == 0
    told = float(re.search(r"cross-entropy (\S+) on the training images", capsys.readouterr().err)[1])
    settings = EvalSettings(checkpoint=(run,), dataset_dir=data / "records", split="train")
    assert evaluate(settings).scores.loss == pytest.approx(told, rel=5e-3, abs=1e-3)


@pytest.mark.parametrize("model", HEADS)
def test_the_loss_that_is_told_is_that_of_an_evaluation(data, tmp_path, capsys, model):
    """By other ways to the same figure: of the features by NumPy, and of the images by the network."""
    words = ["--max-steps=0", "--augmentation=none", "--cache-features=1", "--head-weight-decay=1"]
    assert make_run(data, tmp_path / "run", *words, model=model) == 0
    told = float(re.search(r"cross-entropy (\S+) on the training images", capsys.readouterr().err)[1])
    settings = EvalSettings(checkpoint=(tmp_path / "run",), dataset_dir=data / "records", split="train")
    assert evaluate(settings).scores.loss == pytest.approx(told, rel=1e-3, abs=1e-4)


def test_two_probes_are_equal_to_the_bit(data, probed, tmp_path):
    assert make_run(data, tmp_path / "again", "--max-steps=0") == 0
    check_equal(values_of(tmp_path / "again", 0), values_of(probed, 0))


def test_a_probe_that_is_trained_on_is_a_run_that_was_begun_with_one(data, probed, tmp_path, capsys):
    assert make_run(data, tmp_path / "whole", "--max-steps=6", "--eval-every=2") == 0
    broken = shutil.copytree(probed, tmp_path / "broken")
    for last in (3, 6):
        words = ["--resume", f"--train-dir={broken}", f"--max-steps={last}", "--eval-every=2"]
        assert train.main(words) == 0
    check_equal(values_of(broken, 6), values_of(tmp_path / "whole", 6))
    whole = lines_of(tmp_path / "whole")
    assert [line for line in lines_of(broken) if line in whole] == whole
    assert whole[0]["step"] == 0
    for name in ("whole", "broken"):
        assert train.main(["--resume", "--verify", f"--train-dir={tmp_path / name}"]) == 0
    assert capsys.readouterr().out.count("proven: steps") == 2


def test_a_probe_is_made_again_where_steps_are_proven_from_the_start(data, tmp_path, capsys):
    run = tmp_path / "run"
    assert make_run(data, run, "--max-steps=3", "--eval-every=0") == 0
    for path in run.glob("model.ckpt-0.*"):
        path.unlink()
    assert train.main(["--resume", "--verify", f"--train-dir={run}"]) == 0
    assert "proven: steps 1 to 3" in capsys.readouterr().out


def test_all_of_the_network_is_trained_from_a_probe(data, probed, tmp_path):
    words = [f"--dataset-dir={data / 'records'}", f"--train-dir={tmp_path}", f"--model={MODEL}", "--max-steps=1"]
    assert train.main([*words, f"--checkpoint={probed}", "--learning-rate=1e-9", "--batch-size=8"]) == 0
    kernel = f"{HEADS[MODEL]}/weights"
    np.testing.assert_allclose(values_of(tmp_path, 1)[kernel], values_of(probed, 0)[kernel], atol=1e-5)


def test_averages_begin_at_the_probe(data, tmp_path):
    assert make_run(data, tmp_path / "run", "--max-steps=0", "--moving-average-decay=0.9") == 0
    values = values_of(tmp_path / "run", 0)
    for name in (f"{HEADS[MODEL]}/weights", f"{HEADS[MODEL]}/biases"):
        np.testing.assert_array_equal(values[f"{name}/ExponentialMovingAverage"], values[name])


def test_targets_of_a_probe_are_smoothed(data, probed, tmp_path):
    words = ["--max-steps=0", "--label-smoothing=0.5", "--head-weight-decay=1e-6"]
    assert make_run(data, tmp_path / "run", *words) == 0
    settings = EvalSettings(checkpoint=(tmp_path / "run",), dataset_dir=data / "records", split="train")
    # The wanted probability of the own class of three is two thirds.
    assert evaluate(settings).scores.loss == pytest.approx(-np.log(2 / 3), abs=0.1)


def test_the_decay_is_chosen_for_steps_too(data, tmp_path, capsys):
    """For AdamW it is in the optimizer, which is made before it is known; and no other value changes."""
    words = [*flags(data), f"--trainable-scopes={HEADS[MODEL]}", "--max-steps=2", "--batch-size=8", "--optimizer=adamw"]
    assert train.main([*words, f"--train-dir={tmp_path / 'auto'}", "--head-weight-decay=auto"]) == 0
    decay = settings_of(tmp_path / "auto")["head_weight_decay"]
    assert f"weight decay {decay:g} by cross-validation over" in capsys.readouterr().err
    assert train.main([*words, f"--train-dir={tmp_path / 'given'}", f"--head-weight-decay={decay}"]) == 0
    check_equal(values_of(tmp_path / "auto", 2), values_of(tmp_path / "given", 2))
    assert train.main([*words, f"--train-dir={tmp_path / 'other'}", "--head-weight-decay=100"]) == 0
    kernel = f"{HEADS[MODEL]}/weights"
    assert (values_of(tmp_path / "other", 2)[kernel] != values_of(tmp_path / "given", 2)[kernel]).any()
    assert train.main(["--resume", f"--train-dir={tmp_path / 'auto'}", "--max-steps=3"]) == 0
    assert "by cross-validation over" not in capsys.readouterr().err


SCOPES = "--trainable-scopes=CifarNet/logits"


@pytest.mark.parametrize(
    ("words", "message", "mend"),
    [
        (["--probe"], "nothing is frozen", ["--trainable-scopes", "CifarNet/logits"]),
        (
            ["--probe", "--trainable-scopes=CifarNet/fc4,CifarNet/logits"],
            "CifarNet/fc4/weights",
            ["--trainable-scopes", "CifarNet/logits"],
        ),
        (["--probe", SCOPES, "--cache-features=off"], "--cache-features is off", ["--cache-features", "auto"]),
        (["--probe", SCOPES, "--num-clones=2"], "several devices train", ["--num-clones", "1"]),
        (
            ["--head-weight-decay=auto", SCOPES, "--batch-norm=slim", "--cache-features=off"],
            "slim's batch norm makes every layer depend on the batch and --cache-features is off",
            ["--batch-norm", "plan", "--cache-features", "auto"],
        ),
        ([SCOPES, "--max-steps=0"], "--max-steps is 0, but must be above 0", ["--probe"]),
    ],
    ids=str,
)
def test_what_stands_in_the_way_is_told_and_the_advice_mends_it(data, tmp_path, capsys, words, message, mend):
    run = tmp_path / "run"
    every = [*flags(data), f"--train-dir={run}", "--batch-size=4", "--max-steps=1", *words]
    mended = [word for word in every if word.partition("=")[0] not in mend]
    assert train.main(every) == 2
    told = capsys.readouterr().err
    assert message in told
    assert " ".join(mend) in told
    assert not (run / "model.ckpt-0.index").exists()
    assert train.main([*mended, *mend]) == 0


def test_a_choice_is_not_made_anew_where_a_run_goes_on(probed, capsys):
    assert train.main(["--resume", f"--train-dir={probed}", "--head-weight-decay=auto"]) == 2
    assert "Give a number." in capsys.readouterr().err


def make_uneven(folder, classes, num_images):
    write_records(folder, classes=classes, num_images=num_images, split="train", names=CLASSES)
    return write_run(folder / "weights")


def run_uneven(folder, *words):
    return train.main(
        [
            f"--dataset-dir={folder}",
            f"--train-dir={folder / 'run'}",
            f"--checkpoint={folder / 'weights'}",
            f"--model={MODEL}",
            f"--trainable-scopes={HEADS[MODEL]}",
            "--batch-size=2",
            "--probe",
            "--max-steps=0",
            *words,
        ]
    )


def test_classes_of_one_image_and_of_none(tmp_path, capsys):
    make_uneven(tmp_path, (*7 * ["blue"], "green"), 8)
    assert run_uneven(tmp_path) == 0
    told = capsys.readouterr().err.splitlines()
    assert any("no training image" in line and "red" in line for line in told)
    assert any("never held out" in line and "green" in line for line in told)
    assert all(np.isfinite(value).all() for value in values_of(tmp_path / "run", 0).values())


def test_without_two_images_of_a_class_a_decay_is_given(tmp_path, capsys):
    make_uneven(tmp_path, CLASSES, 3)
    assert run_uneven(tmp_path) == 2
    assert "--head-weight-decay 0.001" in capsys.readouterr().err
    assert run_uneven(tmp_path, "--head-weight-decay", "0.001") == 0


def test_which_variables_have_which_decay():
    model = Model(get_spec("lenet"), 3, initialise=False)
    trained = list(model.model_variables.values())

    def names(stage):
        return [sorted(map(variable_name, group)) for group in decayed_variables(stage, model, trained)]

    kernels = [f"LeNet/{layer}/weights" for layer in ("conv1", "conv2", "fc3", "fc4")]
    assert names(StageSettings()) == [kernels, []]
    stage = StageSettings(head_weight_decay=0.5, weight_decay=0.25, optimizer="adamw")
    assert names(stage) == [kernels[:3], kernels[3:]]
    others, head = decayed_variables(stage, model, trained)
    assert decoupled_decays(stage, others, head) == {**dict.fromkeys(kernels[:3], 0.25), kernels[3]: 0.5}
    with pytest.raises(UserError, match="--trainable-scopes LeNet/fc4"):
        decayed_variables(stage, model, [model.model_variables["LeNet/fc3/weights"]])


def test_the_loss_has_the_heads_own_term():
    outputs = Outputs(tf.zeros([2, 4]), None, {})
    weight, kernel = tf.Variable([3.0]), tf.Variable([[1.0, 2.0]])
    loss = TrainingLoss(0.0, 0.1, [weight], 0.01, [kernel])(outputs, tf.constant([0, 1]))
    np.testing.assert_allclose(loss, [np.log(4), 0.1 * 9 / 2 + 0.01 * 5 / 2], rtol=1e-6)
