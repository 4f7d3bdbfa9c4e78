"""OpenVINO as a format of export, and as what computes predictions: TensorFlow's numbers, in the type asked for."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from image_files import write_file
from tiny_runs import CLASSES, write_run

from finetune.commands import export, predict
from finetune.errors import UserError
from finetune.evaluation.scoring import inference_function
from finetune.model import openvino_network
from finetune.prediction.classifier import restore_classifier
from finetune.prediction.engines import inference_by
from finetune.settings.export import ExportSettings
from finetune.settings.predict import PredictSettings

pytestmark = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs the extra openvino")

NETWORKS = {"lenet": 28, "mobilenet_v1_025": 64}


@pytest.fixture(scope="module", params=NETWORKS)
def network_run(request, tmp_path_factory):
    """A run of each network, whose random weights tell its classes apart."""
    return write_run(tmp_path_factory.mktemp("runs") / "run", request.param, image_size=NETWORKS[request.param])


@pytest.fixture(scope="module")
def openvino():
    """As our own commands import it."""
    return openvino_network.load_openvino("a test")


def predicted(capsys, run, *words, status=0):
    """What standard output and standard error are told."""
    assert predict.main([f"--checkpoint={run}", "--format=json", "--top-k=3", *map(str, words)]) == status
    told = capsys.readouterr()
    return json.loads(told.out), told.err


def probabilities(results):
    return np.array(
        [[guess["probability"] for guess in result["guesses"]] for result in results if "guesses" in result]
    )


def names(results):
    return [[guess["name"] for guess in result.get("guesses", ())] for result in results]


def test_a_file_is_run_without_us_as_it_says(network_run, records, tmp_path, openvino):
    output = tmp_path / "out"
    words = [f"--checkpoint={network_run}", f"--output-dir={output}", f"--dataset-dir={records}", "--batch-size=5"]
    assert export.main([*words, "--format=openvino"]) == 0
    assert sorted(path.name for path in output.iterdir()) == ["export.json", "labels.txt", "model.bin", "model.xml"]
    description = json.loads((output / "export.json").read_text())
    network, exported = description["measured"]
    assert exported["largest_difference"] <= 1e-4 and exported["accuracy"] == network["accuracy"]
    assert exported["num_bytes"] == sum((output / f"model.{ending}").stat().st_size for ending in ("bin", "xml"))

    settings = ExportSettings(checkpoint=network_run, output_dir=output)
    infer = inference_function(restore_classifier(settings).model)
    (file,) = description["files"]
    call, _, last = file["loading"].removesuffix("['probabilities']").partition("({'images': ...})")
    assert not last
    compiled = eval(call, {"openvino": openvino, "file": output / file["file"]})
    _, *shape = compiled.input("images").partial_shape
    for num_images in (1, 5):
        sizes = [num_images, *(size.get_length() for size in shape)]
        images = np.random.RandomState(num_images).uniform(-1, 1, sizes).astype(np.float32)
        answers = compiled({"images": images})
        np.testing.assert_allclose(answers["logits"], infer(images), atol=1e-4)
        np.testing.assert_allclose(answers["probabilities"], tf.nn.softmax(infer(images)), atol=1e-5)
    in_file = openvino.Core().read_model(output / file["file"])
    assert json.loads(in_file.get_rt_info("class_names").value) == list(CLASSES)
    assert in_file.input("images").node.layout.to_string() == "[N,H,W,C]"
    assert {op.get_element_type().get_type_name() for op in in_file.get_ops() if op.get_type_name() == "Constant"} <= {
        *("f32", "i32", "i64")
    }


def test_predictions_are_tensorflows(network_run, records, tmp_path, capsys):
    """Of several batches, one with a file that can't be read, the last one smaller."""
    bad = write_file(tmp_path / "bad.jpg", b"no image")
    words = [network_run, bad, records / "images", "--batch-size=6"]
    expected, _ = predicted(capsys, *words, status=4)
    results, told = predicted(capsys, *words, "--engine=openvino", "--gpu=none", status=4)
    assert re.search(r"OpenVINO [\d.]+ computes, in float32; made ready in \d+\.\d seconds", told)
    assert len(results) == 21 and "error" in results[0]
    assert names(results) == names(expected)
    np.testing.assert_allclose(probabilities(results), probabilities(expected), atol=1e-4)


