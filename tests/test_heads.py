"""Heads in the place of a network's own: what is asked for, what they compute, and a run that has one."""

import dataclasses
import json
import tomllib

import normed_network
import numpy as np
import pytest
import tensorflow as tf
from reference_networks import ONE_OF_EACH_FUNCTION, ReferenceModel, load_reference, quick_weight, reference_images
from tiny_runs import CLASSES, write_run

from finetune.commands import evaluate, export, import_weights, inspect, predict, train
from finetune.errors import UserError
from finetune.model.checkpoint import Checkpoint, open_checkpoint
from finetune.model.depth import scopes_of_layers
from finetune.model.model import Model
from finetune.model.recognise import describe_variables, recognise
from finetune.model.scopes import in_any_scope, plan_variables
from finetune.nets import get_spec, spec_of
from finetune.nets.heads import Head, flags_for_head_in, head_in, head_of, with_head
from finetune.settings.evaluate import EvalSettings
from finetune.settings.head import HeadSettings
from finetune.settings.stage import StageSettings
from finetune.settings.train import NetworkSettings, TrainSettings
from finetune.training.head_decay import decayed_variables
from finetune.training.multipliers import rate_multipliers
from finetune.trunk.split_model import SplitModel

MODEL = "cifarnet"
MLP = ("--head=mlp:5,4", "--head-dropout=0.3", "--head-pooling=concat")
SETTINGS = {"head": "mlp:5,4", "head_dropout": 0.3, "head_pooling": "concat"}


@pytest.mark.parametrize(
    ("settings", "head"),
    [
        ({}, None),
        ({"head": "linear"}, None),
        ({"head": "mlp:512,256"}, Head((512, 256))),
        ({"head": "mlp:7", "head_dropout": 0.5, "head_pooling": "max"}, Head((7,), 0.5, "max")),
        ({"head_pooling": "avg"}, Head()),
        ({"head_dropout": 0.25}, Head(dropout=0.25)),
    ],
)
def test_heads_by_their_flags(settings, head):
    assert head_of(HeadSettings(**settings)) == head


@pytest.mark.parametrize("text", ["", "mlp", "mlp:", "mlp:0", "mlp:-1", "mlp:a", "mlp:4,", "mlp:4;4", "mlp: 4", "cnn"])
def test_other_descriptions_are_refused(text):
    for make in (HeadSettings, lambda head: EvalSettings(dataset_dir="d", head=head)):
        with pytest.raises(UserError, match=r"^--head is '.*', but must be linear, or mlp: .*\n?.*mlp:512,256"):
            make(head=text)


@pytest.mark.parametrize("name", ONE_OF_EACH_FUNCTION)
def test_a_network_has_its_body_and_the_head_alone(name):
    """No variable of its own head, of what lies between that and the last feature map, or of an auxiliary head."""
    own, reference = get_spec(name), load_reference(name)
    spec = with_head(own, Head((3,), 0.5, "concat"))
    found = {variable.name: list(variable.shape) for variable in describe_variables(spec, 2)}
    replaced = [scope for group in own.layer_groups[-own.num_top_groups :] for scope in group]
    assert set(own.head_scopes) <= set(replaced)
    shapes = reference["trainable"] | reference["non_trainable"]
    assert {n: shape for n, shape in found.items() if not in_any_scope(n, spec.head_scopes)} == {
        n: shape for n, shape in shapes.items() if not in_any_scope(n, replaced)
    }
    head = {n: shape for n, shape in found.items() if in_any_scope(n, spec.head_scopes)}
    depth = head.pop("head/hidden_1/weights")[0]
    assert depth % 2 == 0
    assert head == {"head/hidden_1/biases": [3], "head/logits/weights": [3, 2], "head/logits/biases": [2]}
    for n in found:
        assert sum(in_any_scope(n, group) for group in spec.layer_groups) == 1, n
    assert scopes_of_layers(spec, "head") == scopes_of_layers(spec, "last=1") == ("head",)


