"""Batch norm in short runs: how far its moving statistics follow, what is taken anew, and what is said of both."""

import json
import logging
import tomllib

import numpy as np
import pytest
import tensorflow as tf
from normed_network import DECAY, MODEL, SPEC
from tiny_runs import write_records

from finetune.commands import train
from finetune.model.checkpoint import Checkpoint
from finetune.model.model import Model
from finetune.model.scopes import plan_variables
from finetune.settings.stage import OptimizerSettings, StageSettings
from finetune.training.batch_norm_decay import fitting_decay, resolve_decay, share_left, tell_statistics
from finetune.training.dead_channels import tell_dead_channels
from finetune.training.devices import choose_strategy
from finetune.training.image_inputs import TrainingInputs
from finetune.training.loss_gap import LossGap
from finetune.training.moving_averages import MovingAverages
from finetune.training.optimizers import Optimizer
from finetune.training.recalibration import Recalibration
from finetune.training.run_log import RunLog
from finetune.training.state import TrainingState

FIRST, SECOND = "Normed/conv1/BatchNorm", "Normed/conv2/BatchNorm"
STATISTICS = [f"{layer}/{name}" for layer in (FIRST, SECOND) for name in ("moving_mean", "moving_variance")]


def make_model(batch_norm="plan", scopes=(), restored=()):
    """The network and its plan; variables with names in `restored` count as a checkpoint's."""
    model = Model(SPEC, 3)
    shapes = {variable.name: variable.shape for variable in model.network_variables() if variable.name in restored}
    plan = plan_variables(
        model.network_variables(),
        checkpoint_shapes=shapes or None,
        exclude_scopes=[name for name in model.model_variables if name not in restored] if shapes else (),
        trainable_scopes=scopes,
    )
    model.freeze(plan, batch_norm)
    return model, plan


def batches_of(num_batches, batch_size=4, seed=0):
    random = np.random.default_rng(seed)
    return [random.normal(size=[batch_size, 16, 16, 3]).astype(np.float32) for _ in range(num_batches)]


def batch_statistics(values, images):
    """What training normalises both layers by, from kernels and parameters alone: by name, float64."""
    net, found = images.astype(np.float64), {}
    for scope in ("Normed/conv1", "Normed/conv2"):
        net = tf.nn.conv2d(net, values[f"{scope}/weights"].astype(np.float64), 2, "SAME").numpy()
        mean, variance = net.mean((0, 1, 2)), net.var((0, 1, 2))
        num_values = net[..., 0].size
        found[f"{scope}/BatchNorm/moving_mean"] = mean
        found[f"{scope}/BatchNorm/moving_variance"] = variance * num_values / (num_values - 1)
        gamma, beta = values[f"{scope}/BatchNorm/gamma"], values[f"{scope}/BatchNorm/beta"]
        net = np.maximum((net - mean) / np.sqrt(variance + 0.001) * gamma + beta, 0)
    return found


def mean_statistics(values, batches):
    each = [batch_statistics(values, images) for images in batches]
    return {name: np.mean([found[name] for found in each], axis=0) for name in each[0]}


def values_of(model):
    return {name: variable.numpy() for name, variable in model.model_variables.items()}


# The decay


@pytest.mark.parametrize(("given", "in_force"), [(None, DECAY), (0.5, 0.5), (0.0, 0.0)])
def test_after_some_steps_statistics_hold_the_share_of_their_beginning_that_is_said(given, in_force):
    model, _ = make_model()
    model.batch_norm_decay = given
    (images,) = batches_of(1)
    step = tf.function(lambda: model(images, is_training=True, seed=tf.zeros([3], tf.int32)).logits, autograph=False)
    ends = []
    for beginning in (0.0, 100.0):
        model.model_variables[STATISTICS[0]].assign(tf.fill([4], beginning))
        for _ in range(7):
            step()
        ends.append(model.model_variables[STATISTICS[0]].numpy())
    share = share_left(in_force, 7, StageSettings())
    np.testing.assert_allclose((ends[1] - ends[0]) / 100, share, rtol=1e-4, atol=1e-6)
    assert model.decays_of(model.updated_batch_norms()) == [in_force]