@pytest.mark.parametrize(("precision", "capability"), [("bfloat16", "BF16"), ("float16", "FP16")])
def test_the_type_is_the_one_that_is_asked_for_or_none(run, openvino, precision, capability):
    """Where the processor lacks it OpenVINO would take another one, without a word."""
    model = restore_classifier(PredictSettings(checkpoint=run, images=("a",), precision=precision)).model
    if capability not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(
            UserError, match=rf"in place of {precision} on this processor\.\n  Give --precision float32"
        ):
            inference_by("openvino", model)
        return
    images = np.random.RandomState(0).uniform(-1, 1, [4, 32, 32, 3]).astype(np.float32)
    logits = inference_by("openvino", model)(images)
    assert model.compute_dtype == tf.as_dtype(precision)
    model.compute_dtype = tf.float32
    exact = inference_by("tensorflow", model)(images)
    np.testing.assert_allclose(inference_by("openvino", model)(images), exact, atol=1e-4)
    assert 1e-4 < np.abs(logits - exact).max() < 0.1


def test_another_type_than_the_one_asked_for_is_no_answer(monkeypatch, openvino):
    class Compiled:
        def get_property(self, name):
            return openvino.Type.bf16

    monkeypatch.setattr(openvino.Core, "compile_model", lambda *given: Compiled())
    with pytest.raises(UserError, match="OpenVINO computes bfloat16 in place of float32"):
        openvino_network.compile_network(None, "float32", "--engine openvino")


def test_without_the_extra_it_is_said_and_nothing_written(run, records, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    checkpoint = f"--checkpoint={run}"
    predicting = [checkpoint, str(records / "images"), "--engine=openvino", f"--output={tmp_path / 'out.csv'}"]
    for command, words in (
        (export, [checkpoint, f"--output-dir={tmp_path / 'out'}", "--format=openvino"]),
        (predict, predicting),
        (predict, [*predicting, "--shard=1/2"]),
    ):
        assert command.main(words) == 2
        error = capsys.readouterr().err
        assert "openvino is not installed" in error and "pip install 'slim-finetune[openvino]'" in error
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and not path.name.startswith(".")]


def test_shares_are_of_one_engine(run, records, tmp_path, capsys):
    words = [f"--checkpoint={run}", str(records / "images"), f"--output={tmp_path / 'out.csv'}"]
    assert predict.main([*words, "--engine=openvino", "--shard=1/1"]) == 0
    assert predict.main([*words, "--merge-shards=1"]) == 2
    assert "--engine" in capsys.readouterr().err
    assert predict.main([*words, "--engine=openvino", "--merge-shards=1"]) == 0
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 21


def test_an_operation_that_it_lacks_is_named():
    function = tf.function(lambda images: {"logits": tf.linalg.det(images)}, autograph=False)
    concrete = function.get_concrete_function(images=tf.TensorSpec([None, 3, 3], tf.float32, name="images"))
    with pytest.raises(
        UserError, match=r"--format openvino: .* operations: MatrixDeterminant\.\n  Give another --format\."
    ):
        openvino_network.convert(concrete, "--format openvino")


def test_nobody_is_told_of_an_import(tmp_path):
    """Its telemetry would begin with files in the user's home."""
    code = """
import sys
import openvino_telemetry
from finetune.model.openvino_network import load_openvino
print(load_openvino("a test").Core().available_devices)
assert sys.modules["openvino_telemetry"] is openvino_telemetry
"""
    environment = {**os.environ, "HOME": str(tmp_path), "CI": ""}
    output = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "CPU" in output.stdout
    assert not list(tmp_path.iterdir())
