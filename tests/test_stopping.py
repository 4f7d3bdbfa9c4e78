"""When a training ends, which of its validations is the best, and what becomes of one that diverges."""

import json
import shutil
import types

import numpy as np
import pytest
from tiny_runs import write_records, write_run

from finetune.commands import evaluate, train
from finetune.errors import UserError
from finetune.evaluation.metrics import score_batch
from finetune.model.checkpoint import Checkpoint, checkpoints_by_step, delete_checkpoint, write_checkpoint
from finetune.runs.run_folder import RunFolder
from finetune.settings.stopping import StoppingSettings
from finetune.settings.train import TrainSettings
from finetune.training import divergence, loop, time_limit
from finetune.training.best import Best, find_best, read_validations
from finetune.training.divergence import read_rate_cuts
from finetune.training.early_stopping import ended_early
from finetune.training.loop import TrainingLoop
from finetune.training.schedules import CutSchedule, RateCut, Schedule
from finetune.training.step import TrainingStep
from finetune.training.time_limit import TimeLimit

NETWORK = ["--model=lenet", "--image-size=8", "--batch-size=4", "--optimizer=sgd", "--precision=float32"]
EVERY_STEP = ["--log-every=1", "--save-interval-seconds=0", "--max-to-keep=50"]
# The rate from the fifth step on is too high, as `diverging` has it.
STEEP = [
    "--learning-rate=0.01",
    "--learning-rate-decay-type=piecewise",
    "--learning-rate-boundaries=4",
    "--learning-rate-values=0.08",
    "--on-divergence=halve",
    "--eval-every=2",
]
AVERAGES = ["--moving-average-decay=0.9", "--max-steps=10"]
HIGHEST_RATE = 0.03


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_records(tmp_path_factory.mktemp("stopping") / "records", num_images=6)
    return write_records(folder, num_images=10, split="train")


def begin(data, run, *words):
    return train.main([f"--dataset-dir={data}", f"--train-dir={run}", *NETWORK, *words])


def resume(run, *words):
    return train.main(["--resume", f"--train-dir={run}", *words])


def killed_after(step, run, copy):
    """The run as a kill leaves it that came before the checkpoint of the next step was there."""
    shutil.copytree(run, copy)
    for prefix in checkpoints_by_step(copy):
        if int(prefix.rpartition("-")[2]) > step:
            delete_checkpoint(prefix)
    return copy


def steps_of(run):
    return [int(prefix.rpartition("-")[2]) for prefix in checkpoints_by_step(run)]


def rows(run, *, of_validation=None):
    lines = [{k: v for k, v in line.items() if k != "images_per_second"} for line in RunFolder(run).read_metrics()]
    return [line for line in lines if of_validation is None or ("split" in line) == of_validation]


def best_of(run):
    return json.loads((run / "best.json").read_text())


def values_at(run, step):
    checkpoint = Checkpoint(str(run / f"model.ckpt-{step}"))
    return {name: checkpoint.read(name).tobytes() for name in checkpoint.shapes}


def assert_same_run(run, unbroken):
    """Weights, slots, averages, figures and the best are the same to the bit."""
    last = steps_of(unbroken)[-1]
    assert steps_of(run)[-1] == last
    assert rows(run) == rows(unbroken)
    assert best_of(run) == best_of(unbroken)
    assert read_rate_cuts(RunFolder(run)) == read_rate_cuts(RunFolder(unbroken))
    for step in {last, best_of(unbroken)["step"]}:
        assert values_at(run, step) == values_at(unbroken, step)


def test_the_best_until_now_goes_with_its_rank(data, tmp_path, monkeypatch):
    """No more than `--max-to-keep` and the best are left, whether a run was broken off behind its last validation."""

    def improving(step, scores, *, is_extra=False):
        return Best(f"model.ckpt-{step}", step, step / 10, 1.0, is_extra=is_extra)

    monkeypatch.setattr(loop, "validated", improving)
    words = ["--max-to-keep=2", "--save-interval-seconds=0", "--eval-every=3", "--log-every=1", "--max-steps=6"]
    assert begin(data, tmp_path / "run", *words) == 0
    assert steps_of(tmp_path / "run") == [5, 6]
    listed = (tmp_path / "run/checkpoint").read_text()
    assert [step for step in range(7) if f"model.ckpt-{step}" in listed] == [5, 6]


