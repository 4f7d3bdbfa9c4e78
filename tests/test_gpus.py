"""Which GPUs may be used, and how much of their memory, on machines whose GPUs are made up; what is said where none is.

TensorFlow's functions are replaced by ones that keep its rules: what is chosen stays, once something has computed.
"""

import dataclasses
import logging
import tomllib
from pathlib import Path

import pytest
import tensorflow as tf

from finetune import api, notices
from finetune.commands import evaluate, import_weights, predict, train
from finetune.commands.sweep_folder import begun_sweep
from finetune.errors import UserError
from finetune.model import gpus
from finetune.model.gpus import use_gpus
from finetune.settings.evaluate import EvalSettings
from finetune.settings.export import ExportSettings
from finetune.settings.flags import flags_of
from finetune.settings.gpus import GpuSettings
from finetune.settings.import_weights import ImportSettings
from finetune.settings.predict import PredictSettings
from finetune.settings.settings_file import CONFIG_FILE
from finetune.settings.train import TrainSettings
from finetune.training import devices

GPUS = [tf.config.PhysicalDevice(f"/physical_device:GPU:{number}", "GPU") for number in range(3)]


@dataclasses.dataclass
class Machine:
    """What TensorFlow was told of the GPUs; `None` stands for what it wasn't told."""

    present: list
    visible: list
    growth: dict = dataclasses.field(default_factory=dict)
    parts: dict = dataclasses.field(default_factory=dict)
    computes: bool = False

    def set_visible_devices(self, chosen, kind):
        assert kind == "GPU"
        if chosen != self.visible:
            self._change()
            self.visible = list(chosen)

    def set_memory_growth(self, gpu, is_on):
        if gpu in self.parts:
            raise ValueError("Cannot set memory growth on device when virtual devices configured")
        if self.growth.get(gpu) != is_on:
            self._change()
            self.growth[gpu] = is_on

    def set_logical_device_configuration(self, gpu, parts):
        if self.parts.get(gpu) != parts:
            self._change()
            self.parts[gpu] = parts

    def _change(self):
        if self.computes:
            raise RuntimeError("Devices cannot be modified after being initialized")


@pytest.fixture
def machine(monkeypatch):
    """A function that makes this one a machine of so many GPUs."""
    monkeypatch.setattr(notices, "_told", set())
    monkeypatch.delenv(gpus.VISIBLE_VARIABLE, raising=False)

    def make(num_gpus):
        made = Machine(GPUS[:num_gpus], GPUS[:num_gpus])
        config = tf.config
        monkeypatch.setattr(config, "list_physical_devices", lambda kind=None: made.present if kind == "GPU" else [])
        monkeypatch.setattr(config, "get_visible_devices", lambda kind=None: made.visible if kind == "GPU" else [])
        monkeypatch.setattr(config, "get_logical_device_configuration", made.parts.get)
        monkeypatch.setattr(config.experimental, "get_device_details", lambda gpu: {"device_name": f"A{gpu.name[-1]}"})
        monkeypatch.setattr(config.experimental, "set_memory_growth", made.set_memory_growth)
        for name in ("set_visible_devices", "set_logical_device_configuration"):
            monkeypatch.setattr(config, name, getattr(made, name))
        return made

    return make


def driver(monkeypatch, tmp_path, *nodes, nvidia_smi=None):
    """Makes this a machine with these device nodes."""
    for node in nodes:
        (tmp_path / node).touch()
    monkeypatch.setattr(gpus, "DEVICES_FOLDER", tmp_path)
    monkeypatch.setattr(gpus.shutil, "which", lambda program: nvidia_smi)


# Those that are used


@pytest.mark.parametrize(
    ("given", "visible"), [(None, GPUS), ((1,), GPUS[1:2]), ((2, 0), [GPUS[0], GPUS[2]]), ("none", [])]
)
def test_the_gpus_that_are_named_are_used_and_take_memory_as_they_need_it(machine, given, visible):
    here = machine(3)
    use_gpus(GpuSettings(gpu=given))
    assert here.visible == visible
    assert here.growth == dict.fromkeys(visible, True)


def test_memory_is_taken_at_once_where_that_is_told(machine):
    here = machine(2)
    use_gpus(GpuSettings(gpu_memory_growth=False))
    assert here.growth == dict.fromkeys(GPUS[:2], False)


