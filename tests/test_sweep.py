"""--sweep: what is searched, what is drawn, what a sweep leaves, and that one that goes on is the unbroken one."""

import csv
import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from image_files import write_class_folders
from test_kills import values_of
from tiny_runs import write_records, write_run

from finetune import api
from finetune.api import TrainSettings
from finetune.commands import photographs, train
from finetune.commands import sweep as sweep_command
from finetune.commands.trials import checked_space, settings_of_trial
from finetune.errors import UserError
from finetune.settings.search_space import Choice, Range
from finetune.settings.settings_file import read_toml
from finetune.sweeps.plot import sweep_figure
from finetune.sweeps.results import find_best
from finetune.sweeps.study import Study, Trial
from finetune.training import feature_inputs

SPACE = (Range("learning_rate", 1e-4, 1e-1, True), Choice("weight_decay", ("0", "4e-5")), Range("batch_size", 2, 4))
NETWORK = ["--model=lenet", "--image-size=8", "--batch-size=4", "--optimizer=adam", "--precision=float32"]
STEPS = ["--max-steps=6", "--eval-every=2", "--log-every=2"]
HEAD = ["--exclude-scopes=LeNet/fc4", "--trainable-scopes=LeNet/fc4", "--cache-features=1"]
SWEEP = "--sweep=learning_rate=1e-4..1e-1:log,weight_decay=0|4e-5"


def settings(*texts, **others):
    return TrainSettings(dataset_dir=Path("records"), sweep=texts, **others)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_records(tmp_path_factory.mktemp("sweeps") / "data", num_images=12)
    write_records(folder, num_images=24, split="train")
    return write_records(folder, num_images=6, split="test")


@pytest.fixture(scope="module")
def words(data, tmp_path_factory):
    pretrained = write_run(tmp_path_factory.mktemp("sweeps") / "pretrained", "lenet", image_size=8)
    return [f"--dataset-dir={data}", f"--checkpoint={pretrained}", *NETWORK, *STEPS, *HEAD]


@pytest.fixture(scope="module")
def swept(words, tmp_path_factory):
    """A sweep of three trials."""
    folder = tmp_path_factory.mktemp("sweeps") / "sweep"
    assert train.main([*words, f"--train-dir={folder}", SWEEP, "--trials=3"]) == 0
    return folder


def rows_of(folder):
    with (folder / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def told(capsys, *more):
    assert train.main(list(more)) == 2
    return capsys.readouterr().err


# What is searched


def test_ranges_and_choices():
    space = checked_space(
        settings("learning_rate=1e-4..1e-2:log", "batch_size=8..32", "--weight-decay=0|4e-5", "resize=pad|crop")
    )
    assert space == (
        Range("learning_rate", 1e-4, 1e-2, True),
        Range("batch_size", 8, 32),
        Choice("weight_decay", ("0", "4e-5")),
        Choice("resize", ("pad", "crop")),
    )
    assert isinstance(space[1].low, int)


def test_a_trial_is_what_its_flags_would_have_been():
    of_sweep = settings("recipe=head|probe", "learning_rate=0.01|auto", momentum=0.5)
    space = checked_space(of_sweep)
    trial = settings_of_trial(of_sweep, space, {"recipe": "head", "learning_rate": "0.01"})
    expected = TrainSettings(dataset_dir=Path("records"), recipe="head", learning_rate=0.01, momentum=0.5)
    assert trial == expected
    assert settings_of_trial(of_sweep, space, {"recipe": "probe", "learning_rate": "auto"}).stage.probe


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["learning_rat=1..2"], "no setting of how a network is trained.\n  Did you mean learning_rate"),
        (["dataset_dir=a|b"], "'dataset_dir' is no setting of how a network is trained"),
        (["best_by=loss|accuracy"], "'best_by' is no setting"),
        (["eval_split=a|b"], "'eval_split' is no setting"),
        (["learning_rate"], "is none of SETTING="),
        (["learning_rate="], "is none of SETTING="),
        (["learning_rate=0.1"], "has the one value '0.1'"),
        (["learning_rate=0.1|0.1"], "a value twice"),
        (["learning_rate=0.1|"], "or an empty one"),
        (["learning_rate=0.1..0.01"], "must rise"),
        (["learning_rate=0.1..0.1"], "must rise"),
        (["learning_rate=0..0.1"], "--learning-rate is 0.0, but must be above 0"),
        (["weight_decay=0..0.1:log"], "begins above 0"),
        (["weight_decay=0..0.1:lin"], "is none of SETTING="),
        (["learning_rate=auto..0.1"], "is none of SETTING="),
        (["batch_size=1.5..8"], "--batch-size is '1.5', but must be a whole number"),
        (["optimizer=adam|sdg"], "--optimizer is 'sdg', not one of"),
        (["learning_rate=0.1|0.2", "learning-rate=0.3|0.4"], "searched twice"),
        (["max_steps=5|0"], "--sweep, at max_steps 0: --max-steps is 0"),
        (["max_steps=5|6", "epochs=1|2"], "--sweep, at max_steps 5, epochs 1: The length is said twice"),
        (
            [f"{name}=0.1|0.2|0.3|0.4" for name in ("momentum", "rmsprop_decay", "rmsprop_momentum", "adam_beta1")]
            + ["adam_beta2=0.1|0.2|0.3|0.4", "lion_beta1=0.1|0.2|0.3|0.4", "weight_decay=1|2"],
            "8,192 combinations",
        ),
    ],
)
def test_what_cannot_be_searched(texts, message):
    with pytest.raises(UserError) as refused:
        checked_space(settings(*texts))
    assert message in str(refused.value)