# Early stopping


def validations(*accuracies, losses=None):
    losses = losses or [1.0] * len(accuracies)
    return [
        Best(f"model.ckpt-{step}", step, accuracy, loss, accuracy, None)
        for step, (accuracy, loss) in enumerate(zip(accuracies, losses, strict=True), start=1)
    ]


@pytest.mark.parametrize(
    ("accuracies", "options", "ends"),
    [
        ([0.5, 0.5], {"early_stopping_patience": 2}, False),
        ([0.5, 0.4, 0.5], {"early_stopping_patience": 2}, True),
        ([0.5, 0.4, 0.6], {"early_stopping_patience": 2}, False),
        ([0.5, 0.4, 0.6, 0.6, 0.6], {"early_stopping_patience": 2}, True),
        ([0.5, 0.55], {"early_stopping_patience": 1, "early_stopping_min_delta": 0.07}, True),
        ([0.5, 0.55, 0.6], {"early_stopping_patience": 2, "early_stopping_min_delta": 0.07}, False),
        ([0.5, 0.5, 0.5], {}, False),
        ([0.5, 0.5, 0.5], {"early_stopping_patience": 2, "best_by": "balanced_accuracy"}, True),
        ([0.5, 0.5, 0.5], {"early_stopping_patience": 2, "best_by": "f1"}, False),  # It isn't known.
        ([], {"early_stopping_patience": 1}, False),
    ],
)
def test_patience_counts_validations_that_better_nothing(accuracies, options, ends):
    recorded = validations(*accuracies)
    assert (ended_early(recorded, StoppingSettings(**options)) is not None) == ends


def test_patience_by_loss():
    stopping = StoppingSettings(early_stopping_patience=2, best_by="loss")
    falling = validations(0.5, 0.5, 0.5, losses=[3.0, 2.0, 1.0])
    assert ended_early(falling, stopping) is None
    why = ended_early(validations(0.5, 0.6, 0.7, losses=[1.0, 2.0, 3.0]), stopping)
    assert why == "2 validations in a row didn't better the loss 1.0000 of step 1"


@pytest.fixture(scope="module")
def patient(data, tmp_path_factory):
    """A run whose weights stay as they are, so that no validation is better than the first."""
    run = tmp_path_factory.mktemp("patience") / "run"
    words = ["--learning-rate=1e-30", "--eval-every=2", "--max-steps=20", "--early-stopping-patience=2"]
    assert begin(data, run, *words, *EVERY_STEP) == 0
    return run


def test_a_run_ends_early_and_stays_so_until_patience_is_larger(patient, tmp_path, capsys):
    assert steps_of(patient)[-1] == 6
    assert [line["step"] for line in rows(patient, of_validation=True)] == [2, 4, 6]
    assert best_of(patient)["step"] == 2
    run = shutil.copytree(patient, tmp_path / "run")
    assert resume(run) == 0
    printed = capsys.readouterr()
    assert "Early stopping after step 6: 2 validations in a row didn't better the accuracy" in printed.err
    assert "ended by --early-stopping-patience 2: --resume with a larger one goes on" in printed.out
    assert_same_run(run, patient)
    assert resume(run, "--early-stopping-patience=3") == 0
    assert steps_of(run)[-1] == 8


@pytest.mark.parametrize("step", [3, 5])
def test_a_run_that_is_killed_ends_early_where_the_unbroken_one_does(patient, tmp_path, step):
    run = killed_after(step, patient, tmp_path / "run")
    assert resume(run) == 0
    assert_same_run(run, patient)


