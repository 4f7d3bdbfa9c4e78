"""What export.json says of preparing images, done by the functions of docs/preparing_images.md, is what predict does.

Nothing but the page's own code reads export.json here: it is taken out of the page and run.
"""

import io
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from image_files import encode, picture
from PIL import Image
from tiny_runs import CLASSES, write_run

from finetune.commands import export, predict
from finetune.datasets.decoding import decode_image
from finetune.datasets.images import prepare_image
from finetune.exports import image_preparation
from finetune.preprocessing import FAMILIES

PAGE = Path(__file__).parents[1] / export.PREPARATION_PAGE
# Of 255: Pillow's accurate transform beside TensorFlow's fast one.
PILLOW_LEVELS = 8


def page_functions():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names = {}
    exec(compile(code, str(PAGE), "exec"), names)
    return SimpleNamespace(**names), names


@pytest.fixture
def page():
    pytest.importorskip("simplejpeg")
    return page_functions()[0]


@pytest.fixture
def page_without_simplejpeg():
    functions, names = page_functions()
    names["simplejpeg"] = None
    return functions


def noise(height, width, channels):
    random = np.random.RandomState(height + width)
    return random.randint(0, 256, [height, width, channels], dtype=np.uint8)


def files_of_all_kinds():
    image = picture(1, width=83, height=61)
    grey = image.convert("L")
    sixteen_bits = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257 + 3)
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        "JPEG": encode(image),
        "progressive JPEG": encode(image, progressive=True, quality=60),
        "JPEG 4:4:4": encode(image, subsampling=0),
        "grey JPEG": encode(grey),
        "CMYK JPEG": encode(image.convert("CMYK")),
        "turned JPEG": encode(image, exif=turned),
        "turned grey JPEG": encode(grey, exif=turned),
        "PNG": encode(image, "PNG"),
        "grey PNG": encode(grey, "PNG"),
        "PNG of 16 bits": encode(sixteen_bits, "PNG"),
        "PNG of 1 bit": encode(image.convert("1"), "PNG"),
        "palette": encode(image.quantize(), "PNG"),
        "turned PNG": encode(image, "PNG", exif=turned),
        "opaque RGBA": encode(image.convert("RGBA"), "PNG"),
        "opaque LA": encode(grey.convert("LA"), "PNG"),
        "BMP": encode(image, "BMP"),
        "GIF": encode(image.quantize(), "GIF"),
        "WebP": encode(image, "WEBP"),
        "TIFF of 16 bits": encode(sixteen_bits, "TIFF"),
    }


@pytest.mark.parametrize("size", [28, 224, 299, 300])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_steps_are_what_evaluation_does(page, name, channels, size):
    family = FAMILIES[name]
    steps = json.loads(json.dumps(family.evaluation_steps(size, size, channels)))
    for height, width in [(1, 1), (1, 30), (2, 3), (15, 16), (33, 20), (231, 517), (1202, 801)]:
        image = noise(height, width, channels)
        values = page.apply_steps(image, steps)
        assert values.dtype == np.float32
        expected = family.evaluate(tf.constant(image), size, size).numpy()
        # Rounding of float32: numbers are of the order of 255 before they are scaled.
        tolerance = 2e-6 * max(np.abs(expected).max(), 1)
        np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance, err_msg=f"{height}x{width}")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_step_is_in_words_and_numbers_are_numbers(name):
    for step in FAMILIES[name].evaluation_steps(224, 224, 3):
        assert step["in_words"].endswith((".", ")."))
        for key, value in step.items():
            assert isinstance(value, str) == (key in ("step", "in_words", "method", "side_rounding")), key


def test_central_crops_take_the_same_pixels_of_every_side(page):
    crop = tf.function(tf.image.central_crop, input_signature=[tf.TensorSpec([None, 1, 1]), tf.TensorSpec([])])
    step = FAMILIES["inception"].evaluation_steps(224, 224, 3)[0]
    for side in [*range(1, 200), 1000, 4032]:
        column = np.arange(side, dtype=np.float32).reshape(side, 1, 1)
        np.testing.assert_array_equal(page.central_crop(column, step), crop(column, step["fraction"]))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", files_of_all_kinds())
def test_files_are_decoded_as_predict_decodes_them(page, kind, channels):
    data = files_of_all_kinds()[kind]
    expected = decode_image(tf.constant(prepare_image(data).encoded), channels).numpy()
    pixels = page.decode(data, image_preparation.decoding(channels))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", [kind for kind in files_of_all_kinds() if "JPEG" in kind])
def test_pillows_decoder_is_a_few_levels_off(page_without_simplejpeg, kind, channels):
    data = files_of_all_kinds()[kind]
    expected = decode_image(tf.constant(prepare_image(data).encoded), channels).numpy()
    pixels = page_without_simplejpeg.decode(data, image_preparation.decoding(channels))
    np.testing.assert_allclose(pixels.astype(int), expected, rtol=0, atol=PILLOW_LEVELS)