def test_combinations_that_go_together_pass_where_values_alone_would_not():
    checked_space(
        settings("end_learning_rate=0.01|0.02", "learning_rate=0.05..0.1", learning_rate_decay_type="one-cycle")
    )


def test_pseudo_labels_are_searched_too():
    space = checked_space(settings("pseudo_label_fraction=0.25|0.33", unlabeled_dir=Path("others")))
    assert settings_of_trial(
        settings(unlabeled_dir=Path("others")), space, {"pseudo_label_fraction": "0.33"}
    ).pseudo == (settings(unlabeled_dir=Path("others"), pseudo_label_fraction=0.33).pseudo)


def test_what_is_searched_and_given_too_is_said(words, tmp_path, capsys):
    folder = tmp_path / "sweep"
    assert train.main([*words, f"--train-dir={folder}", "--learning-rate=0.5", SWEEP, "--trials=1"]) == 0
    assert "As the sweep has it, not as given beside it: learning_rate." in capsys.readouterr().err
    assert float(rows_of(folder)[0]["learning_rate"]) < 0.2


def test_flags_of_a_sweep_without_one(capsys):
    assert "--trials and --no-prune: of a sweep." in told(capsys, "--dataset-dir=x", "--trials=3", "--no-prune")


# What is drawn


def study(path, seed=3):
    return Study(path, SPACE, minimised=False, seed=seed)


def ended(of_sweep, number_of_trials):
    points = []
    for number in range(number_of_trials):
        trial = of_sweep.next_trial()
        points.append(trial.point)
        value = number % 4 / 4
        of_sweep.end(trial, "complete", [value / 2, value], (value, 7))
    return points


def test_what_is_drawn_hangs_on_seed_and_history_alone(tmp_path):
    unbroken = ended(study(tmp_path / "a.db"), 12)
    broken = []
    for _ in range(12):
        again = study(tmp_path / "b.db")
        begun = again.next_trial()
        assert study(tmp_path / "b.db").next_trial() == begun  # As after a kill.
        broken += ended(study(tmp_path / "b.db"), 0)
        value = len(broken) % 4 / 4
        again.end(begun, "complete", [value / 2, value], (value, 7))
        broken.append(begun.point)
    assert broken == unbroken
    assert len({json.dumps(point) for point in unbroken}) == 12
    assert ended(study(tmp_path / "c.db", seed=4), 3) != unbroken[:3]
    low, high = SPACE[0].low, SPACE[0].high
    assert all(low <= point["learning_rate"] <= high and 2 <= point["batch_size"] <= 4 for point in unbroken)
    assert all(point["learning_rate"] == float(f"{point['learning_rate']:.4g}") for point in unbroken)


def test_each_combination_is_tried_once(tmp_path):
    space = (Choice("optimizer", ("sgd", "adam")), Range("batch_size", 2, 4))
    of_sweep = Study(tmp_path / "a.db", space, minimised=True, seed=0)
    points = ended(of_sweep, 6)
    assert len({json.dumps(point) for point in points}) == 6
    assert of_sweep.next_trial() is None