@pytest.mark.parametrize(
    ("own", "num_updates", "expected"),
    [
        (DECAY, 620, 0.919355),
        (DECAY, 10_000, 0.995),
        (DECAY, 10**6, DECAY),
        (0.997, 10**6, 0.997),
        (DECAY, 100, 0.9),
        (DECAY, 20, 0.778801),
        (DECAY, 1, 0.006738),
        (0.5, 10_000, 0.5),
    ],
)
def test_auto_fits_the_run(own, num_updates, expected):
    assert fitting_decay(own, num_updates) == expected


@pytest.mark.parametrize("num_steps", [500, 620, 5000, 100_000])
def test_by_auto_a_hundredth_of_the_beginning_is_left_when_a_tenth_of_the_run_is_over(num_steps):
    stage = StageSettings()
    decay = fitting_decay(DECAY, num_steps)
    assert share_left(decay, num_steps // 10, stage) < 0.01
    assert share_left(decay, num_steps, stage) < 1e-20


@pytest.mark.parametrize("num_steps", [1, 10, 47, 100])
def test_however_short_the_run_auto_leaves_a_hundredth_at_its_end(num_steps):
    assert share_left(fitting_decay(DECAY, num_steps), num_steps, StageSettings()) < 0.01


def test_auto_counts_passes_and_goes_without_an_end_by_the_networks_own(caplog):
    stage = StageSettings(batch_norm_decay="auto", accumulate_steps=2)
    assert resolve_decay(stage, [DECAY], 5000) == fitting_decay(DECAY, 10_000)
    assert resolve_decay(stage, [DECAY], None) is None
    assert "without --max-steps the network's own, 0.9997" in caplog.text
    assert resolve_decay(stage, [], 5000) is None
    assert "no layer's moving statistics are updated" in caplog.text
    assert resolve_decay(StageSettings(batch_norm_decay=0.3), [DECAY], 5000) == 0.3


# What is said before the first step


def said_of(caplog, *, num_steps=620, restored=True, batch_norm="plan", scopes=(), decay=None, **stage):
    model, _ = make_model(batch_norm, scopes, values_of(Model(SPEC, 3)))
    model.batch_norm_decay = decay
    caplog.clear()
    layers = [FIRST, SECOND] if restored else []
    tell_statistics(model, layers, StageSettings(batch_norm=batch_norm, **stage), num_steps)
    return [(record.levelname, record.getMessage()) for record in caplog.records]


@pytest.mark.parametrize("batch_norm", ["plan", "slim"])
def test_statistics_that_stay_behind_are_a_warning(caplog, batch_norm):
    ((level, line),) = said_of(caplog, batch_norm=batch_norm)
    assert level == "WARNING"
    assert (
        "after 620 steps the moving statistics of 2 layers still hold 83 % of the checkpoint's (decay 0.9997)" in line
    )
    assert line.endswith("--batch-norm-decay auto, --recalibrate-batch-norm 20 or --batch-norm frozen mends it.")


def test_slims_batch_norm_is_warned_of_though_all_but_the_head_is_frozen(caplog):
    said = said_of(caplog, batch_norm="slim", scopes=["Normed/logits"])
    assert "of 2 layers still hold 83 %" in said[0][1]
    assert said_of(caplog, scopes=["Normed/logits"]) == []


def test_from_scratch_the_share_is_of_initial_values_and_frozen_is_no_way_out(caplog):
    ((level, line),) = said_of(caplog, restored=False)
    assert level == "WARNING"
    assert "83 % of their initial mean 0 and variance 1" in line
    assert "--batch-norm frozen" not in line


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"decay": 0.9}, "after 620 steps the moving statistics of 2 layers hold less than 0.01 % of the checkpoint's"),
        ({"accumulate_steps": 20}, "hold 2.4 %"),
        ({"num_steps": None, "decay": 0.9}, "hold 10 % of the checkpoint's after 22 steps"),
        ({"recalibrate_batch_norm": 5}, "are taken anew over 5 batches before each validation and at the end"),
        ({"recalibrate_batch_norm": 5, "batch_norm": "frozen"}, "no layer's moving statistics are updated"),
        ({"decay": 0.0}, "hold less than 0.01 %"),
        ({"decay": 0.0, "num_steps": None}, "after 1 steps"),
    ],
)
def test_statistics_that_follow_are_told_of(caplog, given, expected):
    ((level, line),) = said_of(caplog, **given)
    assert level == "INFO"
    assert expected in line


