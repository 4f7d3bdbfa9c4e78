"""Flags: every way of writing them, TOML files, and mistakes."""

import dataclasses
import os
import pwd
import tomllib
from pathlib import Path

import pytest
import tomli_w

from finetune.commands import convert, download, evaluate, export, import_weights, inspect, predict, train
from finetune.errors import UserError
from finetune.settings.command_line import parse_flags
from finetune.settings.evaluate import EvalSettings
from finetune.settings.flags import CommandSettings, flag, flags_of
from finetune.settings.settings_file import read_toml, to_toml_table
from finetune.settings.train import TrainSettings


def parse(*words, settings_class=TrainSettings, **options):
    return parse_flags(settings_class, words, prog="finetune-train", description="", **options)


@pytest.mark.parametrize(
    "words",
    [
        ["--dataset-dir", "d", "--batch-size", "8", "--use-grayscale"],
        ["--dataset_dir=d", "--batch_size=8", "--use_grayscale=True"],
        ["--dataset-dir=d", "--batch_size", "8", "--use-grayscale", "true"],
    ],
)
def test_dashes_underscores_and_equals_signs_mean_the_same(words):
    assert parse(*words) == TrainSettings(dataset_dir=Path("d"), batch_size=8, use_grayscale=True)


@pytest.mark.parametrize("negation", ["--noema", "--no-ema", "--no_ema", "--ema=false", "--ema=0"])
def test_booleans_can_be_negated(negation):
    assert parse("--dataset_dir=d", negation).network.ema is False


def test_the_command_line_of_a_slim_tutorial():
    settings = parse(
        *"""--train_dir=/t --dataset_dir=/d --dataset_name=flowers --dataset_split_name=train --model_name=inception_v3
        --checkpoint_path=/c/inception_v3.ckpt --checkpoint_exclude_scopes=InceptionV3/Logits,InceptionV3/AuxLogits
        --trainable_scopes=InceptionV3/Logits,InceptionV3/AuxLogits --max_number_of_steps=1000 --batch_size=32
        --learning_rate=0.01 --learning_rate_decay_type=fixed --save_interval_secs=60 --save_summaries_secs=60
        --log_every_n_steps=100 --optimizer=rmsprop --weight_decay=0.00004 --num_clones=1 --clone_on_cpu=True
        --num_readers=4 --master= --alsologtostderr""".split()
    )
    assert settings.network.model == "inception_v3"
    assert settings.network.checkpoint == Path("/c/inception_v3.ckpt")
    scopes = ("InceptionV3/Logits", "InceptionV3/AuxLogits")
    assert settings.network.exclude_scopes == settings.stage.trainable_scopes == scopes
    assert (settings.stage.max_steps, settings.run.log_every, settings.run.save_interval_seconds) == (1000, 100, 60.0)
    assert settings.devices.clone_on_cpu is True
    evaluation = parse(
        *"""--alsologtostderr --checkpoint_path=/t --dataset_dir=/d --dataset_name=flowers
        --dataset_split_name=validation --model_name=inception_v3 --eval_dir=/e""".split(),
        settings_class=EvalSettings,
    )
    assert (evaluation.checkpoint, evaluation.split, evaluation.output_dir) == ((Path("/t"),), "validation", Path("/e"))


def test_lists_come_with_commas_or_by_giving_the_flag_several_times():
    words = ["--dataset-dir=d", "--exclude-scopes=A/B,C", "--exclude-scopes", "D"]
    assert parse(*words).network.exclude_scopes == ("A/B", "C", "D")


def test_commas_in_the_name_of_what_is_there_part_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a,b").mkdir()
    Path("model,2.index").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ["--dataset-dir=d", "--checkpoint=a,b", "--checkpoint=model,2", "--checkpoint=c,d", "--checkpoint=~/a,b"]
    paths = ("a,b", "model,2", "c", "d", f"{tmp_path}/a,b")
    assert parse(*words, settings_class=EvalSettings).checkpoint == tuple(map(Path, paths))


def test_a_flag_that_takes_two_words():
    assert parse("--dataset-dir=d", "--compare", "a,b", "c", settings_class=EvalSettings).compare == (
        Path("a,b"),
        Path("c"),
    )
    with pytest.raises(UserError, match="--compare"):
        parse("--dataset-dir=d", "--compare", "a", settings_class=EvalSettings)