def test_a_limit_is_a_logical_device_of_each_gpu_and_goes_without_growth(machine):
    here = machine(3)
    use_gpus(GpuSettings())  # Such as of a plan that was made before.
    use_gpus(GpuSettings(gpu=(0, 2), gpu_memory_limit=2048))
    assert here.parts == {gpu: [tf.config.LogicalDeviceConfiguration(memory_limit=2048)] for gpu in here.visible}
    assert [here.growth[gpu] for gpu in here.visible] == [False, False]


@pytest.mark.parametrize(
    "given", [{}, {"gpu": (1,), "gpu_memory_limit": 2048}, {"gpu": "none"}, {"gpu_memory_growth": False}], ids=str
)
def test_what_is_told_again_is_no_change(machine, given):
    here = machine(2)
    use_gpus(GpuSettings(**given))
    here.computes = True
    use_gpus(GpuSettings(**given))
    use_gpus(GpuSettings())  # An evaluation that follows a training.


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"gpu": (1,)}, "--gpu: TensorFlow has begun otherwise"),
        ({"gpu_memory_limit": 9}, "--gpu-memory-limit: TensorFlow has begun otherwise"),
        ({"gpu": (1,), "gpu_memory_growth": False}, "--gpu and --gpu-memory-growth: TensorFlow has begun otherwise"),
    ],
)
def test_what_comes_too_late_is_refused(machine, given, words):
    here = machine(2)
    here.computes = True
    with pytest.raises(UserError, match=rf"(?s)^{words} in this program: Devices .* begin anew"):
        use_gpus(GpuSettings(**given))


def test_what_a_program_has_set_itself_counts(machine):
    here = machine(2)
    here.parts[GPUS[0]] = own = [tf.config.LogicalDeviceConfiguration(memory_limit=1)] * 2
    use_gpus(GpuSettings())
    assert here.parts == {GPUS[0]: own}
    assert here.growth == {GPUS[1]: True}
    with pytest.raises(UserError, match=r"--gpu-memory-growth: TensorFlow has begun otherwise .* virtual devices"):
        use_gpus(GpuSettings(gpu_memory_growth=True))
    late = machine(2)
    late.computes = True
    use_gpus(GpuSettings())
    assert not late.growth


def test_training_knows_only_the_gpus_that_may_be_used(machine, monkeypatch):
    here = machine(3)
    use_gpus(GpuSettings(gpu=(1,)))
    (cpu, *_) = tf.config.list_logical_devices("CPU")
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: here.visible if kind == "GPU" else [cpu])
    assert devices.describe_machine(on_cpu=False)["devices"] == ["A1"]
    assert devices.uses_xla("auto", on_cpu=False, num_devices=1)
    with pytest.raises(UserError, match="--num-clones is 2, but there is 1 GPU here"):
        devices.choose_strategy(2, on_cpu=False)
    use_gpus(GpuSettings(gpu="none"))
    assert devices.describe_machine(on_cpu=False)["devices"] == ["CPU"]
    assert not devices.uses_xla("auto", on_cpu=False, num_devices=1)
    assert isinstance(devices.choose_strategy(1, on_cpu=False), type(tf.distribute.get_strategy()))


# Those that aren't there


def test_a_gpu_that_there_isnt_is_refused_with_those_that_there_are(machine, monkeypatch, records, tmp_path, capsys):
    machine(2)
    words = ["--dataset-dir", str(records), "--train-dir", str(tmp_path / "run"), "--model=lenet"]
    assert train.main([*words, "--gpu", "0,7"]) == 2
    printed = capsys.readouterr()
    assert printed.err == ("finetune-train: --gpu 7: there is no such GPU.\n  Give one or more of 0 (A0), 1 (A1).\n")
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv(gpus.VISIBLE_VARIABLE, "4,6")
    assert train.main([*words, "--gpu=4"]) == 2
    assert "no such GPU among those of CUDA_VISIBLE_DEVICES=4,6, counted from 0." in capsys.readouterr().err


def test_a_gpu_that_is_named_where_there_is_none_is_refused(machine, run, records, capsys):
    machine(0)
    assert evaluate.main(["--checkpoint", str(run), "--dataset-dir", str(records), "--gpu=0"]) == 2
    assert capsys.readouterr().err == (
        "finetune-eval: --gpu 0: TensorFlow finds no GPU here.\n"
        "  Leave the flag out, or give --gpu none, to compute on the processor.\n"
    )