def test_a_trial_behind_the_median_is_given_up_from_its_third_validation_on(tmp_path):
    of_sweep = study(tmp_path / "a.db")
    for number in range(4):
        trial = of_sweep.next_trial()
        assert not of_sweep.is_hopeless(trial, [0.0, 0.0, 0.0])  # There is too little to compare with.
        of_sweep.end(trial, "complete", [0.1 * number] * 3, (0.1 * number, 3))
    trial = of_sweep.next_trial()
    assert not of_sweep.is_hopeless(trial, [])
    assert not of_sweep.is_hopeless(trial, [0.0, 0.0])
    assert of_sweep.is_hopeless(trial, [0.0, 0.0, 0.1])
    assert not of_sweep.is_hopeless(trial, [0.0, 0.2, 0.1])
    assert not of_sweep.is_hopeless(trial, [0.0, 0.0, 0.0, 0.0])  # Nobody had a fourth one.


def test_a_file_that_is_no_study_or_another_ones(tmp_path):
    study(tmp_path / "a.db").next_trial()
    with pytest.raises(UserError, match="of another sweep"):
        Study(tmp_path / "a.db", SPACE[:2], minimised=False, seed=3)
    (tmp_path / "b.db").write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match=r"the sweep's memory, can't be read or written: .*not a database"):
        study(tmp_path / "b.db")
    whole = (tmp_path / "a.db").read_bytes()
    (tmp_path / "c.db").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="can't be read or written"):
        study(tmp_path / "c.db").next_trial()


def test_any_path_will_do(tmp_path):
    folder = tmp_path / "50% of? #all & Ärger"
    folder.mkdir()
    ended(study(folder / "sweep.db"), 1)
    assert len(study(folder / "sweep.db").trials()) == 1
    assert [path.name for path in folder.iterdir()] == ["sweep.db"]


# What a sweep leaves


def test_each_trial_is_a_run_and_the_table_says_what_it_came_to(swept):
    rows = rows_of(swept)
    assert [row["trial"] for row in rows] == ["1", "2", "3"]
    for row in rows:
        own = read_toml(TrainSettings, swept / row["folder"] / "config.toml")
        assert own["learning_rate"] == float(row["learning_rate"]) and own["weight_decay"] == float(row["weight_decay"])
        best = json.loads((swept / row["folder"] / "best.json").read_text())
        assert (best["accuracy"], best["step"]) == (float(row["accuracy"]), int(row["step"]))
    assert len({row["learning_rate"] for row in rows}) == 3
    assert (swept / "sweep.png").stat().st_size > 5000
    assert sorted(path.name.split("-")[0] for path in (swept / "features").iterdir()) == ["validation", "view_0"]


def test_what_is_said_at_the_end_holds(swept, words, data, tmp_path, capsys):
    """And the sweep that is at its end says it again."""
    assert train.main(["--resume", f"--train-dir={swept}"]) == 0
    out, _ = capsys.readouterr()
    *table, best, command, caution, measured = out.splitlines()
    assert len(table) == 4 and table[0].split() == ["trial", "learning_rate", "weight_decay", "accuracy", "step"]
    rows = rows_of(swept)
    number = max(rows, key=lambda row: (float(row["accuracy"]), -int(row["trial"])))["trial"]
    assert best.startswith(f"best: trial {number}, accuracy ") and table[int(number)].endswith("best")
    assert "of 3 on the images that chose it: an optimistic figure" in caution
    assert f"finetune-eval --checkpoint {swept}/trial-{number} --dataset-dir {data} --split test" in measured
    said = command.partition("finetune-train ")[2].split()
    assert said == ["--config", f"{swept}/trial-{number}/config.toml", "--train-dir", f"{swept}-best"]
    assert train.main([*said[:3], str(tmp_path / "again")]) == 0
    again, trial = values_of(tmp_path / "again", "model.ckpt-6"), values_of(swept / f"trial-{number}", "model.ckpt-6")
    for name, value in trial.items():
        np.testing.assert_array_equal(again[name], value)


def test_what_trials_say_alike_is_said_once(words, tmp_path, capsys):
    assert train.main([*words, f"--train-dir={tmp_path / 'a'}", SWEEP, "--trials=2"]) == 0
    err = capsys.readouterr().err
    assert err.count("Plan of the variables") == err.count("Precision: float32") == 1
    assert "Trial 1 of 2: learning_rate 0" in err and "Trial 2 of 2: learning_rate 0" in err
    assert logging.getLogger("finetune").filters == []