def test_early_stopping_needs_validations(tmp_path, capsys):
    only_training = write_records(tmp_path / "records", num_images=8, split="train")
    assert begin(only_training, tmp_path / "run", "--max-steps=2", "--early-stopping-patience=1") == 2
    assert "has no split validation" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="--eval-every 0 makes none"):
        TrainSettings(dataset_dir="d", early_stopping_patience=1, eval_every=0)
    with pytest.raises(UserError, match="Give --early-stopping-patience"):
        TrainSettings(dataset_dir="d", early_stopping_min_delta=0.1)


# The best


def test_measures_are_those_of_an_evaluation():
    logits = np.float32([[5, 0, 0], [5, 0, 0], [0, 5, 0], [5, 0, 0]])
    measures = score_batch(logits, np.array([0, 0, 1, 1]), []).measures()
    assert measures["accuracy"] == measures["balanced_accuracy"] == 0.75
    assert measures["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert list(measures) == ["accuracy", "balanced_accuracy", "macro_f1", "loss"]


@pytest.fixture
def measured(tmp_path):
    """A run with a validation that is the best by each measure."""
    figures = [(0.9, 0.5, 0.5, 3.0), (0.5, 0.9, 0.5, 3.0), (0.5, 0.5, 0.9, 3.0), (0.5, 0.5, 0.5, 1.0)]
    run = RunFolder(tmp_path)
    for step, (accuracy, balanced, f1, loss) in enumerate(figures, start=1):
        write_checkpoint(tmp_path / f"model.ckpt-{step}", {"a": np.ones(1)})
        measures = {"accuracy": accuracy, "balanced_accuracy": balanced, "macro_f1": f1, "loss": loss}
        run.write_metrics(step, {"split": "validation", **measures})
    run.write_json("best.json", {"checkpoint": "model.ckpt-1", "step": 1, "accuracy": 0.9, "loss": 3.0})
    return run


@pytest.mark.parametrize(("best_by", "step"), [("accuracy", 1), ("balanced_accuracy", 2), ("f1", 3), ("loss", 4)])
def test_another_measure_finds_another_best_among_the_recorded_ones(measured, caplog, best_by, step):
    best = find_best(measured, 4, read_validations(measured, "validation", 0, 4), best_by)
    assert best.step == best_of(measured.path)["step"] == step
    assert f"model.ckpt-{step} is the best there is by {best_by}" in caplog.text
    assert find_best(measured, 4, read_validations(measured, "validation", 0, 4), best_by) == best
    assert len(caplog.records) == 1


def test_what_an_older_version_recorded_is_read_and_compared_by_what_it_holds(tmp_path, caplog):
    run = RunFolder(tmp_path)
    write_checkpoint(tmp_path / "model.ckpt-1", {"a": np.ones(1)})
    old = {"checkpoint": "model.ckpt-1", "step": 1, "accuracy": 0.9, "loss": 3.0}
    run.write_json("best.json", old)
    assert find_best(run, 1, [], "accuracy") == Best(**old)
    assert not caplog.text
    assert best_of(tmp_path) == old
    assert find_best(run, 1, [], "f1") is None
    assert "names model.ckpt-1, which has no known f1" in caplog.text
    assert not (tmp_path / "best.json").exists()


def test_of_two_equals_the_one_with_the_lower_loss_is_better():
    first, second = validations(0.5, 0.5, losses=[2.0, 1.0])
    assert second.is_better(first, "accuracy") and not first.is_better(second, "accuracy")
    assert not first.is_better(first, "accuracy")
    assert first.is_better(None, "accuracy") and not first.is_better(None, "f1")


def test_the_best_by_loss_and_the_plain_weights_beside_the_averages(data, tmp_path, capsys):
    run = tmp_path / "run"
    words = ["--learning-rate=0.05", "--moving-average-decay=0.9", "--eval-every=1", "--max-steps=6", "--best-by=loss"]
    assert begin(data, run, *words, *EVERY_STEP) == 0
    printed = capsys.readouterr()
    assert "validation accuracy of the best by loss" in printed.out
    assert printed.err.count("by the plain weights: accuracy") == 6
    validated = {line["step"]: line for line in rows(run, of_validation=True)}
    least = min(validated.values(), key=lambda line: line["loss"])
    assert best_of(run)["step"] == least["step"]
    for prefix, flag in (("", "--moving-average"), ("plain_", "--no-moving-average")):
        output = tmp_path / f"{prefix}eval"
        words = [f"--checkpoint={run}/model.ckpt-6", f"--dataset-dir={data}", f"--output-dir={output}", flag]
        assert evaluate.main([*words, "--no-report"]) == 0
        found = json.loads((output / "metrics.json").read_text())
        for name in ("accuracy", "balanced_accuracy", "macro_f1", "loss"):
            assert validated[6][prefix + name] == pytest.approx(found[name], rel=1e-5), prefix + name
    assert validated[6]["plain_loss"] != validated[6]["loss"]


# A time limit


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("20m", 1200), ("1h30m", 5400), ("1h1s", 3601), (None, None)]
)
def test_times_as_people_write_them(text, seconds):
    assert StoppingSettings(time_limit=text).time_limit_seconds == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "m", "20 m", "-5", "1.5h", "30m1h", "²", "9" * 5000])