def test_a_checkpoint_with_another_head_is_recognised():
    spec = with_head(get_spec("vgg_a"), Head((3,), 0.5, "concat"))
    likeness = recognise({variable.name: variable.shape for variable in describe_variables(spec, 2)})
    assert (likeness.spec.name, likeness.num_classes, likeness.head) == ("vgg_a", 2, "mlp:3")


@pytest.mark.parametrize("pooling", ["avg", "max", "concat"])
@pytest.mark.parametrize("sizes", [(), (5, 4)])
def test_logits_are_those_of_the_formula(pooling, sizes):
    model = ReferenceModel(with_head(get_spec(MODEL), Head(sizes, 0.5, pooling)), 3, weight=quick_weight)
    values = {name: variable.numpy() for name, variable in model.model_variables.items()}

    def run(images):
        outputs = model(images, is_training=False)
        return outputs.logits, outputs.end_points["pool2"]

    found, feature_map = (value.numpy() for value in tf.function(run, autograph=False)(reference_images(32, 3)))
    parts = {"avg": [np.mean], "max": [np.max], "concat": [np.mean, np.max]}[pooling]
    net = np.concatenate([part(feature_map, axis=(1, 2)) for part in parts], axis=-1)
    for number in range(1, len(sizes) + 1):
        scope = f"head/hidden_{number}"
        net = np.maximum(net @ values[f"{scope}/weights"] + values[f"{scope}/biases"], 0)
    logits = net @ values["head/logits/weights"] + values["head/logits/biases"]
    np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-4)


def test_dropout_drops_before_each_dense_layer_in_training_alone():
    model = ReferenceModel(with_head(get_spec(MODEL), Head((400,), 0.25)), 3, weight=quick_weight)
    images = reference_images(32, 3)

    def hidden(is_training, seed):
        def run(seed):
            outputs = model(images, is_training=is_training, seed=seed)
            return outputs.end_points["head/hidden_1"], outputs.logits

        return [value.numpy() for value in tf.function(run, autograph=False)(tf.constant(seed))]

    quiet, first, other = hidden(False, [1, 2]), hidden(True, [1, 2]), hidden(True, [3, 4])
    for ours, theirs in ((quiet, first), (first, other)):
        assert not np.allclose(ours[0], theirs[0])
        assert not np.allclose(ours[1], theirs[1])
    np.testing.assert_array_equal(hidden(True, [1, 2])[1], first[1])
    np.testing.assert_array_equal(hidden(False, [3, 4])[1], quiet[1])


@pytest.mark.parametrize("pooling", ["avg", "max", "concat"])
def test_features_are_pooled_and_the_head_on_them_is_the_network(pooling):
    """Dropout, in front of the first dense layer too, lies behind what is computed once."""
    model = ReferenceModel(with_head(get_spec(MODEL), Head((5,), 0.5, pooling)), 3, weight=quick_weight)
    plan = head_plan(model)
    split = SplitModel(model, plan, is_training=True)
    images, seed = tf.constant(reference_images(32, 3)), tf.constant([1, 2, 0])
    features = tf.function(split.trunk, autograph=False)(images)
    assert sum(value.shape.num_elements() for value in features) == 2 * 64 * (2 if pooling == "concat" else 1)
    parts = tf.function(lambda *values: split.head(list(values), seed).logits, autograph=False)(*features)
    whole = tf.function(lambda images, seed: model(images, is_training=True, seed=seed).logits, autograph=False)
    np.testing.assert_array_equal(parts, whole(images, seed))


def head_plan(model):
    shapes = {name: tuple(variable.shape) for name, variable in model.model_variables.items()}
    plan = plan_variables(model.network_variables(), checkpoint_shapes=shapes, trainable_scopes=["head"])
    model.freeze(plan)
    return plan