def test_frozen_layers_run_once_for_all_trials_whose_features_are_the_same(words, tmp_path, monkeypatch):
    computed = []

    def counted(trunk, batches, **others):
        return compute(lambda images: computed.append(len(images)) or trunk(images), batches, **others)

    compute = feature_inputs.compute_features
    monkeypatch.setattr(feature_inputs, "compute_features", counted)
    more = ["--sweep=resize=pad|crop,learning_rate=0.01|0.02", "--trials=4"]
    assert train.main([*words, f"--train-dir={tmp_path / 'a'}", *more]) == 0
    assert sum(computed) == 2 * (24 + 12)
    assert len(list((tmp_path / "a/features").iterdir())) == 4


def test_the_best_and_its_plot():
    trials = [
        Trial(1, {"learning_rate": 0.1, "optimizer": "sgd"}, "complete", 0.5, 3),
        Trial(2, {"learning_rate": 0.2, "optimizer": "adam"}, "pruned", 0.9, 3),
        Trial(3, {"learning_rate": 0.3, "optimizer": "adam"}, "failed", None, None, "why"),
        Trial(4, {"learning_rate": 0.4, "optimizer": "sgd"}, "complete", 0.7, 3),
    ]
    assert find_best(trials, minimised=False) == trials[3]
    assert find_best(trials, minimised=True) == trials[0]
    assert find_best(trials[1:3], minimised=True) is None
    space = (Range("learning_rate", 0.1, 1.0, True), Choice("optimizer", ("sgd", "adam")))
    figure = sweep_figure(trials, space, "accuracy", trials[3])
    assert [axes.get_xlabel() for axes in figure.axes] == ["trial", "learning_rate", "optimizer"]
    assert "1 failed" in figure.get_suptitle()
    assert sweep_figure([], space, "accuracy", None).axes


# Trials that don't end well


def test_a_trial_that_diverges_has_failed_and_the_sweep_goes_on(words, tmp_path, capsys):
    more = ["--sweep=learning_rate=0.01|1e38", "--trials=3", "--optimizer=sgd"]
    assert train.main([*words, f"--train-dir={tmp_path / 'a'}", *more]) == 0
    out, err = capsys.readouterr()
    assert "Of 3 trials 2 are made: so many combinations there are." in err
    failed = next(row for row in rows_of(tmp_path / "a") if row["learning_rate"] == "1e38")
    assert failed["state"] == "failed" and failed["accuracy"] == "" and "diverged" in failed["reason"]
    assert f"Trial {failed['trial']} failed: " in err and "best: trial" in out
    assert "is the best of 1 on" in out


def test_any_other_error_ends_the_sweep_and_mended_it_goes_on(words, data, swept, tmp_path, capsys, monkeypatch):
    def full(trial, *rest):
        if trial.run.train_dir.name == "trial-3":
            raise UserError("There is no room.", "Make some.")
        return train_run(trial, *rest)

    train_run = sweep_command.train_run
    monkeypatch.setattr(sweep_command, "train_run", full)
    folder = tmp_path / "a"
    assert train.main([*words, f"--train-dir={folder}", SWEEP, "--trials=3"]) == 2
    err = capsys.readouterr().err
    assert "Trial 3, learning_rate" in err and "There is no room.\n  Make some." in err
    assert f"Go on by finetune-train --resume --train-dir {folder}" in err
    monkeypatch.setattr(sweep_command, "train_run", train_run)
    assert train.main(["--resume", f"--train-dir={folder}"]) == 0
    assert (folder / "trials.csv").read_bytes() == (swept / "trials.csv").read_bytes()


# Sweeps that go on


def test_more_trials_later_are_those_of_a_larger_sweep(words, swept, tmp_path):
    folder = tmp_path / "a"
    assert train.main([*words, f"--train-dir={folder}", SWEEP, "--trials=2"]) == 0
    assert train.main(["--resume", f"--train-dir={folder}", "--trials=3"]) == 0
    assert (folder / "trials.csv").read_bytes() == (swept / "trials.csv").read_bytes()
    assert (folder / "sweep.toml").read_bytes() == (swept / "sweep.toml").read_bytes()


def test_a_time_limit_stops_between_steps_and_the_sweep_goes_on(words, swept, tmp_path, capsys):
    folder = tmp_path / "a"
    assert train.main([*words, f"--train-dir={folder}", SWEEP, "--trials=3", "--time-limit=1s"]) == 0
    out = capsys.readouterr().out
    assert f"stopped by --time-limit. Go on by finetune-train --resume --train-dir {folder}" in out
    assert train.main(["--resume", f"--train-dir={folder}"]) == 0
    assert (folder / "trials.csv").read_bytes() == (swept / "trials.csv").read_bytes()