SLIM_TRAIN_FLAGS = """master train_dir warmup_epochs num_clones clone_on_cpu worker_replicas num_ps_tasks num_readers
num_preprocessing_threads log_every_n_steps save_summaries_secs save_interval_secs task weight_decay optimizer
adadelta_rho adagrad_initial_accumulator_value adam_beta1 adam_beta2 opt_epsilon ftrl_learning_rate_power
ftrl_initial_accumulator_value ftrl_l1 ftrl_l2 momentum rmsprop_momentum rmsprop_decay quantize_delay
learning_rate_decay_type learning_rate end_learning_rate label_smoothing learning_rate_decay_factor
num_epochs_per_decay sync_replicas replicas_to_aggregate moving_average_decay dataset_name dataset_split_name
dataset_dir labels_offset model_name preprocessing_name batch_size train_image_size max_number_of_steps
use_grayscale checkpoint_path checkpoint_exclude_scopes trainable_scopes ignore_missing_vars""".split()
SLIM_EVAL_FLAGS = """batch_size max_num_batches master checkpoint_path eval_dir num_preprocessing_threads dataset_name
dataset_split_name dataset_dir labels_offset model_name preprocessing_name moving_average_decay eval_image_size
quantize use_grayscale""".split()


@pytest.mark.parametrize(
    ("settings_class", "names"), [(TrainSettings, SLIM_TRAIN_FLAGS), (EvalSettings, SLIM_EVAL_FLAGS)]
)
def test_every_flag_of_slim_is_known(settings_class, names):
    known = {name for flag in flags_of(settings_class) for name in (flag.name, *flag.slim)}
    assert set(names) <= known


def test_a_flag_without_meaning_here_takes_its_default_alone():
    with pytest.raises(UserError, match="--quantize-delay can only be -1: quantised training left"):
        parse("--dataset_dir=d", "--quantize_delay=4")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset-dir=d", "--learning-rte=1"], r"Unknown flag --learning-rte[\s\S]*--learning-rate"),
        (["--dataset-dir=d", "--batch-size=many"], "batch-size"),
        (["--dataset-dir=d", "--batch-size=0"], "--batch-size is 0"),
        (["--dataset-dir=d", "--optimizer=sdg"], "sgd"),
        (["--dataset-dir=d", "--label-smoothing=1.5"], "--label-smoothing is 1.5"),
        ([], "nothing to train on[\\s\\S]*--images-dir[\\s\\S]*--dataset-dir"),
    ],
)
def test_mistakes_are_told(words, message):
    with pytest.raises(UserError, match=message):
        parse(*words)


def test_flags_win_over_the_settings_file(tmp_path):
    config = tmp_path / "c.toml"
    config.write_text('dataset_dir = "d"\nbatch-size = 8\nmodel_name = "lenet"\ntrainable_scopes = ["a", "b"]\n')
    settings = parse("--config", str(config), "--batch-size=16")
    assert settings == TrainSettings(dataset_dir=Path("d"), batch_size=16, model="lenet", trainable_scopes=("a", "b"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch_sise = 8", r"unknown key 'batch_sise'[\s\S]*batch_size"),
        ('batch_size = "x"', "--batch-size is 'x', but must be a whole number"),
        ("batch_size = ", "not TOML"),
        ('optimizer = "sdg"', "not one of"),
    ],
)
def test_mistakes_in_a_settings_file_are_told(tmp_path, text, message):
    config = tmp_path / "c.toml"
    config.write_text(text)
    with pytest.raises(UserError, match=message):
        parse("--dataset_dir=d", "--config", str(config))


def test_settings_written_are_read_back(tmp_path):
    settings = TrainSettings(dataset_dir=Path("d"), checkpoint=Path("c"), trainable_scopes=("a",), ema=False)
    path = tmp_path / "config.toml"
    path.write_bytes(tomli_w.dumps(to_toml_table(settings)).encode())
    assert TrainSettings(**read_toml(TrainSettings, path)) == settings
    assert "resume" not in tomllib.loads(path.read_text())


@dataclasses.dataclass(frozen=True)
class WordSettings(CommandSettings):
    words: tuple[str, ...] = flag((), help="words", positional=True)
    top_k: int = flag(1, help="a number")
    loud: bool = flag(False, help="a switch")


