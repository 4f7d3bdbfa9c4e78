"""The learning-rate finder: its curve, its suggestion, and that a run is the same with and without it."""

import csv
import tomllib

import numpy as np
import pytest
from test_resumption import NETWORK, STEPS, begin, chain_of, resume, values_at, verify, write_training_shards
from tiny_runs import write_records

from finetune.commands import train
from finetune.errors import UserError
from finetune.evaluation import plots
from finetune.settings.settings_file import read_toml
from finetune.settings.stage import ScheduleSettings
from finetune.settings.train import TrainSettings
from finetune.training import rate_finder
from finetune.training.rate_finder import curve_of, has_exploded, smoothed, write_curve

RATES = np.geomspace(1e-6, 10, 100)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_records(tmp_path_factory.mktemp("finder") / "records", num_images=6)
    return write_training_shards(folder)


def losses(lowest_at=1e-2, lowest=0.2, first=2.0):
    """They fall from a plateau to their lowest in two decades, and rise from there."""
    decades = np.log10(RATES / lowest_at)
    return np.where(decades < 0, np.clip(lowest - decades * (first - lowest) / 2, lowest, first), lowest + 3 * decades)


def test_the_rate_at_which_half_of_the_fall_is_made_is_suggested():
    curve = curve_of(RATES, losses())  # Half way lies at 1e-3, and the average is some steps late.
    assert 1e-3 <= curve.suggestion < 3e-3
    assert curve.suggestion == float(f"{RATES[np.argmax(curve.smoothed < (2.0 + min(curve.smoothed)) / 2)]:.1e}")
    assert f"--learning-rate {curve.suggestion:g}" in str(curve)


def test_chance_moves_the_suggestion_little():
    noise = [np.random.default_rng(seed).normal(size=len(RATES)) for seed in range(20)]
    suggestions = [curve_of(RATES, losses(lowest=0.3) * np.exp(0.2 * each)).suggestion for each in noise]
    assert max(suggestions) < 4 * min(suggestions)


@pytest.mark.parametrize(
    "flat", [np.full(100, 1.5), np.linspace(1, 2, 100), losses(lowest=1.9), np.array([np.nan]), np.array([1.0, np.inf])]
)
def test_where_the_loss_falls_at_no_rate_none_is_suggested(flat, tmp_path):
    curve = curve_of(RATES[: len(flat)], flat)
    write_curve(curve, tmp_path)
    assert curve.suggestion is None
    assert "no rate is suggested" in str(curve)


def test_the_average_is_of_weights_that_fall_by_a_fifth():
    assert smoothed([1.0, 2.0, 4.0]) == pytest.approx([1.0, 2.8 / 1.8, (0.64 + 1.6 + 4) / 2.44])


@pytest.mark.parametrize(
    ("average", "expected"),
    [
        ([1.0, 0.1, 0.5], False),  # Higher than its lowest, but not than at the start.
        ([1.0, 0.1, 2.1], True),
        ([2.1, 2.2, 7.9], False),
        ([np.inf], True),
        ([np.nan], True),
    ],
)
def test_what_an_explosion_is(average, expected):
    assert has_exploded(np.array([2.0] * 20 + average)) == expected


def test_a_curve_is_written_as_a_table_and_drawn_though_its_end_is_infinite(tmp_path):
    write_curve(curve_of(RATES, np.array([*losses()[:-1], np.inf])), tmp_path)
    rows = list(csv.DictReader((tmp_path / rate_finder.CURVE_FILE).read_text(encoding="utf-8").splitlines()))
    assert [float(row["learning_rate"]) for row in rows] == RATES.tolist()
    assert float(rows[0]["loss"]) == 2.0
    assert (tmp_path / rate_finder.PLOT_FILE).read_bytes().startswith(b"\x89PNG")
    assert plots.rates_figure(RATES, losses(), smoothed(losses()), None, plots.DARK).axes[0].get_xscale() == "log"


# At commands