def test_what_is_no_time(text, tmp_path, capsys):
    with pytest.raises(UserError, match=r"--time-limit is .* must be a time above 0, such as 20m"):
        StoppingSettings(time_limit=text)
    assert train.main([f"--dataset-dir={tmp_path}", f"--time-limit={text}"]) == 2


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """A call of steps takes 10 seconds, a validation 15."""
    clock = Clock()
    monkeypatch.setattr(time_limit, "time", clock)
    monkeypatch.setattr(train, "time", clock)
    make_steps, validate = TrainingLoop._make_steps, TrainingLoop._validate_and_keep_best

    def slow_steps(loop, batches):
        make_steps(loop, batches)
        clock.now += 10

    def slow_validation(loop, **options):
        scored = loop._inputs.validate

        def slow():
            clock.now += 15
            return scored()

        loop._inputs = types.SimpleNamespace(**{**vars(loop._inputs), "validate": slow})
        validate(loop, **options)
        loop._inputs.validate = scored

    monkeypatch.setattr(TrainingLoop, "_make_steps", slow_steps)
    monkeypatch.setattr(TrainingLoop, "_validate_and_keep_best", slow_validation)
    return clock


def test_a_limit_keeps_the_time_free_that_another_round_takes(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time_limit, "time", clock)
    limit, none = TimeLimit(100, clock.now), TimeLimit(None, clock.now)
    for what, seconds in (("steps", 40), ("steps", 10), ("validation", 20)):
        with limit.taking(what):
            clock.now += seconds
    assert clock.now == 1070
    assert not limit.is_up()  # 10 and 20 more.
    clock.now += 1
    assert limit.is_up()
    assert not none.is_up()


LIMITED = ["--learning-rate=0.05", "--eval-every=4", "--max-steps=8", "--moving-average-decay=0.9"]


def test_a_run_stopped_by_its_time_goes_on_as_if_it_had_not_been(data, tmp_path, capsys, clock):
    unbroken, run = tmp_path / "unbroken", tmp_path / "run"
    assert begin(data, unbroken, *LIMITED, *EVERY_STEP) == 0
    assert rows(unbroken)[-1]["step"] == 8
    capsys.readouterr()
    # 4 steps and a validation are 55 seconds, a step and another one 25.
    assert begin(data, run, *LIMITED, *EVERY_STEP, "--time-limit=1m31s") == 0
    printed = capsys.readouterr()
    assert f"stopped by --time-limit 1m31s. Go on by finetune-train --resume --train-dir {run}" in printed.out
    assert steps_of(run)[-1] == 6
    extra = rows(run, of_validation=True)[-1]
    assert (extra["step"], extra["is_extra"]) == (6, True)
    assert "time_limit" not in (run / "config.toml").read_text()
    # However short, a call makes a step.
    assert resume(run, "--time-limit=1") == 0
    assert steps_of(run)[-1] == 7
    assert [line["step"] for line in rows(run, of_validation=True)] == [4, 7]
    # As if the extra one had been the best.
    best = {**best_of(run), "checkpoint": "model.ckpt-7", "step": 7, "accuracy": 1.0, "is_extra": True}
    RunFolder(run).write_json("best.json", best)
    assert resume(run) == 0
    assert "model.ckpt-7 was validated when the time was up, outside of the schedule" in capsys.readouterr().err
    assert_same_run(run, unbroken)