def test_a_limit_of_memory_where_there_is_no_gpu_is_said_to_do_nothing(machine, caplog):
    machine(0)
    with caplog.at_level(logging.INFO):
        use_gpus(GpuSettings(gpu_memory_limit=100))
        use_gpus(GpuSettings(gpu="none"))
    assert caplog.messages == ["--gpu-memory-limit: nothing is to be done for it, TensorFlow finds no GPU here."]


# A driver, and a TensorFlow that can't use it


def test_a_gpu_that_tensorflow_cant_use_is_told_once_with_what_to_install(machine, monkeypatch, tmp_path, caplog):
    machine(0)
    driver(monkeypatch, tmp_path, "nvidia0", "nvidia1", "nvidiactl")
    with caplog.at_level(logging.INFO):
        use_gpus(GpuSettings())
        use_gpus(GpuSettings())
    (told,) = caplog.records
    assert told.levelno == logging.WARNING
    cuda = tf.sysconfig.get_build_info()["cuda_version"]
    assert told.getMessage() == (
        f"There is a GPU, {tmp_path}/nvidia0, but TensorFlow can't use it: libraries of CUDA {cuda} are missing, or "
        "the driver is older than they need. pip install '.[gpu]' brings CUDA's libraries; TF_CPP_MIN_LOG_LEVEL=0 "
        "shows what TensorFlow misses. The processor computes."
    )
    with pytest.raises(UserError, match=r"finds no GPU here\. There is a GPU, .* pip install"):
        use_gpus(GpuSettings(gpu=(0,)))


def test_a_gpu_of_windows_is_one_where_its_driver_is(machine, monkeypatch, tmp_path, caplog):
    machine(0)
    driver(monkeypatch, tmp_path, "dxg")
    use_gpus(GpuSettings())
    assert not caplog.messages
    driver(monkeypatch, tmp_path, "dxg", nvidia_smi="/usr/lib/wsl/lib/nvidia-smi")
    use_gpus(GpuSettings())
    assert f"There is a GPU, {tmp_path}/dxg, but" in caplog.text


@pytest.mark.parametrize(
    ("nodes", "visible", "given"),
    [
        ((), None, None),
        (("nvidiactl", "null"), None, None),
        (("nvidia0",), "", None),
        (("nvidia0",), "-1", None),
        (("nvidia0",), None, "none"),
    ],
)
def test_nothing_is_said_where_there_is_no_gpu_or_none_is_wanted(
    machine, monkeypatch, tmp_path, caplog, nodes, visible, given
):
    machine(0)
    driver(monkeypatch, tmp_path, *nodes, nvidia_smi="/usr/bin/nvidia-smi")  # Which is installed without one, too.
    if visible is not None:
        monkeypatch.setenv(gpus.VISIBLE_VARIABLE, visible)
    with caplog.at_level(logging.INFO):
        use_gpus(GpuSettings(gpu=given))
    assert not caplog.messages


def test_a_variable_that_may_hide_it_is_named(machine, monkeypatch, tmp_path, caplog):
    machine(0)
    driver(monkeypatch, tmp_path, "nvidia0")
    monkeypatch.setenv(gpus.VISIBLE_VARIABLE, "7")
    use_gpus(GpuSettings())
    assert "or CUDA_VISIBLE_DEVICES=7 hides it" in caplog.text


def test_a_tensorflow_without_cuda_is_told_as_such(machine, monkeypatch, tmp_path, caplog):
    machine(0)
    driver(monkeypatch, tmp_path, "nvidia0")
    monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: False)
    use_gpus(GpuSettings())
    assert "but this TensorFlow is built without CUDA: pip install '.[gpu]'." in caplog.text