def test_a_run_without_end_is_told_how_many_steps_it_takes(caplog):
    ((level, line),) = said_of(caplog, num_steps=None)
    assert level == "WARNING"
    assert "of 2 layers hold 10 % of the checkpoint's after 7,675 steps" in line
    assert "auto" not in line
    assert said_of(caplog, batch_norm="frozen", num_steps=None) == []


@pytest.mark.parametrize(("batch_norm", "scopes"), [("frozen", []), ("plan", []), ("plan", ["Normed/logits"])])
def test_dead_channels_are_told_of_where_they_are_trained_with_the_statistics_that_they_have(
    caplog, batch_norm, scopes
):
    model, plan = make_model(batch_norm, scopes, values_of(Model(SPEC, 3)))
    tell_dead_channels(model, plan)
    assert caplog.text == ""
    model.model_variables[f"{SECOND}/moving_variance"].assign([1, 0, 1e-7, 2, 0.0009, 0.002])
    tell_dead_channels(model, plan)
    told = "3 of 10 channels, in 1 of 2 layers, are dead in the checkpoint (variance below 0.001)"
    assert (told in caplog.text) == (batch_norm == "frozen")
    assert bool(caplog.text) == (batch_norm == "frozen")


# Statistics taken anew


def make_recalibration(model, plan, batches, *, num_batches, num_passes=1, decay=None):
    """As a run makes it, of the same batches in each step's place."""
    model.cumulative_share = tf.Variable(0.0, trainable=False)
    trained = [model.model_variables[variable.name] for variable in plan.trained]
    changing = {v.name: model.model_variables[v.name] for v in plan.variables if v.is_trained or v.is_statistic}
    averages = MovingAverages(changing, decay) if decay is not None else None
    state = TrainingState(model, Optimizer(OptimizerSettings(optimizer="sgd"), trained, {}), averages)
    inputs = TrainingInputs(
        forward=lambda images, seed: model(images, is_training=True, seed=seed),
        batches=lambda first_step: iter(batches[first_step:]),
        validate=None,
        eval_split="",
        batch_size=4,
    )
    return Recalibration(state, inputs, num_batches=num_batches, num_passes=num_passes), state