def test_a_limit_from_python_tells_why_training_ended(data, tmp_path, clock):
    network = {"model": "lenet", "image_size": 8, "batch_size": 4, "max_steps": 3}
    result = train.train(TrainSettings(dataset_dir=data, train_dir=tmp_path / "run", time_limit="5s", **network))
    assert (result.step, result.best_step, result.ended_by) == (1, 1, "time")


# A guard against divergence


def make_diverge(patch):
    """Has the sixth step's loss be NaN, and the weights, where the rate is too high."""
    make, make_several = TrainingStep.__call__, TrainingStep.several

    def diverge(training_step, batch, step, learning_rate):
        if step == 5 and learning_rate > HIGHEST_RATE:
            return make(training_step, batch, step, float("nan")) * float("nan")
        return make(training_step, batch, step, learning_rate)

    def diverge_several(training_step, batches, first_step, learning_rates):
        sixth = dict(enumerate(learning_rates, start=first_step)).get(5, 0.0)
        losses = make_several(training_step, batches, first_step, learning_rates)
        return losses * float("nan") if sixth > HIGHEST_RATE else losses

    patch.setattr(TrainingStep, "__call__", diverge)
    patch.setattr(TrainingStep, "several", diverge_several)


@pytest.fixture
def diverging(monkeypatch):
    make_diverge(monkeypatch)


@pytest.fixture(scope="module")
def guarded(data, tmp_path_factory):
    """A run that diverged twice after its fourth step, and went on to its tenth."""
    run = tmp_path_factory.mktemp("guarded") / "run"
    with pytest.MonkeyPatch.context() as patch:
        make_diverge(patch)
        assert begin(data, run, *STEEP, *EVERY_STEP, *AVERAGES) == 0
    return run


def test_a_schedule_with_cuts():
    cuts = (RateCut(4, 0.5, 6, "a"), RateCut(2, 0.5, 3, "b"))
    schedule = CutSchedule(Schedule("piecewise", 1.0, 0.0, 1.0, 1, 0.0, range(1, 20), range(2, 21)), cuts)
    assert [schedule(step) for step in range(6)] == [1, 2, 1.5, 2, 1.25, 1.5]


def test_a_run_that_diverges_goes_back_and_on_at_half_the_rate(guarded):
    cuts = json.loads((guarded / "rate_cuts.json").read_text())["cuts"]
    assert cuts == [{"step": 4, "factor": 0.5, "seen_at": 6, "why": "The loss is nan at step 6."}] * 2
    rates = {line["step"]: line["learning_rate"] for line in rows(guarded, of_validation=False)}
    assert list(rates) == list(range(1, 11))
    assert set(rates.values()) == {0.01, 0.02} and rates[4] == 0.01 and rates[5] == 0.02
    assert steps_of(guarded) == list(range(11))
    assert train.main(["--resume", f"--train-dir={guarded}", "--verify"]) == 0


@pytest.mark.parametrize("step", [4, 5, 8])
def test_a_run_that_is_killed_after_it_went_back_is_the_unbroken_one(guarded, diverging, tmp_path, step):
    run = killed_after(step, guarded, tmp_path / "run")
    assert resume(run) == 0
    assert_same_run(run, guarded)