# Settings


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--gpu", "0,1"], (0, 1)),
        (["--gpu=0", "--gpu=2"], (0, 2)),
        (["--gpu=none"], "none"),
        (["--gpu=0", "--gpu=none"], "none"),
        (["--gpu=none", "--gpu=1"], (1,)),
        ([], None),
    ],
)
def test_gpus_on_the_command_line(words, expected, monkeypatch):
    seen = []
    monkeypatch.setattr(predict, "_predict_and_write", seen.append)
    assert predict.main(["--checkpoint=c", *words]) == 0
    assert seen[0].gpu == expected


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"gpu": ()}, "--gpu names nothing"),
        ({"gpu": (1, 0, 1)}, "--gpu 1,0,1 names a GPU twice"),
        ({"gpu": "all"}, "--gpu is 'all', but must be"),
        ({"gpu": "none", "gpu_memory_limit": 5}, "--gpu-memory-limit would have no effect with --gpu none"),
        ({"gpu": "none", "gpu_memory_growth": False}, "--gpu-memory-growth would have no effect with --gpu none"),
        ({"gpu_memory_growth": True, "gpu_memory_limit": 5}, "don't go together"),
    ],
)
def test_what_gpu_flags_must_agree_on(given, words):
    for settings_class, required in ((GpuSettings, {}), (EvalSettings, {"dataset_dir": "d"})):
        with pytest.raises(UserError, match=words):
            settings_class(**required, **given)


def test_training_on_the_cpu_goes_with_no_gpu():
    with pytest.raises(UserError, match=r"(?s)--clone-on-cpu trains on the CPU.*--clone-on-cpu=false"):
        TrainSettings(dataset_dir="d", clone_on_cpu=True, gpu=(0,))
    TrainSettings(dataset_dir="d", clone_on_cpu=True, gpu="none")


def calls_of_the_api(folder):
    """Of each function that computes a call that asks for GPU 0, as far as it comes before it is refused."""
    training = {"dataset_dir": folder / "records", "train_dir": folder / "run", "gpu": (0,)}
    classifier = {"checkpoint": folder / "run", "gpu": (0,)}
    return {
        "train": lambda: api.train(TrainSettings(**training)),
        "plan": lambda: api.plan(TrainSettings(**training)),
        "verify": lambda: api.verify(TrainSettings(**training, resume=True)),
        "sweep": lambda: api.sweep(TrainSettings(**training, sweep=("seed=1|2",), trials=2)),
        "folds": lambda: api.cross_validate(TrainSettings(**training, folds=2)),
        "eval": lambda: api.evaluate(EvalSettings(dataset_dir=folder, checkpoint=(folder / "run",), gpu=(0,))),
        "compare": lambda: evaluate.compare(EvalSettings(dataset_dir=folder, compare=(folder, folder), gpu=(0,))),
        "watch": lambda: next(evaluate.watch(EvalSettings(dataset_dir=folder, watch=True, timeout=0.01, gpu=(0,)))),
        "predict": lambda: api.predict(PredictSettings(**classifier, images=(__file__,))),
        "export": lambda: api.export(ExportSettings(**classifier, output_dir=folder / "export")),
        "import": lambda: import_weights.import_weights(
            ImportSettings(file=("f.npz",), model="lenet", output=folder / "imported", gpu=(0,))
        ),
    }


@pytest.mark.parametrize("name", calls_of_the_api(Path()))
def test_every_function_that_computes_uses_them_before_anything_else(name, machine, tmp_path):
    machine(0)
    with pytest.raises(UserError, match=r"--gpu 0: TensorFlow finds no GPU here\."):
        calls_of_the_api(tmp_path)[name]()
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]


def test_a_run_doesnt_keep_the_gpus_of_its_machine(records, tmp_path):
    """Begun by flags of GPUs, it is resumed by others, and proven without."""
    words = ["--train-dir", str(tmp_path / "run"), "--eval-every=0"]
    begin = ["--dataset-dir", str(records), "--model=lenet", "--batch-size=4", "--save-interval-seconds=0"]
    assert train.main([*begin, *words, "--max-steps=1", "--gpu=none"]) == 0
    assert train.main(["--resume", *words, "--max-steps=2", "--gpu-memory-limit=512"]) == 0
    assert train.main(["--resume", "--verify", "--train-dir", str(tmp_path / "run")]) == 0
    with (tmp_path / "run" / CONFIG_FILE).open("rb") as file:
        assert not {flag.name for flag in flags_of(GpuSettings)}.intersection(tomllib.load(file))


def test_a_sweep_doesnt_keep_them_either(tmp_path):
    told = {"dataset_dir": "d", "sweep": ("seed=1|2",), "trials": 2}
    with begun_sweep(TrainSettings(**told, gpu=(0,), gpu_memory_limit=5), tmp_path / "sweep", Path("d")):
        pass
    resumed = TrainSettings(**told, train_dir=tmp_path / "sweep", resume=True, gpu="none")
    with begun_sweep(resumed, tmp_path / "sweep", Path("d")):
        pass