def test_decay_is_of_kernels_and_the_heads_own_of_the_logits_alone():
    """Though a hidden layer may have as many units as there are classes."""
    model = Model(with_head(get_spec(MODEL), Head((3,))), 3)
    kernels = {"head/hidden_1/weights", "head/logits/weights"}
    assert {name for name in model.decayed_names if name.startswith("head/")} == kernels
    head = [variable for name, variable in model.model_variables.items() if name.startswith("head/")]
    others, own = decayed_variables(StageSettings(head_weight_decay=0.1), model, head)
    assert [variable.name for variable in others] == ["head/hidden_1/weights:0"]
    assert [variable.name for variable in own] == ["head/logits/weights:0"]


def test_rates_by_scope_and_by_depth():
    model = Model(with_head(get_spec(MODEL), Head((3,))), 3)
    shapes = {name: tuple(variable.shape) for name, variable in model.model_variables.items()}
    plan = plan_variables(model.network_variables(), checkpoint_shapes=shapes)
    schedule = StageSettings(layer_decay=0.5, learning_rate_multipliers=["head/logits=2"]).schedule
    rates = rate_multipliers(schedule, plan, model.spec.layer_groups)
    assert rates["head/logits/weights"] == 2 * rates["head/hidden_1/weights"] == 2
    assert rates["CifarNet/conv2/weights"] == 2 * rates["CifarNet/conv1/weights"] == 0.5


def test_a_network_that_takes_no_other_head_says_what_to_add():
    described = NetworkSettings(model="normed_network:SPEC", head="mlp:4")
    with pytest.raises(UserError, match=r"takes no other head .*\n?.*num_top_groups, .*num_classes is None"):
        spec_of(described)


def test_a_function_that_returns_no_map_is_refused(monkeypatch):
    monkeypatch.setattr(normed_network, "normed_network", lambda images, *_, **__: (tf.reduce_mean(images, [1, 2]), {}))
    spec = dataclasses.replace(normed_network.SPEC, num_top_groups=1)
    with pytest.raises(UserError, match=r"returned a tensor \(1, 3\) .*\n?.*it must return the map \[B,H,W,C\]"):
        Model(with_head(spec, Head((4,))), 2)


@pytest.mark.parametrize(
    ("there", "here", "words"),
    [
        (Head((5,)), Head((5,)), ""),
        (Head((5, 4)), Head((5,)), "--head mlp:5,4"),
        (Head(), Head((5,)), "--head linear"),
        (Head((5,), 0, "concat"), Head((5,)), "--head-pooling concat"),
        (Head((5,)), Head((4,), 0, "concat"), "--head mlp:5 --head-pooling avg or max, as it was trained"),
        (Head((5,)), None, "--head mlp:5 --head-pooling avg, max or concat, as it was trained"),
        (None, Head((5,)), "the network's own, without --head, --head-dropout and --head-pooling"),
        (None, None, ""),
    ],
)
def test_what_is_said_of_a_head_in_a_checkpoint(there, here, words):
    def shapes(head):
        return {v.name: v.shape for v in describe_variables(with_head(get_spec(MODEL), head), 3)}

    assert flags_for_head_in(shapes(there), shapes(here)) == words


def test_no_file_is_believed_to_hold_a_head_of_sound_shapes():
    odd = {"head/logits/weights": (), "head/hidden_1/biases": (), "head/hidden_99999/biases": (3,)}
    assert head_in(odd) == "linear"
    assert flags_for_head_in(odd, odd) == ""


def test_recipes_begin_with_steps_where_there_is_no_best_head():
    for recipe in ("last-blocks", "all", "discriminative", "gradual"):
        stages = TrainSettings(dataset_dir="d", recipe=recipe, head="mlp:4").course.stages
        assert stages[0].name == "head"
        assert not any(stage.own.get("probe") for stage in stages)
        assert TrainSettings(dataset_dir="d", recipe=recipe, head_pooling="max").course.stages[0].name == "probe"
    with pytest.raises(UserError, match=r"^--probe finds .* --head mlp:4 has many.*\n?.*--recipe head"):
        TrainSettings(dataset_dir="d", recipe="probe", head="mlp:4")
    with pytest.raises(UserError, match=r"^--head-weight-decay auto finds .*\n?.*Give a number"):
        TrainSettings(dataset_dir="d", head_weight_decay="auto", head="mlp:4")