def test_a_run_goes_back_to_the_same_step_wherever_it_was_stopped_before(data, guarded, diverging, tmp_path, capsys):
    run = tmp_path / "run"
    assert begin(data, run, *STEEP, *AVERAGES, "--log-every=1", "--max-to-keep=1", "--max-steps=5") == 0
    assert {4, 5} <= set(steps_of(run))  # The fourth stays, for the run may go back to it.
    assert resume(run, "--max-steps=10") == 0
    said = capsys.readouterr().err
    assert (
        "The loss is nan at step 6. Training diverged: back to step 4, and on at half the learning rate, time 2" in said
    )
    assert_same_run(run, guarded)
    assert set(steps_of(run)) == {10, best_of(run)["step"]}


@pytest.mark.parametrize(
    "function",
    ["divergence.delete_newer", "divergence.RunFolder.write_json", "divergence.RunFolder.forget_metrics_after"],
)
def test_a_kill_while_a_run_goes_back(data, guarded, diverging, tmp_path, monkeypatch, function):
    run = tmp_path / "run"

    def kill(*arguments):
        raise RuntimeError

    make_guard = divergence.Guard.step_back

    def step_back(*arguments):
        monkeypatch.setattr(f"finetune.training.{function}", kill)
        return make_guard(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(divergence.Guard, "step_back", step_back)
        with pytest.raises(RuntimeError):
            begin(data, run, *STEEP, *EVERY_STEP, *AVERAGES)
    monkeypatch.undo()
    make_diverge(monkeypatch)
    assert resume(run) == 0
    assert_same_run(run, guarded)


def test_what_diverges_at_any_rate_is_given_up_and_the_good_step_is_kept(
    data, diverging, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("test_stopping.HIGHEST_RATE", 0.0)
    assert begin(data, tmp_path / "run", *STEEP, "--log-every=1", "--max-steps=10") == 2
    assert "Training diverged and was stopped; the rate was halved 5 times." in capsys.readouterr().err
    assert steps_of(tmp_path / "run")[-1] == 4
    assert len(read_rate_cuts(RunFolder(tmp_path / "run"))) == 5


def test_a_run_that_is_not_guarded_stops_and_says_how_it_could_go_on(data, diverging, tmp_path, capsys):
    run = tmp_path / "run"
    assert begin(data, run, *STEEP, "--on-divergence=stop", *EVERY_STEP, *AVERAGES) == 2
    said = capsys.readouterr().err
    assert "step 5 is kept" in said and "--on-divergence halve goes back" in said
    assert not (run / "rate_cuts.json").exists() and steps_of(run)[0] == 1
    assert resume(run, "--on-divergence=halve") == 0  # To the fourth, a validation's.
    assert [cut.step for cut in read_rate_cuts(RunFolder(run))] == [4, 4]


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["--num-clones=2", "--batch-size=2"], marks=pytest.mark.slow),  # Two devices are traced.
        ["--trainable-scopes=LeNet/fc4", "--cache-features=1", "--log-every=10"],
    ],
    ids=["two devices", "several steps a call"],
)
def test_devices_and_features_go_back_too(data, diverging, tmp_path, words):
    run, pretrained = tmp_path / "run", write_run(tmp_path / "pretrained", "lenet", image_size=8)
    assert begin(data, run, *STEEP, *AVERAGES, f"--checkpoint={pretrained}", *words) == 0
    assert [cut.step for cut in read_rate_cuts(RunFolder(run))] == [4, 4]
    assert steps_of(run)[-1] == 10
    chain = {line["step"]: line["data_chain"] for line in rows(run, of_validation=False)}
    assert list(chain) == [10]
    assert resume(run, "--verify") == 0


def test_a_file_of_cuts_that_holds_something_else_is_refused(guarded, tmp_path, capsys):
    run = shutil.copytree(guarded, tmp_path / "run")
    (run / "rate_cuts.json").write_text('{"cuts": [{"step": 4, "factor": 2, "seen_at": 6, "why": ""}]}')
    assert resume(run, "--max-steps=11") == 2
    error = capsys.readouterr().err
    assert f"{run / 'rate_cuts.json'} can't be read: cuts.0.factor is 2, but must be a finite number" in error
    assert "would go on at the whole rate" in error
