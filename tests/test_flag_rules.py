"""Every flag of every command: what it refuses on the command line, in TOML and in Python, in one line or two."""

import math
import re
from pathlib import Path

import pytest
import tomli_w

from finetune.commands import convert, data_service, download, evaluate, export, import_weights, inspect, predict, train
from finetune.errors import UserError
from finetune.settings.convert import ConvertSettings
from finetune.settings.data_service import DataServiceSettings
from finetune.settings.download import DownloadSettings
from finetune.settings.evaluate import EvalSettings
from finetune.settings.export import ExportSettings
from finetune.settings.flags import flags_of
from finetune.settings.import_weights import ImportSettings
from finetune.settings.inspect import InspectSettings
from finetune.settings.predict import PredictSettings
from finetune.settings.settings_file import read_toml
from finetune.settings.train import TrainSettings

# Of each command the settings, the function, and what must be given.
COMMANDS = {
    "train": (TrainSettings, train.main, {"dataset_dir": "d"}),
    "eval": (EvalSettings, evaluate.main, {"dataset_dir": "d"}),
    "convert": (ConvertSettings, convert.main, {"dataset_dir": "d"}),
    "predict": (PredictSettings, predict.main, {"checkpoint": "c"}),
    "export": (ExportSettings, export.main, {"checkpoint": "c", "output_dir": "o"}),
    "import": (ImportSettings, import_weights.main, {"model": "lenet", "output": "o"}),
    "download": (DownloadSettings, download.main, {}),
    "data-service": (DataServiceSettings, data_service.main, {"address": "localhost:70000"}),
    "inspect": (InspectSettings, inspect.main, {}),
}
# Any whole number is a seed of a division: it goes into a hash.
UNBOUNDED = {("convert", "seed")}
ALL_FLAGS = [(command, flag) for command, (settings, *_) in COMMANDS.items() for flag in flags_of(settings)]


def bad_values(flag):
    """Values of the flag's kind, or nearly, that are not allowed, by what is wrong with them."""
    if flag.only_default:
        return {"another value than the default": not flag.default if flag.kind is bool else type(flag.default)("7")}
    step = 1 if flag.kind is int else 1e-6
    bad = {
        "at the bound": flag.above,
        "at the upper bound": flag.below,
        "below": flag.at_least - step if flag.at_least is not None else None,
        "above": flag.at_most + step if flag.at_most is not None else None,
        "a wrong choice": "bogus" if flag.choices is not None else None,
    }
    if flag.kind is float:
        bad |= {"NaN": math.nan, "infinity": math.inf, "minus infinity": -math.inf, "beyond float32": 1e39}
    bad = {what: value for what, value in bad.items() if value is not None}
    return {what: int(value) if flag.kind is int else value for what, value in bad.items()}


CASES = [
    pytest.param(command, flag, value, id=f"{command}-{flag.name}-{what}")
    for command, flag in ALL_FLAGS
    for what, value in bad_values(flag).items()
]


@pytest.mark.parametrize(("command", "flag", "value"), CASES)
def test_what_is_not_allowed_is_refused_whoever_gives_it(command, flag, value, tmp_path, monkeypatch, capsys):
    settings_class, main, required = COMMANDS[command]
    monkeypatch.chdir(tmp_path)
    name = re.escape(flag.option)
    given = (value,) if flag.is_list else value
    with pytest.raises(UserError, match=f"^{name} (is|can)") as refused:
        settings_class(**{**required, flag.name: given})
    message = str(refused.value)

    words = [f"--{key}={text}" for key, text in required.items() if key != flag.name]
    assert main([*words, f"{flag.option}={value}"]) == 2
    printed = capsys.readouterr()
    assert printed.err == f"finetune-{command}: {message}\n"
    assert not printed.out
    assert len(message.splitlines()) <= 2

    config = tmp_path / "settings.toml"
    config.write_bytes(tomli_w.dumps({flag.name: list(given) if flag.is_list else given}).encode())
    with pytest.raises(UserError, match=rf"^--config: {re.escape(str(config))}: {name} (is|can)"):
        read_toml(settings_class, config)
    assert main([*words, "--config", str(config)]) == 2
    assert capsys.readouterr().err == f"finetune-{command}: --config: {config}: {message}\n"
    assert list(tmp_path.iterdir()) == [config]