@pytest.mark.parametrize("more", [["--moving-average-decay=0.9"], ["--num-clones=2", "--batch-size=2"]])
def test_a_run_is_the_same_to_the_bit_with_and_without(data, tmp_path, more, capsys):
    assert begin(data, tmp_path / "plain", *more, max_steps=2) == 0
    assert begin(data, tmp_path / "asked", *more, "--find-learning-rate", max_steps=2) == 0
    assert "The learning-rate finder: in " in capsys.readouterr().err
    assert chain_of(tmp_path / "asked") == chain_of(tmp_path / "plain")
    asked, plain = values_at(tmp_path / "asked", 2), values_at(tmp_path / "plain", 2)
    for name in plain:
        np.testing.assert_array_equal(asked[name], plain[name], err_msg=name)
    settings = [(tmp_path / run / "config.toml").read_text().replace(run, "") for run in ("asked", "plain")]
    assert settings[0] == settings[1]
    assert (tmp_path / "asked" / rate_finder.PLOT_FILE).is_file()


@pytest.fixture(scope="module")
def found(data, tmp_path_factory):
    """A run that trains a head on cached features, at the rate that was found."""
    folder = tmp_path_factory.mktemp("finder")
    assert begin(data, folder / "weights", max_steps=1) == 0
    words = [f"--checkpoint={folder / 'weights'}", "--trainable-scopes=LeNet/fc4", "--cache-features=2"]
    for name in ("first", "second"):
        assert begin(data, folder / name, *words, "--learning-rate=auto", max_steps=2) == 0
    return folder


def test_what_was_found_is_the_same_each_time_and_the_number_is_kept(found, capsys):
    tables = [(found / name / rate_finder.CURVE_FILE).read_bytes() for name in ("first", "second")]
    assert tables[0] == tables[1]
    rows = list(csv.DictReader(tables[0].decode().splitlines()))
    curve = curve_of(*(np.array([float(row[key]) for row in rows]) for key in ("learning_rate", "loss")))
    with (found / "first/config.toml").open("rb") as file:
        assert tomllib.load(file)["learning_rate"] == curve.suggestion
    assert resume(found / "second", "--max-steps=3") == 0
    said = capsys.readouterr().err
    assert "learning_rate is" not in said
    assert "The learning-rate finder" not in said
    assert verify(found / "second") == 0
    assert read_toml(TrainSettings, found / "second/config.toml")["learning_rate"] == curve.suggestion


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--learning-rate=auto"], "--learning-rate auto is of a run that begins, not of one that goes on"),
        (["--find-learning-rate"], "--find-learning-rate is of a run that begins"),
    ],
)
def test_a_run_that_goes_on_asks_for_no_rate(found, capsys, words, message):
    assert resume(found / "first", "--max-steps=4", *words) == 2
    assert message in capsys.readouterr().err


def test_where_no_rate_is_suggested_auto_is_refused_and_the_plain_run_goes_on(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(rate_finder, "LEAST_FALL", 1.0)
    monkeypatch.setattr(rate_finder, "NUM_STEPS", 5)
    assert begin(data, tmp_path / "auto", "--learning-rate=auto", max_steps=1) == 2
    assert "no rate is suggested" in capsys.readouterr().err
    assert not (tmp_path / "auto").exists()
    assert begin(data, tmp_path / "plain", "--find-learning-rate", max_steps=1) == 0
    assert "no rate is suggested" in capsys.readouterr().err


def test_auto_is_a_word_for_command_line_file_and_python(data, tmp_path, capsys):
    (tmp_path / "auto.toml").write_text('learning_rate = "auto"')
    assert read_toml(TrainSettings, tmp_path / "auto.toml") == {"learning_rate": "auto"}
    assert ScheduleSettings(learning_rate="auto").learning_rate == "auto"
    assert train.main([f"--dataset-dir={data}", *NETWORK, *STEPS, "--learning-rate=fast"]) == 2
    assert "--learning-rate is 'fast', but must be a number or auto" in capsys.readouterr().err
    with pytest.raises(UserError, match="--warmup-epochs is 'auto', but must be a number"):
        ScheduleSettings(warmup_epochs="auto")
