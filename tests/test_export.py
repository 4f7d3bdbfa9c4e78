"""finetune-export: other programs get the probabilities that an evaluation gets, or nothing is written."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from image_files import encode, picture
from tiny_runs import CLASSES, write_records, write_run

from finetune.commands import export, predict
from finetune.evaluation.scoring import inference_function
from finetune.exports import saved_model, tflite_model
from finetune.model.checkpoint import Checkpoint, write_checkpoint
from finetune.nets import get_spec
from finetune.prediction.classifier import restore_classifier


def run_export(run, output, *words):
    return export.main([f"--checkpoint={run}", f"--output-dir={output}", *map(str, words)])


def read_description(output):
    description = json.loads((output / "export.json").read_text())
    return description, {one["name"]: one for one in description["measured"]}


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def predicted(capsys, run, files):
    capsys.readouterr()
    assert predict.main([f"--checkpoint={run}", "--format=json", "--top-k=3", *map(str, files)]) == 0
    rows = np.zeros([len(files), len(CLASSES)])
    for row, result in zip(rows, json.loads(capsys.readouterr().out), strict=True):
        for guess in result["guesses"]:
            row[guess["class"]] = guess["probability"]
    return rows


def test_a_saved_model_takes_files_and_pixels_and_knows_the_names(run, records, tmp_path, capsys):
    output = tmp_path / "served"
    assert run_export(run, output, f"--dataset-dir={records}") == 0
    served = tf.saved_model.load(str(output))
    files = sorted((records / "images").glob("validation_*.jpg"))
    expected = predicted(capsys, run, files)
    answers = served.signatures["serving_default"](encoded=tf.constant([file.read_bytes() for file in files]))
    np.testing.assert_allclose(answers["probabilities"], expected, atol=1e-5)
    names = [CLASSES[index] for index in expected.argmax(axis=1)]
    assert [name.decode() for name in answers["prediction_name"].numpy()] == names
    assert answers["prediction"].numpy().tolist() == expected.argmax(axis=1).tolist()
    pixels = tf.io.decode_jpeg(files[0].read_bytes(), channels=3)
    from_pixels = served.signatures["images"](images=tf.stack([pixels, pixels]))
    np.testing.assert_allclose(from_pixels["probabilities"], expected[[0, 0]], atol=1e-5)
    assert [name.decode() for name in served.signatures["class_names"]()["class_names"].numpy()] == list(CLASSES)
    assert (output / "assets/labels.txt").read_text() == "0:blue\n1:green\n2:red\n"
    description, measured = read_description(output)
    assert description["measured_on"] == {"split": "validation", "num_images": 12, "caution": None}
    assert measured["saved_model"]["accuracy"] == measured["network"]["accuracy"]
    assert measured["network"]["accuracy"] == np.mean(expected.argmax(axis=1) == np.arange(12) % 3)


@pytest.mark.slow
def test_a_saved_model_needs_nothing_of_this_package(run, tmp_path):
    assert run_export(run, tmp_path / "served") == 0
    (tmp_path / "picture.jpg").write_bytes(encode(picture()))
    script = """