@pytest.fixture(scope="module")
def trained(run, records, tmp_path_factory):
    """A run whose head alone was trained, on features in files."""
    folder = tmp_path_factory.mktemp("mlp") / "run"
    assert train_head(run, records, folder, *MLP) == 0
    return folder


def train_head(weights, records, folder, *words, exclude="auto"):
    data = [f"--dataset-dir={records}", f"--checkpoint={weights}", f"--train-dir={folder}", f"--model={MODEL}"]
    how = [
        f"--exclude-scopes={exclude}",
        "--trainable-layers=head",
        "--max-steps=4",
        "--batch-size=4",
        "--eval-every=0",
    ]
    return train.main([*data, *how, "--cache-features=1", "--cache-memory=0", "--learning-rate=0.001", *words])


def test_all_but_the_head_is_as_it_was_to_the_bit(run, trained):
    before, after = Checkpoint(str(run / "model.ckpt-7")), open_checkpoint(trained)
    body = {"CifarNet/conv1", "CifarNet/conv2"}
    names = [name for name in after.shapes if in_any_scope(name, body)]
    assert len(names) == 4
    for name in names:
        np.testing.assert_array_equal(before.read(name), after.read(name))
    assert not any(in_any_scope(name, ["CifarNet/fc3", "CifarNet/fc4", "CifarNet/logits"]) for name in after.shapes)
    assert head_in(after.shapes) == "mlp:5,4"