def test_a_sweep_goes_on_with_its_own_settings(swept, words, capsys):
    resume = ["--resume", f"--train-dir={swept}"]
    assert "--momentum was not given, and is 0.5" in told(capsys, *resume, "--momentum=0.5")
    assert "--max-steps was 6, and is 7" in told(capsys, *resume, "--max-steps=7")
    assert "holds a sweep already.\n  Go on with it by --resume" in told(capsys, *words, f"--train-dir={swept}", SWEEP)


def test_what_a_sweep_refuses(data, words, tmp_path, capsys, monkeypatch):
    bare = write_records(tmp_path / "bare", num_images=8, split="train")
    refused = told(capsys, *words, f"--dataset-dir={bare}", f"--train-dir={tmp_path / 'a'}", SWEEP)
    assert "has no split validation" in refused and "--eval-split" in refused
    assert not (tmp_path / "a").exists()
    (tmp_path / "b").mkdir()
    (tmp_path / "b/notes").touch()
    assert "is not empty: it holds notes" in told(capsys, *words, f"--train-dir={tmp_path / 'b'}", SWEEP)
    assert "is of one run, not of a sweep" in told(
        capsys, *words, f"--train-dir={tmp_path / 'b'}", SWEEP, "--resume", "--verify"
    )
    with pytest.raises(UserError, match=r"it is finetune\.api\.sweep"):
        api.train(settings("learning_rate=0.1|0.2"))
    monkeypatch.setitem(sys.modules, "optuna", None)
    refused = told(capsys, *words, f"--train-dir={tmp_path / 'c'}", SWEEP)
    assert "optuna is not installed.\n  It comes with the extra search: pip install '.[search]'" in refused
    assert not (tmp_path / "c").exists()


def test_in_a_file_and_from_python(words, data, tmp_path):
    config = tmp_path / "sweep.toml"
    searched = ["learning_rate=0.01|0.02", "trainable_scopes=LeNet/fc4|LeNet/fc3,LeNet/fc4"]
    config.write_text(f"sweep = {json.dumps(searched)}\ntrials = 1\n")
    without = [word for word in words if not word.startswith("--trainable-scopes")]
    without = [word.replace("--cache-features=1", "--cache-features=off") for word in without]
    assert train.main([*without, f"--config={config}", f"--train-dir={tmp_path / 'a'}"]) == 0
    given = read_toml(TrainSettings, tmp_path / "a/sweep.toml")
    result = api.sweep(TrainSettings(**{**given, "train_dir": tmp_path / "b"}))
    assert (tmp_path / "a/trials.csv").read_bytes() == (tmp_path / "b/trials.csv").read_bytes()
    assert result.best_dir == tmp_path / "b/trial-1" and result.splits == ("test",)


def test_photographs_are_converted_once(tmp_path, monkeypatch):
    calls, convert = [], photographs.convert
    monkeypatch.setattr(photographs, "convert", lambda told: calls.append(told) or convert(told))
    monkeypatch.chdir(tmp_path)
    write_class_folders(tmp_path / "photos", blue=6, red=6)
    more = ["--model=lenet", "--image-size=8", "--checkpoint=none", "--batch-size=2", "--max-steps=2", "--eval-every=0"]
    assert train.main(["photos", *more, "--sweep=learning_rate=0.01|0.02|0.03", "--trials=2"]) == 0
    folder = tmp_path / "runs/photos-1"
    assert len(calls) == 1 and len(rows_of(folder)) == 2
    own = read_toml(TrainSettings, folder / "trial-2/config.toml")
    assert own["dataset_dir"].resolve() == next((tmp_path / "runs/records").iterdir()).resolve()
    monkeypatch.chdir(tmp_path / "photos")
    (tmp_path / "runs").rename(tmp_path / "photos/runs")
    assert train.main(["--resume", "--train-dir=runs/photos-1", "--trials=3"]) == 0
    assert len(calls) == 1 and len(rows_of(tmp_path / "photos/runs/photos-1")) == 3


def test_help_needs_no_optuna():
    script = (
        "import contextlib, sys; from finetune import api; from finetune.commands import sweep, train\n"
        "from finetune.settings.command_line import parse_flags\n"
        "with contextlib.suppress(SystemExit): parse_flags(api.TrainSettings, ['--help'], prog='x', description='')\n"
        "print([name for name in ('optuna', 'sqlalchemy', 'tensorflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "--sweep" in done.stdout and done.stdout.endswith("\n[]\n")