import sys
import tensorflow as tf
served = tf.saved_model.load("served")
answers = served.signatures["serving_default"](encoded=tf.constant([open("picture.jpg", "rb").read()]))
assert not [name for name in sys.modules if name.split(".")[0] in ("finetune", "tf_slim")]
print(answers["prediction_name"].numpy()[0].decode())
"""
    output = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert output.stdout.strip() in CLASSES


@pytest.mark.parametrize("preprocessing", ["inception", "vgg", "lenet", "cifarnet"])
@pytest.mark.parametrize("use_grayscale", [False, True])
def test_every_preprocessing_can_be_saved(tmp_path, preprocessing, use_grayscale):
    run = write_run(tmp_path / "run", preprocessing=preprocessing, use_grayscale=use_grayscale)
    assert run_export(run, tmp_path / "served") == 0
    description, measured = read_description(tmp_path / "served")
    assert description["channels"] == (1 if use_grayscale else 3)
    assert measured["saved_model"]["largest_difference"] <= saved_model.TOLERANCE


def test_tflite_in_three_precisions(run, records, tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    output = tmp_path / "lite"
    words = ["--format=tflite", "--quantize=none,float16,int8", f"--dataset-dir={records}"]
    assert run_export(run, output, *words) == 0
    assert names_in(output) == [
        "export.json",
        "labels.txt",
        *["model_float16.tflite", "model_float32.tflite", "model_int8.tflite"],
    ]
    description, measured = read_description(output)
    assert description["calibrated_on"] == {"split": "train", "num_images": 8}
    assert measured["tflite float32"]["largest_difference"] <= 1e-4
    assert measured["tflite float32"]["accuracy"] == measured["network"]["accuracy"]
    assert 0 < measured["tflite float16"]["largest_difference"] < 0.05
    assert 0 < measured["tflite int8"]["largest_difference"] < 0.3
    sizes = [measured[f"tflite {precision}"]["num_bytes"] for precision in ("int8", "float16", "float32")]
    assert sizes[0] < 0.6 * sizes[1] < 0.4 * sizes[2]
    infer = Interpreter(model_path=str(output / "model_int8.tflite")).get_signature_runner()
    answers = infer(images=np.zeros([1, 32, 32, 3], np.float32))
    assert answers["probabilities"].shape == answers["logits"].shape == (1, 3)


def test_int8_is_measured_on_what_it_was_calibrated_on_and_says_so(run, tmp_path):
    records = write_records(tmp_path / "records")
    words = ["--format=tflite", "--quantize=int8", f"--dataset-dir={records}", "--num-calibration-images=5"]
    assert run_export(run, tmp_path / "lite", *words) == 0
    description, _ = read_description(tmp_path / "lite")
    assert description["calibrated_on"] == {"split": "validation", "num_images": 5}
    assert description["measured_on"]["split"] == "validation"


@pytest.mark.parametrize("words", [["--format=tflite"], ["--format=onnx"], ["--format=openvino"], []])
def test_what_goes_in_and_out_is_said(run, tmp_path, words):
    assert run_export(run, tmp_path / "out", *words) == 0
    description, _ = read_description(tmp_path / "out")
    assert description["calibrated_on"] is None
    (file,) = description["files"]
    assert (tmp_path / "out" / file["file"]).exists()
    for signature in file["signatures"]:
        for tensor in signature["inputs"] + signature["outputs"]:
            assert tensor["in_words"]
            assert all(size is None or size > 0 for size in tensor["shape"])
    outputs = {one["name"]: one for one in file["signatures"][0]["outputs"]}
    assert outputs["logits"]["shape"][1] == outputs["probabilities"]["shape"][1] == len(description["class_names"])
    assert "softmax" in outputs["probabilities"]["in_words"]


def test_labels_that_do_not_start_at_the_first_output(tmp_path):
    run = write_run(tmp_path / "run", labels_offset=1)
    (run / "labels.txt").write_text("0:background\n1:blue\n2:green\n3:red\n")
    assert run_export(run, tmp_path / "out", "--format=tflite") == 0
    description, _ = read_description(tmp_path / "out")
    assert description["class_names"] == list(CLASSES)
    assert description["labels_offset"] == 1


def test_an_accuracy_on_the_images_that_trained_it_is_called_so(tmp_path, records, capsys):
    from finetune.datasets.dataset import content_hash
    from finetune.datasets.dataset_search import find_dataset
    from finetune.runs.provenance import PROVENANCE_FILE

    run = write_run(tmp_path / "run")
    sha256 = content_hash(find_dataset(records, None, "train"))
    data = {"name": "tiny", "split": "train", "num_examples": 12, "sha256": sha256}
    (run / PROVENANCE_FILE).write_text(json.dumps({"data": data}))
    words = ["--format=tflite", f"--dataset-dir={records}"]
    assert run_export(run, tmp_path / "train", *words, "--split=train") == 0
    description, _ = read_description(tmp_path / "train")
    assert description["measured_on"]["caution"].startswith("these images trained it")
    assert f"caution: {description['measured_on']['caution']}" in capsys.readouterr().out
    assert run_export(run, tmp_path / "validation", *words) == 0
    assert read_description(tmp_path / "validation")[0]["measured_on"]["caution"] is None


def test_what_gives_no_numbers_is_not_written(run, tmp_path, capsys, monkeypatch):
    def runner(infer):
        return lambda images, encoded: np.full([len(images), len(CLASSES)], np.nan)

    monkeypatch.setattr(tflite_model, "_runner", runner)
    assert run_export(run, tmp_path / "lite", "--format=tflite", "--quantize=float16") == 2
    error = capsys.readouterr().err
    assert "tflite float16: its probabilities are not finite" in error and "leave it out of --quantize" in error
    assert names_in(tmp_path) == []


def test_a_network_of_nan_is_not_exported(run, tmp_path, capsys):
    checkpoint = Checkpoint(str(run / "model.ckpt-7"))
    values = {name: checkpoint.read(name) for name in checkpoint.shapes}
    values["CifarNet/logits/weights"] = values["CifarNet/logits/weights"] * np.float32("nan")
    damaged = write_run(tmp_path / "run")
    write_checkpoint(damaged / "model.ckpt-7", values)
    assert run_export(damaged, tmp_path / "served") == 2
    assert "values of CifarNet/logits/weights are NaN or infinite" in capsys.readouterr().err
    assert names_in(tmp_path) == ["run"]


def test_batch_norm_is_folded_into_convolutions(tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    run = write_run(tmp_path / "run", model="mobilenet_v1_025", image_size=64)
    assert run_export(run, tmp_path / "lite", "--format=tflite") == 0
    interpreter = Interpreter(model_path=str(tmp_path / "lite/model_float32.tflite"))
    operations = {operation["op_name"] for operation in interpreter._get_ops_details()}
    assert {"CONV_2D", "DEPTHWISE_CONV_2D"} <= operations
    assert not operations & {"MUL", "ADD", "SUB", "RSQRT"}


def test_onnx(run, records, tmp_path):
    pytest.importorskip("tf2onnx")
    import onnxruntime

    output = tmp_path / "onnx"
    assert run_export(run, output, "--format=onnx", f"--dataset-dir={records}", "--max-num-batches=1") == 0
    _, measured = read_description(output)
    assert measured["onnx"]["largest_difference"] <= 1e-4
    session = onnxruntime.InferenceSession(str(output / "model.onnx"))
    assert json.loads(session.get_modelmeta().custom_metadata_map["class_names"]) == list(CLASSES)
    logits, probabilities = session.run(["logits", "probabilities"], {"images": np.zeros([5, 32, 32, 3], np.float32)})
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), probabilities, atol=1e-6)


def test_what_computes_something_else_is_not_written(run, tmp_path, capsys, monkeypatch):
    output = tmp_path / "served"
    assert run_export(run, output) == 0
    before = (output / "export.json").read_bytes()
    assert run_export(run, output) == 2
    assert "--overwrite" in capsys.readouterr().err
    monkeypatch.setattr(saved_model, "TOLERANCE", -1.0)
    assert run_export(run, output, "--overwrite") == 2
    assert "differ" in capsys.readouterr().err
    assert (output / "export.json").read_bytes() == before
    assert names_in(tmp_path) == ["served"]


def test_overwriting_replaces_all_of_an_export_and_nothing_else(run, tmp_path, capsys):
    output = tmp_path / "out"
    assert run_export(run, output, "--format=tflite") == 0
    assert run_export(run, output, "--overwrite") == 0
    assert "saved_model.pb" in names_in(output)
    assert "model_float32.tflite" not in names_in(output)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").touch()
    assert run_export(run, other, "--overwrite") == 2
    assert "no earlier export" in capsys.readouterr().err
    assert names_in(tmp_path) == ["other", "out"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--format=tflite", "--quantize=int8"], ["--quantize int8", "--dataset-dir"]),
        (["--format=tflite", "--quantize=int4"], ["'int4'", "float16"]),
        (["--quantize=float16"], ["--quantize", "tflite"]),
        (["--format=caffe"], ["--format", "saved_model"]),
        (["--max-num-batches=0"], ["--max-num-batches"]),
        (["--dataset-dir=FOUR"], ["tiny", "model.ckpt-7", "a", "blue"]),
        (["--checkpoint=/nowhere"], ["/nowhere"]),
    ],
)
def test_mistakes(run, tmp_path, capsys, words, parts):
    four = write_records(tmp_path / "records", classes=("a", "b", "c", "d"))
    assert run_export(run, tmp_path / "out", *(word.replace("FOUR", str(four)) for word in words)) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    for part in parts:
        assert part in error
    assert names_in(tmp_path) == ["records"]


def loaded_as_said(output, run):
    """By Keras alone, with the line in export.json: its logits are the network's."""
    import keras

    description, _ = read_description(output)
    (file,) = description["files"]
    call, _, remark = file["loading"].partition(".load_weights(file). ")
    assert call == ("keras.applications.MobileNet(weights=None, classes=3, classifier_activation=None, alpha=0.25)")
    assert "preprocess_input" in remark
    network = eval(call, {"keras": keras})
    network.load_weights(output / file["file"])
    images = np.random.RandomState(0).uniform(-1, 1, [1, 224, 224, 3]).astype(np.float32)
    classifier = restore_classifier(export.ExportSettings(checkpoint=run, output_dir=output, image_size=224))
    expected = inference_function(classifier.model)(images)
    np.testing.assert_allclose(network(images, training=False), expected, atol=1e-4)


@pytest.mark.parametrize(("name", "has_remark"), [("nasnet_mobile", True), ("mobilenet_v2", False)])
def test_where_kerass_own_network_differs_it_is_said(name, has_remark):
    from finetune.foreign_weights.keras_weights import padding_remark

    assert bool(padding_remark(get_spec(name))) == has_remark


def test_keras_weights(tmp_path, capsys):
    run = write_run(tmp_path / "run", "mobilenet_v1_025", image_size=96)
    words = [f"--checkpoint={run}", f"--output-dir={tmp_path / 'out'}", "--format=keras-weights"]
    assert export.main(words) == 2
    assert "--image-size 224" in capsys.readouterr().err
    assert export.main([*words, "--image-size=224"]) == 0
    assert "Keras weights" in capsys.readouterr().out
    assert (tmp_path / "out/classifier.weights.h5").is_file()
    loaded_as_said(tmp_path / "out", tmp_path / "run")
    resnet = write_run(tmp_path / "resnet", "resnet_v1_50", image_size=64)
    assert export.main([f"--checkpoint={resnet}", f"--output-dir={tmp_path / 'no'}", "--format=keras-weights"]) == 2
    assert "resnet" in capsys.readouterr().err.lower()
    assert not (tmp_path / "no").exists()