@pytest.mark.parametrize(
    "line",
    ["a --top-k 2 b --loud c", "--loud a b c --top_k=2", "a b --loud=true c --top-k 2", "a --loud true b c --top-k 2"],
)
def test_words_and_flags_may_be_mixed(line):
    settings = parse(*line.split(), settings_class=WordSettings)
    assert settings == WordSettings(words=("a", "b", "c"), top_k=2, loud=True)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_home_directory_takes_the_place_of_a_tilde_in_every_path(home, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text('dataset_dir = "~/d"\ncheckpoint = "~"\ntrain_dir = "a/~/b"\n')
    from_file = parse("--config=~/c.toml")
    paths = (from_file.data.dataset_dir, from_file.network.checkpoint, from_file.run.train_dir)
    assert paths == (home / "d", home, Path("a/~/b"))
    assert parse("--dataset-dir=~/d", "--train_dir", "~/x").run.train_dir == home / "x"
    evaluation = parse("--dataset-dir=~/d", "--checkpoint=~/a,b", "--checkpoint=~/c", settings_class=EvalSettings)
    assert evaluation.checkpoint == (home / "a", Path("b"), home / "c")
    compared = parse("--dataset-dir=d", "--compare", "~/a,b", "c", settings_class=EvalSettings)
    assert compared.compare == (home / "a,b", Path("c"))
    assert TrainSettings(dataset_dir=Path("~/d")).data.dataset_dir == home / "d"


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (convert, ["--dataset-dir=~/x", "--images-dir=~/x"]),
        (download, ["--output-dir=~/x", "mnist"]),
        (evaluate, ["--dataset-dir=~/x", "--checkpoint=~/x", "--output-dir=~/x"]),
        (export, ["--checkpoint=~/x", "--labels=~/x", "--output-dir=~/x", "--dataset-dir=~/x"]),
        (import_weights, ["~/x", "--model=lenet", "--output=~/x"]),
        (inspect, ["~/x", "~/x"]),
        (predict, ["~/x", "-", "~/x", "--checkpoint=~/x", "--labels=~/x", "--output=~/x"]),
        (train, ["--dataset-dir=~/x", "--checkpoint=~/x", "--train-dir=~/x"]),
    ],
    ids=lambda value: value.__name__ if hasattr(value, "__name__") else None,
)
def test_every_path_of_every_command_is_expanded(home, monkeypatch, module, words):
    parsed = []
    monkeypatch.setattr(
        module, "run_command", lambda cls, function, **options: parsed.append(parse(*words, settings_class=cls))
    )
    module.main(words)
    assert str(parsed[0]).count(f"{home}/x") == sum("~/x" in word for word in words)
    assert "~" not in str(parsed[0])


def test_a_user_without_a_home_directory_is_refused_and_the_full_path_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"--train-dir: ~nobody-here/x .* no user 'nobody-here'") as error:
        parse("--dataset-dir=d", "--train-dir=~nobody-here/x")
    full = str(error.value).rsplit(": ", 1)[1].removesuffix(".")
    assert parse("--dataset-dir=d", f"--train-dir={full}").run.train_dir == tmp_path / "~nobody-here/x"
    assert parse("--dataset-dir=d", "--train-dir=./~nobody-here/x").run.train_dir == tmp_path / "~nobody-here/x"
    with pytest.raises(UserError, match="--dataset-dir: ~nobody-here"):
        TrainSettings(dataset_dir=Path("~nobody-here"))


def test_a_user_is_found_by_name():
    user = pwd.getpwuid(os.getuid())
    assert parse(f"--dataset-dir=~{user.pw_name}/d").data.dataset_dir == Path(user.pw_dir) / "d"


def test_what_only_shells_expand_stays_as_it_is(home):
    assert parse("--dataset-dir=$HOME/d").data.dataset_dir == Path("$HOME/d")


def test_a_resumed_run_is_found_in_a_home_directory(home):
    (home / "run").mkdir()
    (home / "run/config.toml").write_text('dataset_dir = "d"\nmodel = "lenet"\n')
    settings = parse("--resume", "--train-dir=~/run", find_config=train._config_of_run)
    assert (settings.network.model, settings.run.train_dir) == ("lenet", home / "run")