def test_the_jpeg_decoder_is_the_one_that_is_named():
    settings = {key: value for key, value in image_preparation.JPEG_DECODER.items() if key != "decoder"}
    for data in (encode(picture(1, width=83, height=61)), encode(picture(2), quality=50)):
        named = tf.io.decode_jpeg(data, channels=3, **settings)
        np.testing.assert_array_equal(decode_image(tf.constant(data), 3), named)
        assert (named.numpy() != tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE").numpy()).any()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_the_background_that_is_told(page, mode, channels):
    colours = picture(1).convert(mode.removesuffix("A"))
    alpha = picture(2, mode="L")
    colours.putalpha(alpha)
    data = encode(colours, "PNG")
    values, shares = np.asarray(colours.convert("RGBA"))[..., :3] / 1.0, np.asarray(alpha)[..., np.newaxis] / 255
    laid = np.round(values * shares + np.array([255, 128, 0]) * (1 - shares))
    expected = laid if channels == 3 else laid @ np.array([[0.299], [0.587], [0.114]])
    pixels = page.decode(data, image_preparation.decoding(channels, background=(255, 128, 0)))
    np.testing.assert_allclose(pixels, expected, rtol=0, atol=1 if channels == 3 else 2)  # Grey is rounded twice.
    dropped = page.decode(data, image_preparation.decoding(channels))
    np.testing.assert_array_equal(dropped, decode_image(tf.constant(data), channels))


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_samples_of_16_bits_are_scaled_by_the_bits_that_are_told(page, bits):
    values = np.linspace(0, (1 << bits) - 1, 300).astype(np.uint16).reshape(15, 20)
    data = encode(Image.fromarray(values), "PNG")
    pixels = page.decode(data, image_preparation.decoding(1, sample_bits=bits))
    np.testing.assert_array_equal(pixels[..., 0], values // 2 ** (bits - 8))
    beyond = page.decode(data, image_preparation.decoding(1, sample_bits=bits - 1))
    assert beyond.max() == 255 and beyond[14, 19] == 255


def write_files(folder):
    """Twenty image files: different pictures of odd sizes, then a picture in different kinds of file."""
    folder.mkdir()
    contents = [encode(picture(seed, width=120 + 31 * seed, height=300 - 13 * seed)) for seed in range(10)]
    contents += list(files_of_all_kinds().values())[-10:]
    paths = [folder / f"{index:02d}" for index in range(20)]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


def predicted(capsys, words, files, num_classes):
    capsys.readouterr()
    assert predict.main(["--format=json", f"--top-k={num_classes}", *words, *map(str, files)]) == 0
    rows = np.zeros([len(files), num_classes])
    for row, result in zip(rows, json.loads(capsys.readouterr().out), strict=True):
        for guess in result["guesses"]:
            row[guess["class"]] = guess["probability"]
    return rows


def tflite_by_index(folder, images):
    """Probabilities of prepared images [1,H,W,C] by the tensors that export.json names, without signatures."""
    from ai_edge_litert.interpreter import Interpreter

    (file,) = json.loads((folder / "export.json").read_text())["files"]
    (signature,) = file["signatures"]
    (taken,) = signature["inputs"]
    assert (taken["dtype"], taken["quantization"]) == ("float32", None)
    interpreter = Interpreter(model_path=str(folder / file["file"]))
    interpreter.allocate_tensors()
    index = {tensor["name"]: tensor["index"] for tensor in interpreter.get_tensor_details()}
    tensors = {one["name"]: one["tensor"] for one in signature["outputs"]}
    rows = []
    for image in images:
        assert list(image.shape) == taken["shape"]
        interpreter.set_tensor(index[taken["tensor"]], image)
        interpreter.invoke()
        rows.append(interpreter.get_tensor(index[tensors["probabilities"]])[0])
    return np.array(rows)


def onnx_by_name(folder, images):
    import onnxruntime

    (file,) = json.loads((folder / "export.json").read_text())["files"]
    (signature,) = file["signatures"]
    (taken,) = signature["inputs"]
    assert taken["shape"][0] is None
    session = onnxruntime.InferenceSession(str(folder / file["file"]))
    (answers,) = session.run(["probabilities"], {taken["name"]: np.concatenate(images)})
    assert answers.shape[1] == signature["outputs"][0]["shape"][1]
    return answers


@pytest.mark.parametrize("use_grayscale", [False, True])
@pytest.mark.parametrize("preprocessing", FAMILIES)
def test_a_stranger_gets_the_answers_of_predict(tmp_path, capsys, page, preprocessing, use_grayscale):
    run = write_run(tmp_path / "run", preprocessing=preprocessing, use_grayscale=use_grayscale)
    output = tmp_path / "lite"
    assert export.main([f"--checkpoint={run}", f"--output-dir={output}", "--format=tflite"]) == 0
    assert f"{output}/export.json says how (image_preparation), docs/preparing_images.md" in capsys.readouterr().out
    files = write_files(tmp_path / "images")
    answers = tflite_by_index(output, [page.prepare(file, output / "export.json") for file in files])
    expected = predicted(capsys, [f"--checkpoint={run}"], files, len(CLASSES))
    np.testing.assert_allclose(answers, expected, rtol=0, atol=1e-4)
    assert (answers.argmax(axis=1) == expected.argmax(axis=1)).sum() == 20


def test_a_stranger_with_onnx(tmp_path, capsys, page):
    pytest.importorskip("tf2onnx")
    run = write_run(tmp_path / "run", preprocessing="inception")
    output = tmp_path / "onnx"
    assert export.main([f"--checkpoint={run}", f"--output-dir={output}", "--format=onnx"]) == 0
    files = write_files(tmp_path / "images")
    answers = onnx_by_name(output, [page.prepare(file, output / "export.json") for file in files])
    expected = predicted(capsys, [f"--checkpoint={run}"], files, len(CLASSES))
    np.testing.assert_allclose(answers, expected, rtol=0, atol=1e-4)


def test_a_saved_model_takes_the_pixels_that_the_page_decodes(tmp_path, capsys, page):
    run = write_run(tmp_path / "run", preprocessing="inception")
    output = tmp_path / "served"
    assert export.main([f"--checkpoint={run}", f"--output-dir={output}"]) == 0
    assert "image_preparation" not in capsys.readouterr().out
    description = json.loads((output / "export.json").read_text())
    preparation = description["image_preparation"]
    assert preparation["done_by"] == "export"
    signatures = {one["name"]: one for one in description["files"][0]["signatures"]}
    assert signatures["serving_default"]["inputs"][0]["dtype"] == "string"
    (taken,) = signatures["images"]["inputs"]
    assert (taken["name"], taken["dtype"], taken["shape"]) == ("images", "uint8", [None, None, None, 3])
    files = write_files(tmp_path / "images")
    served = tf.saved_model.load(str(output)).signatures["images"]
    pixels = [page.decode(file.read_bytes(), preparation["decoding"]) for file in files]
    answers = [served(images=tf.constant(image[np.newaxis]))["probabilities"][0] for image in pixels]
    expected = predicted(capsys, [f"--checkpoint={run}"], files, len(CLASSES))
    np.testing.assert_allclose(answers, expected, rtol=0, atol=1e-5)


def resized_as_one_thinks_is_right(file):
    image = Image.open(io.BytesIO(file.read_bytes())).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
    return np.asarray(image, np.float32)[np.newaxis] / 127.5 - 1


@pytest.mark.slow
def test_twenty_photographs(shared_dir, tmp_path, capsys, page, page_without_simplejpeg):
    """Prints what docs/preparing_images.md states."""
    classes = sorted((shared_dir / "data/flowers12/images").iterdir())
    files = [file for folder in classes for file in sorted(folder.glob("*.jpg"))[:2]][:20]
    words = [f"--checkpoint={shared_dir / 'checkpoints/slim_run_mobilenet_v2'}", "--model=mobilenet_v2"]
    for file_format in ("tflite", "onnx"):
        assert export.main([*words, f"--output-dir={tmp_path / file_format}", f"--format={file_format}"]) == 0
    expected = predicted(capsys, words, files, len(classes))
    said = tmp_path / "tflite/export.json"
    by_the_page = [page.prepare(file, said) for file in files]
    by_pillow = [page_without_simplejpeg.prepare(file, said) for file in files]
    resized = [resized_as_one_thinks_is_right(file) for file in files]
    ways = {
        "simplejpeg, tflite": tflite_by_index(tmp_path / "tflite", by_the_page),
        "simplejpeg, onnx": onnx_by_name(tmp_path / "onnx", by_the_page),
        "Pillow's decoder, tflite": tflite_by_index(tmp_path / "tflite", by_pillow),
        "resized to 224, tflite": tflite_by_index(tmp_path / "tflite", resized),
    }
    same = {way: int((answers.argmax(axis=1) == expected.argmax(axis=1)).sum()) for way, answers in ways.items()}
    off = {way: float(np.abs(answers - expected).max()) for way, answers in ways.items()}
    decoding = json.loads(said.read_text())["image_preparation"]["decoding"]
    levels = [
        np.abs(page.decode(data, decoding).astype(int) - page_without_simplejpeg.decode(data, decoding)).max()
        for data in map(Path.read_bytes, files)
    ]
    with capsys.disabled():
        print(f"\nPillow's pixels beside TensorFlow's: up to {max(levels)} levels of 255", end="")
        for way in ways:
            print(f"\n{way:25} same class {same[way]} of {len(files)}, largest difference {off[way]:.1e}", end="")
    assert [same[way] for way in ways][:3] == [20, 20, 20]
    assert max(off["simplejpeg, tflite"], off["simplejpeg, onnx"]) < 1e-4
    assert off["Pillow's decoder, tflite"] < 0.1 < off["resized to 224, tflite"]