def assert_statistics(values, expected):
    for name, value in expected.items():
        np.testing.assert_allclose(values[name], value, rtol=2e-4, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("num_passes", [1, 2])
def test_they_are_the_mean_of_what_training_normalises_by(num_passes):
    model, plan = make_model()
    batches = batches_of(6)
    given = [np.concatenate(batches[at : at + num_passes]) for at in range(0, len(batches), num_passes)]
    recalibrate, _ = make_recalibration(
        model, plan, [(images, None, None) for images in given], num_batches=5, num_passes=num_passes
    )
    before = values_of(model)
    recalibrate()
    after = values_of(model)
    assert_statistics(after, mean_statistics(before, batches[:5]))
    for name in set(before) - set(STATISTICS):
        np.testing.assert_array_equal(after[name], before[name])
    # Nothing of what statistics were before is left, not even in last bits.
    for name in STATISTICS:
        model.model_variables[name].assign(model.model_variables[name] + 1234.5)
    recalibrate()
    for name in STATISTICS:
        np.testing.assert_array_equal(values_of(model)[name], after[name])


def test_frozen_layers_keep_theirs():
    model, plan = make_model(scopes=["Normed/conv2", "Normed/logits"], restored=values_of(Model(SPEC, 3)))
    for name in STATISTICS:
        model.model_variables[name].assign(model.model_variables[name] + 0.5)
    before = values_of(model)
    recalibrate, _ = make_recalibration(model, plan, [(b, None, None) for b in batches_of(3)], num_batches=3)
    recalibrate()
    after = values_of(model)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {f"{SECOND}/moving_mean", f"{SECOND}/moving_variance"}


def test_averaged_weights_get_statistics_of_their_own():
    model, plan = make_model()
    batches = batches_of(3)
    recalibrate, state = make_recalibration(
        model, plan, [(images, None, None) for images in batches], num_batches=3, decay=0.9
    )
    averages = state.averages
    for name in model.model_variables:
        if name.endswith("weights"):
            averages.shadows[name].assign(averages.shadows[name] * 0.5 + 0.01)
    plain = values_of(model)
    averaged = {name: shadow.numpy() for name, shadow in averages.shadows.items()}
    recalibrate()
    assert_statistics(values_of(model), mean_statistics(plain, batches))
    assert_statistics({n: s.numpy() for n, s in averages.shadows.items()}, mean_statistics(averaged, batches))
    for name in set(plain) - set(STATISTICS):
        np.testing.assert_array_equal(values_of(model)[name], plain[name])
        np.testing.assert_array_equal(averages.shadows[name].numpy(), averaged[name])


def test_several_devices_average_over_the_batches_of_all():
    batches = batches_of(4)
    strategy = choose_strategy(2, on_cpu=True)
    with strategy.scope():
        model, plan = make_model()
        dataset = tf.data.Dataset.from_tensor_slices(np.concatenate(batches)).batch(8)
        distributed = [(images, None, None) for images in strategy.experimental_distribute_dataset(dataset)]
        recalibrate, _ = make_recalibration(model, plan, distributed, num_batches=2)
        before = values_of(model)
        recalibrate()
        assert_statistics(values_of(model), mean_statistics(before, batches))


# Runs


def test_synced_statistics_are_those_of_one_device_with_all_images(data, pretrained, tmp_path, capsys):
    """Gradients through them, too; each device's own make other steps."""
    ways = {
        "one": ["--batch-size=8", "--sync-batch-norm"],
        "synced": ["--batch-size=4", "--num-clones=2", "--sync-batch-norm"],
        "own": ["--batch-size=4", "--num-clones=2"],
        "passes": ["--batch-size=2", "--num-clones=2", "--accumulate-steps=2", "--sync-batch-norm"],
    }
    steps = ["--max-steps=2", "--eval-every=0", "--optimizer=momentum", "--learning-rate=0.001"]
    for name, words in ways.items():
        assert start(data, tmp_path / name, f"--checkpoint={pretrained}", *steps, *words) == 0
    found = {name: arrays_of(tmp_path / name, 2) for name in ways}
    distances = {name: _distance(found["one"], found[name]) for name in ways}
    assert distances["synced"] < 1e-4
    assert distances["own"] > 100 * distances["synced"]
    assert distances["passes"] > 100 * distances["synced"]  # Each pass has its own images.
    assert "--sync-batch-norm: there is nothing to do for it, since one device trains." in capsys.readouterr().err


def _distance(these, others):
    """The largest difference of a statistic or a kernel, relative to its spread."""
    names = [name for name in these if name.endswith(("moving_mean", "moving_variance", "weights"))]
    return max(np.abs(these[name] - others[name]).max() / (np.ptp(these[name]) + 1e-6) for name in names)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_records(tmp_path_factory.mktemp("batch_norm") / "records", num_images=6)
    return write_records(folder, num_images=12, split="train")


def start(data, run, *words):
    settings = ["--batch-size=4", "--log-every=1", "--save-interval-seconds=0", "--optimizer=adam"]
    return train.main([f"--dataset-dir={data}", f"--train-dir={run}", f"--model={MODEL}", *settings, *words])


@pytest.fixture(scope="module")
def pretrained(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("batch_norm") / "pretrained"
    assert start(data, run, "--max-steps=3", "--eval-every=0", "--recalibrate-batch-norm=3") == 0
    return run


def arrays_of(run, step):
    checkpoint = Checkpoint(str(run / f"model.ckpt-{step}"))
    return {name: checkpoint.read(name) for name in checkpoint.shapes}


def metrics_of(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]


def recalibrations_of(run):
    return [line["step"] for line in metrics_of(run) if "batch_norm_batches" in line]


class KilledError(Exception):
    """In place of SIGKILL."""


# Each is four commands.
@pytest.mark.parametrize(
    "words",
    [
        ["--moving-average-decay=0.9"],
        pytest.param(["--num-clones=2", "--batch-size=2"], marks=pytest.mark.slow),
        pytest.param(
            ["--trainable-scopes=Normed/conv2,Normed/logits", "--cache-features=2", "--batch-norm-decay=auto"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_run_killed_after_a_validation_ends_as_an_unbroken_one(
    data, pretrained, tmp_path, monkeypatch, words, capsys
):
    words = [f"--checkpoint={pretrained}", "--recalibrate-batch-norm=4", "--eval-every=2", "--max-steps=5", *words]
    assert start(data, tmp_path / "whole", *words) == 0
    validation = RunLog.validation

    def killed(self, step, *figures, **options):
        validation(self, step, *figures, **options)
        if step == 4:
            raise KilledError

    monkeypatch.setattr(RunLog, "validation", killed)
    with pytest.raises(KilledError):
        start(data, tmp_path / "broken", *words)
    monkeypatch.undo()
    assert recalibrations_of(tmp_path / "broken") == [2, 4]
    assert not (tmp_path / "broken" / "model.ckpt-4.index").exists()
    resumed = [f"--train-dir={tmp_path / 'broken'}", "--resume", f"--model={MODEL}"]
    assert train.main(resumed) == 0
    whole, broken = arrays_of(tmp_path / "whole", 5), arrays_of(tmp_path / "broken", 5)
    assert whole.keys() == broken.keys()
    for name in whole:
        np.testing.assert_array_equal(broken[name], whole[name], err_msg=name)
    assert metrics_of(tmp_path / "broken") == metrics_of(tmp_path / "whole")
    assert train.main([*resumed, "--verify"]) == 0
    assert "proven" in capsys.readouterr().out
    if "--cache-features=2" in words:
        begun = Checkpoint(str(pretrained / "model.ckpt-3"))
        np.testing.assert_array_equal(whole[f"{FIRST}/moving_mean"], begun.read(f"{FIRST}/moving_mean"))


def test_training_itself_is_not_changed_and_what_is_made_again_is_recalibrated_too(data, pretrained, tmp_path, capsys):
    words = [f"--checkpoint={pretrained}", "--eval-every=2", "--max-steps=3", "--save-interval-seconds=600"]
    assert start(data, tmp_path / "plain", *words) == 0
    assert start(data, tmp_path / "anew", *words, "--recalibrate-batch-norm=3") == 0
    plain, anew = arrays_of(tmp_path / "plain", 3), arrays_of(tmp_path / "anew", 3)
    assert {name for name in plain if not np.array_equal(plain[name], anew[name])} == set(STATISTICS)
    resumed = ["--resume", f"--train-dir={tmp_path / 'anew'}", f"--model={MODEL}"]
    assert train.main([*resumed, "--max-steps=7", "--eval-every=5"]) == 0
    assert recalibrations_of(tmp_path / "anew") == [2, 3, 5, 7]
    (tmp_path / "anew" / "model.ckpt-5.index").unlink(missing_ok=True)
    assert train.main([*resumed, "--verify"]) == 0
    assert "proven: steps 4 to 7" in capsys.readouterr().out


def test_without_a_validation_split_they_are_taken_anew_at_the_end(tmp_path):
    alone = write_records(tmp_path / "records", num_images=8, split="train")
    assert start(alone, tmp_path / "run", "--max-steps=4", "--eval-every=2", "--recalibrate-batch-norm=3") == 0
    assert recalibrations_of(tmp_path / "run") == [4]
    variance = arrays_of(tmp_path / "run", 4)[f"{FIRST}/moving_variance"]
    assert (abs(variance - 1) > 0.01).all()  # By the decay all would be within 0.002.


def test_auto_is_recorded_as_a_number_and_holds_for_a_longer_run(data, pretrained, tmp_path, capsys):
    words = [f"--checkpoint={pretrained}", "--eval-every=0", "--max-steps=4", "--batch-norm-decay=auto"]
    assert start(data, tmp_path / "run", *words) == 0
    assert "--batch-norm-decay auto: 0.286505 for 4 steps; the network's own is 0.9997" in capsys.readouterr().err
    assert tomllib.loads((tmp_path / "run" / "config.toml").read_text())["batch_norm_decay"] == 0.286505
    assert train.main([f"--train-dir={tmp_path / 'run'}", "--resume", f"--model={MODEL}", "--max-steps=900"]) == 0
    assert "after 900 steps the moving statistics of 2 layers hold less than 0.01 %" in capsys.readouterr().err


def test_a_resumed_run_began_where_it_began(data, pretrained, tmp_path, capsys):
    assert start(data, tmp_path / "run", "--max-steps=2", "--eval-every=0") == 0
    assert train.main([f"--train-dir={tmp_path / 'run'}", "--resume", f"--model={MODEL}", "--max-steps=3"]) == 0
    said = "after 3 steps the moving statistics of 2 layers still hold 100 % of their initial mean 0 and variance 1"
    assert said in capsys.readouterr().err


TRAINED_BY_HEART = ["--eval-split=train", "--augmentation=none", "--max-steps=60", "--eval-every=0"]


def test_a_trained_network_is_wrong_on_its_own_images_unless_its_statistics_follow(data, pretrained, tmp_path, capsys):
    words = [f"--checkpoint={pretrained}", *TRAINED_BY_HEART, "--batch-size=12", "--learning-rate=0.3"]
    losses = {}
    for name, more in {
        "left": [],
        "anew": ["--recalibrate-batch-norm=2"],
        "auto": ["--batch-norm-decay=auto", "--learning-rate-decay-type=cosine", "--end-learning-rate=0"],
    }.items():
        assert start(data, tmp_path / name, *words, *more) == 0
        losses[name] = next(line["loss"] for line in metrics_of(tmp_path / name) if "split" in line)
        said = capsys.readouterr().err
        assert ("of pure chance, where the training's cross-entropy" in said) == (name == "left")
        assert ("while the weights move on" in said) == (name == "left")
    assert losses["anew"] < 0.2
    assert losses["auto"] < 0.2
    assert losses["left"] > 5


# Losses that part


@pytest.mark.parametrize(
    ("training", "validation", "is_told"),
    [(0.1, 37.5, True), (0.1, 1.9, False), (0.001, 0.6, False), (0.004, 1.15, True)],
)
def test_parted_losses_are_told_once(caplog, training, validation, is_told):
    gap = LossGap(has_stale_statistics=True)
    gap.compare(5, validation, 2)
    assert not caplog.records
    gap.note([training] * 60)
    for step in (10, 20):
        gap.compare(step, validation, 2)
    assert len(caplog.records) == is_told
    if is_told:
        assert caplog.records[0].levelno == logging.WARNING
        assert "--recalibrate-batch-norm 20" in caplog.text
        assert f"loss is {validation}, above the 0.6931 of pure chance" in caplog.text
        assert f"of the last 50 steps is {training}" in caplog.text


def test_where_statistics_follow_parted_losses_are_overfitting(caplog):
    gap = LossGap(has_stale_statistics=False)
    gap.note([1.0, 0.01, 0.01] * 30)
    gap.note([np.nan, np.inf])
    gap.compare(5, 5.0, 2)
    assert caplog.text == ""
    gap.compare(10, 50.0, 2)
    assert "--weight-decay" in caplog.text
    assert "batch" not in caplog.text