@pytest.mark.parametrize(("command", "flag"), ALL_FLAGS, ids=lambda value: getattr(value, "name", value))
def test_what_is_of_another_kind_is_refused(command, flag, tmp_path, capsys):
    settings_class, main, required = COMMANDS[command]
    if flag.kind in (str, Path):
        given = 7 if not flag.is_list else "a text"
    else:
        given = "many" if not flag.is_list else 7
        assert main([*(f"--{key}={text}" for key, text in required.items()), f"{flag.option}=many"]) == 2
        printed = capsys.readouterr().err
        assert printed.startswith(f"finetune-{command}: {flag.option} is 'many', but must be ")
        assert len(printed.splitlines()) == 1
    with pytest.raises(UserError, match=f"^{re.escape(flag.option)} (is|can)"):
        settings_class(**{**required, flag.name: given})


@pytest.mark.parametrize(
    ("command", "flag"),
    [(command, flag) for command, flag in ALL_FLAGS if flag.is_path or flag.kind is Path],
    ids=lambda value: getattr(value, "name", value),
)
@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("", "is '', but must be a path"),
        ("a\0b", "no path holds a zero byte"),
        ("x" * 256, "a name of 256 bytes"),
        (f"a/{'é' * 128}/b", "a name of 256 bytes"),
    ],
    ids=["empty", "zero byte", "long", "long letters"],
)
def test_what_no_file_can_be_called_is_no_path(command, flag, path, words, tmp_path, monkeypatch, capsys):
    settings_class, main, required = COMMANDS[command]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"^{re.escape(flag.option)} .*{re.escape(words)}"):
        settings_class(**{**required, flag.name: (path,) * (flag.num_values or 1) if flag.is_list else path})
    given = [f"--{key}={text}" for key, text in required.items() if key != flag.name]
    # A list of nothing is none.
    if path or not flag.is_list or flag.num_values is not None or flag.positional:
        values = [path] * (flag.num_values or 1)
        assert main([*given, *([] if flag.positional else [flag.option]), *values]) == 2
        assert words in capsys.readouterr().err
    assert main([*given, "--config", path]) == 2
    assert "--config is " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("command", "flag"), ALL_FLAGS, ids=lambda value: getattr(value, "name", value))
def test_every_number_has_its_bounds_and_every_default_keeps_to_them(command, flag):
    bounds = (flag.above, flag.at_least, flag.below, flag.at_most)
    has_bounds = any(bound is not None for bound in bounds)
    is_number = flag.kind in (int, float) and not flag.only_default
    assert has_bounds == (is_number and (command, flag.name) not in UNBOUNDED)
    settings_class, _, required = COMMANDS[command]
    if not flag.is_required and (command, flag.name) != ("train", "dataset_dir"):  # Photographs take its place.
        settings_class(**{**required, flag.name: flag.default})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch-size=--"], "--batch-size is [], but must be a whole number"),
        (["--seed=12345678901234567890"], "--seed is 12345678901234567890, but must be at least"),
        (["--num-epochs-per-decay=nan"], "--num-epochs-per-decay is nan, but must be a finite number"),
        (["--model=:"], "--model is ':', which is no package.module:SPEC"),
        (["--model=a:"], "--model is 'a:', which is no package.module:SPEC"),
        (["--model=:b"], "--model is ':b', which is no package.module:SPEC"),
        (["--model="], "--model: there is no network ''"),
        (["--labels-offset=3"], "--labels-offset is 3, but the data has 3 classes"),
        (["--labels-offset=100"], "--labels-offset is 100, but the data has 3 classes"),
        (["--dataset-name="], "holds no data set"),
        (["--split="], "There is no  split of tiny"),
        (["--batch-size=99999999999999999999"], "but the split train has 8"),
        (["--batch-size=3", "--accumulate-steps=3"], "a step takes 9 images, but the split train has 8"),
        (["--batch-size=3", "--accumulate-steps=3"], "Give --batch-size 2 or less"),
        (["--batch-size=1", "--accumulate-steps=9"], "Give a smaller --accumulate-steps"),
        (["--clip-gradients=0"], "--clip-gradients is 0.0, but must be above 0"),
        (["--num-clones=99999999"], "--num-clones is 99999999, but there"),
        (["--model=lenet", "--image-size=1"], "1 pixels are too few for lenet"),
        (
            ["--model=lenet", "--image-size=8", "--learning-rate-multipliers=LeNet/conv1=0"],
            "Freeze it instead: --trainable-scopes LeNet/conv2,LeNet/fc3,LeNet/fc4",
        ),
    ],
)
def test_what_a_training_refuses(words, message, records, tmp_path, capsys):
    run = tmp_path / "run"
    assert train.main(["--dataset-dir", str(records), "--train-dir", str(run), "--batch-size=4", *words]) == 2
    assert message in capsys.readouterr().err
    assert not run.exists()