def test_a_run_goes_on_is_evaluated_predicted_with_and_exported_by_its_own_settings(trained, records, tmp_path, capsys):
    config = tomllib.loads((trained / "config.toml").read_text())
    assert {name: config[name] for name in SETTINGS} == SETTINGS
    assert train.main([f"--train-dir={trained}", "--resume", "--max-steps=6"]) == 0
    checkpoint, data = f"--checkpoint={trained}", f"--dataset-dir={records}"
    assert evaluate.main([checkpoint, data, "--no-report", *MLP]) == 0
    capsys.readouterr()
    assert predict.main([checkpoint, str(records / "images"), "--format=json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) > 0
    assert export.main([checkpoint, data, f"--output-dir={tmp_path / 'tflite'}", "--format=tflite"]) == 0
    assert export.main([checkpoint, data, f"--output-dir={tmp_path / 'served'}"]) == 0
    assert export.main([checkpoint, data, f"--output-dir={tmp_path / 'keras'}", "--format=keras-weights"]) == 2
    assert "--head mlp:5,4 --head-pooling concat, a head that no network of Keras has" in capsys.readouterr().err
    words = [str(tmp_path / "tflite/model_float32.tflite"), f"--model={MODEL}", f"--output={tmp_path / 'imported'}"]
    assert import_weights.main([*words, *MLP]) == 0
    back, weights = open_checkpoint(tmp_path / "imported"), open_checkpoint(trained)
    for name in back.shapes:
        np.testing.assert_array_equal(back.read(name), weights.read(name))


def test_another_head_is_refused_on_both_sides(run, trained, records, tmp_path, capsys):
    def refused(main, *words):
        assert main(list(words)) == 2
        return capsys.readouterr().err

    data, own, mlp = f"--dataset-dir={records}", f"--checkpoint={run}", f"--checkpoint={trained}"
    new = [data, f"--model={MODEL}", f"--train-dir={tmp_path / 'new'}", "--max-steps=1", "--batch-size=4"]
    assert "--exclude-scopes head" in refused(train.main, *new, own, "--head=mlp:4")
    error = refused(train.main, *new, mlp, "--head=mlp:4", "--head-pooling=concat")
    assert "It has another head: --head mlp:5,4. To initialise instead of restoring: --exclude-scopes head" in error
    assert "It has another head: --head mlp:5,4 --head-pooling" in refused(train.main, *new, mlp)
    resumed = [f"--train-dir={trained}", "--resume", "--max-steps=9"]
    assert "Resume with the run's own head (--head mlp:5,4)" in refused(train.main, *resumed, "--head=mlp:4")
    assert "--allow-changed head_dropout" in refused(train.main, *resumed, "--head-dropout=0")
    for flag in ("--head=linear", "--head-dropout=0", "--head-pooling=avg"):
        assert f"Leave out {flag.partition('=')[0]}: a run's own" in refused(evaluate.main, mlp, data, flag)
    assert "was trained with no --head-pooling" in refused(evaluate.main, own, data, "--head-pooling=avg")
    assert not (tmp_path / "new").exists()


def test_a_run_is_gone_on_with_under_the_same_hidden_layers(trained, records, tmp_path):
    """Whole, or with new logits."""
    weights = open_checkpoint(trained)
    for scopes, names in (("auto", ["hidden_1", "hidden_2", "logits"]), ("head/logits", ["hidden_1", "hidden_2"])):
        folder = tmp_path / scopes
        words = [*MLP, "--learning-rate=1e-30", "--max-steps=1"]
        assert train_head(trained, records, folder, *words, exclude=scopes) == 0
        after = open_checkpoint(folder)
        same = [
            name
            for name in ("hidden_1", "hidden_2", "logits")
            if np.array_equal(after.read(f"head/{name}/weights"), weights.read(f"head/{name}/weights"))
        ]
        assert same == names


def test_a_checkpoint_of_no_run_needs_the_flags(tmp_path, records, capsys):
    folder = write_run(tmp_path / "run", MODEL, **SETTINGS)
    (folder / "config.toml").unlink()
    words = [f"--checkpoint={folder}", str(records / "images"), "--format=json"]
    for wrong, mend in (
        ([], "--head mlp:5,4 --head-pooling avg, max or concat"),
        (["--head=mlp:5,4"], "--head-pooling concat"),
        (["--head=mlp:5", "--head-pooling=concat"], "--head mlp:5,4"),
    ):
        assert predict.main([*words, *wrong]) == 2
        assert f"It has another head: {mend}" in capsys.readouterr().err
    assert predict.main([*words, *MLP]) == 0
    assert len(json.loads(capsys.readouterr().out)) > 0
    assert inspect.main([str(folder)]) == 0
    assert f"{MODEL}, {len(CLASSES)} classes, another head than its own, mlp:5,4" in capsys.readouterr().out
    assert inspect.main([str(folder), f"--model={MODEL}", "--trainable-scopes=head", *MLP]) == 0
    assert "head/hidden_2/biases" in capsys.readouterr().out


def test_a_head_that_a_settings_file_garbles_is_told(tmp_path, records, capsys):
    folder = write_run(tmp_path / "run", MODEL)
    with (folder / "config.toml").open("a") as file:
        file.write('\nhead = "mlp:a"\n')
    assert predict.main([f"--checkpoint={folder}", str(records / "images")]) == 2
    assert "--head is 'mlp:a', but must be" in capsys.readouterr().err


def test_features_of_another_pooling_are_others(run, records, tmp_path):
    """Though the frozen weights are the same, and the shapes of the features."""
    keys = []
    for words in (["--head-pooling=max"], ["--head-pooling=avg"], ["--head=mlp:3", "--head-pooling=avg"]):
        folder = tmp_path / "-".join(words)
        assert train_head(run, records, folder, *words, "--max-steps=1") == 0
        files = (folder / "features").glob("*/features.json")
        keys.append({json.loads(path.read_text())["key"] for path in files})
    assert keys[0].isdisjoint(keys[1])
    assert keys[1] == keys[2]


def test_the_probe_finds_the_linear_head_of_any_pooling(run, records, tmp_path, capsys):
    words = ["--head-pooling=max", "--probe", "--max-steps=0"]
    assert train_head(run, records, tmp_path / "probed", *words) == 0
    assert head_in(open_checkpoint(tmp_path / "probed").shapes) == "linear"
