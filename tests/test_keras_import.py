"""Keras's files for Keras's networks here: with their top, without, and with another one."""

import keras
import numpy as np
import pytest

from finetune.commands import download, import_weights
from finetune.foreign_weights import keras_download
from finetune.model.checkpoint import open_checkpoint
from finetune.model.recognise import recognise
from finetune.nets.keras_networks.network import make_application

MODEL = "keras/mobilenet"
HEAD = {"conv_preds/kernel", "conv_preds/bias"}


def run_import(path, output, *words):
    return import_weights.main([str(path), f"--model={MODEL}", f"--output={output}", *words])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weights of MobileNet with a top of 7 classes, and without a top, as Keras writes them."""
    folder = tmp_path_factory.mktemp("keras")
    make_application("MobileNet", 7, include_top=True).save_weights(folder / "seven.weights.h5")
    without = make_application("MobileNet", 7, include_top=False)
    without.save_weights(folder / "without.weights.h5")
    without.save(folder / "without.h5")
    without.save(folder / "without.keras")
    return folder


def test_with_its_top(files, tmp_path, capsys):
    assert run_import(files / "seven.weights.h5", tmp_path / "seven.ckpt", "--num-classes=7") == 0
    assert "Logits on a fixed image differ by at most" in capsys.readouterr().err
    shapes = open_checkpoint(str(tmp_path / "seven.ckpt")).shapes
    likeness = recognise(shapes)
    assert (likeness.spec.name, likeness.num_classes) == (MODEL, 7)


@pytest.mark.parametrize("ending", [".weights.h5", ".h5", ".keras"])
def test_without_its_top(files, tmp_path, capsys, ending):
    assert run_import(files / f"without{ending}", tmp_path / "without.ckpt") == 0
    assert "has no top: 2 variables of the head" in capsys.readouterr().err
    checkpoint = open_checkpoint(str(tmp_path / "without.ckpt"))
    assert not HEAD & set(checkpoint.shapes)
    assert recognise(checkpoint.shapes).spec.name == MODEL
    expected = keras.saving.load_model(files / "without.keras").get_layer("conv_pw_13").kernel
    np.testing.assert_array_equal(checkpoint.read("conv_pw_13/kernel"), expected)


def test_another_top_is_not_left_out_without_a_word(files, tmp_path, capsys):
    assert run_import(files / "seven.weights.h5", tmp_path / "seven.ckpt") == 2
    message = capsys.readouterr().err
    assert "2 arrays more than keras/mobilenet without its top, but no top of 1000 classes" in message
    assert "--num-classes" in message
    assert not list(tmp_path.iterdir())


def test_a_file_of_another_network(files, tmp_path, capsys):
    words = [str(files / "without.weights.h5"), "--model=keras/mobilenet_v2", f"--output={tmp_path / 'other.ckpt'}"]
    assert import_weights.main(words) == 2
    assert "does not hold weights of keras/mobilenet_v2" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.fixture
def published(monkeypatch):
    """Keras's download, made of random weights; the list of the networks that it is asked for."""
    asked = []

    def make(application, num_classes, *, include_top, weights):
        assert (num_classes, include_top, weights) == (1000, True, "imagenet")
        asked.append(application)
        return make_application(application, num_classes, include_top=include_top)

    monkeypatch.setattr(keras_download, "make_application", make)
    return asked


def test_download_makes_a_checkpoint_once(published, tmp_path, capsys):
    for _ in range(2):
        assert download.main([MODEL, f"--output-dir={tmp_path}"]) == 0
        prefix = capsys.readouterr().out.strip()
        assert prefix == str(tmp_path / "keras/mobilenet/mobilenet.ckpt")
    assert published == ["MobileNet"]
    assert open_checkpoint(prefix).shapes["conv_preds/bias"] == (1000,)


def test_a_download_that_fails_says_what_to_fetch(monkeypatch, tmp_path, capsys):
    def fail(*_, **__):
        raise Exception("URL fetch failure on https://example.org/mobilenet.h5: None -- no such host")

    monkeypatch.setattr(keras_download, "make_application", fail)
    assert download.main([MODEL, f"--output-dir={tmp_path}"]) == 2
    message = capsys.readouterr().err
    assert "https://example.org/mobilenet.h5" in message
    assert f"finetune-import FILE --model {MODEL}" in message
    assert not list(tmp_path.rglob("*.index"))


def test_keras_takes_no_mirror(tmp_path, capsys):
    assert download.main([MODEL, f"--output-dir={tmp_path}", "--base-url=https://example.org"]) == 2
    assert "--base-url" in capsys.readouterr().err