@pytest.mark.parametrize(
    ("command", "given", "message"),
    [
        ("train", {"cache_features": "often"}, "--cache-features is 'often', but must be auto, off or a number"),
        ("train", {"cache_features": "0"}, "--cache-features is '0'"),
        ("train", {"learning_rate_multipliers": ("a",)}, "'a' is not SCOPE=FACTOR"),
        ("train", {"learning_rate_multipliers": ("a=-1",)}, "factor above 0"),
        ("train", {"learning_rate_multipliers": ("a=nan",)}, "factor above 0"),
        ("train", {"learning_rate_multipliers": ("a=inf",)}, "factor above 0"),
        ("train", {"image_size": 100_000}, "--image-size is 100000, but must be above 0 and at most 8192"),
        ("train", {"learning_rate": 1e300}, "--learning-rate is 1e+300, but must be a number of up to 3.40282e+38"),
        ("train", {"batch_size": True}, "--batch-size is True, but must be a whole number"),
        ("train", {"batch_size": 3.5}, "--batch-size is 3.5, but must be a whole number"),
        ("train", {"trainable_scopes": "LeNet"}, "--trainable-scopes is 'LeNet', but must be a list"),
        ("train", {"dataset_dir": None}, "There is nothing to train on"),
        ("eval", {"checkpoint": ()}, "--checkpoint names nothing"),
        ("eval", {"compare": ("a",)}, "--compare takes 2 values, not 1"),
        ("eval", {"average": 2, "watch": True}, "--average and --watch don't go together"),
        ("convert", {"validation_size": 1, "validation_fraction": 0.1}, "are both given"),
        ("convert", {"validation_fraction": 0.5, "test_fraction": 0.5}, "leave nothing to train on"),
        ("convert", {"layout": "classes", "labels_csv": "t.csv"}, "--layout and --labels-csv are both given"),
        ("convert", {"dataset_name": "a/b"}, "--dataset-name is 'a/b'"),
        ("download", {"base_url": "foo"}, "no address of a server"),
        ("download", {"base_url": ""}, "no address of a server"),
        ("download", {"base_url": "http://"}, "no address of a server"),
        ("download", {"base_url": "http:///x"}, "no address of a server"),
        ("download", {"base_url": "http://["}, "no address of a server"),
        ("download", {"base_url": "http://a b"}, "no address of a server"),
        ("download", {"base_url": "http://h:99999"}, "no address of a server"),
        ("download", {"base_url": "http://h:x"}, "no address of a server"),
        ("download", {"base_url": "file:///etc"}, "no address of a server"),
        ("download", {"base_url": "ftp://h"}, "no address of a server"),
        ("download", {"base_url": "data:,a"}, "no address of a server"),
        ("download", {"base_url": "http://a\nb"}, "no address of a server"),
        ("download", {"base_url": "http://h/\n"}, "no address of a server"),
        ("export", {"quantize": ("int8",), "format": "tflite"}, "needs images to calibrate on"),
        ("export", {"quantize": ("int8",), "format": "onnx"}, "--quantize is for --format tflite"),
        ("predict", {"engine": "openvino", "gpu": (0, 1)}, "computes on the processor: --gpu 0,1 would"),
        ("predict", {"engine": "openvino", "gpu_memory_limit": 9}, "the processor: --gpu-memory-limit would"),
    ],
)
def test_what_flags_must_agree_on(command, given, message):
    settings_class, _, required = COMMANDS[command]
    with pytest.raises(UserError, match=re.escape(message)):
        settings_class(**{**required, **given})
