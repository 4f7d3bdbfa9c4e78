"""Image files of every kind: what they become in a conversion, and that prediction and export see the same."""

import csv
import importlib.util
import io
import json
import struct
import sys
import threading
import zlib

import numpy as np
import pytest
import tensorflow as tf
from image_files import encode, picture, write_file
from PIL import Image, ImageOps, features
from tiny_runs import CLASSES, write_run

from finetune.commands import convert as convert_command
from finetune.commands import evaluate, export, predict, train
from finetune.commands.convert import convert
from finetune.datasets.dataset_search import find_dataset
from finetune.datasets.image_rules import DEFAULT_RULES, RULES_OF_OTHER_RECORDS, ImageRules
from finetune.datasets.images import BrokenImageError, is_image, prepare_image
from finetune.datasets.records import Record, encode_record
from finetune.datasets.tfrecord import RecordWriter
from finetune.errors import UserError
from finetune.exports.exif_turning import turned_upright
from finetune.exports.file_decoding import decode_file
from finetune.runs.run_folder import image_rules_of_run
from finetune.settings.convert import ConvertSettings

ORIENTATION = 0x0112
START_OF_SCAN, END = b"\xff\xda", b"\xff\xd9"


def decoded(encoded, channels=3):
    return tf.io.decode_image(encoded, channels=channels, expand_animations=False).numpy()


def rough_picture(width=200, height=160):
    """With noise, so that its pixel data is no shorter than a photograph's."""
    pixels = np.asarray(picture(3, width=width, height=height)).astype(int)
    noise = np.random.RandomState(0).randint(-20, 21, pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def with_exif(orientation, file_format="JPEG", image=None):
    """A file that says how it is to be turned, by a number or, against the rules, by a text."""
    if isinstance(orientation, int):
        entry = struct.pack("<HHIHH", ORIENTATION, 3, 1, orientation, 0)
    else:
        entry = struct.pack("<HHI4s", ORIENTATION, 2, 4, orientation.encode())
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
    return encode(image or picture(5), file_format, exif=exif, quality=95)


def with_segment(data, marker, payload):
    """A JPEG file with one more segment in front of its others."""
    return data[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload + data[2:]


def chunk(name, payload):
    return struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", zlib.crc32(name + payload))


def with_chunk(data, new):
    """A PNG file with one more chunk in front of its pixels."""
    at = data.index(b"IDAT") - 4
    return data[:at] + new + data[at:]


def deep_png(values, extra=b""):
    """A PNG file of 16 bits a sample, of values [H,W,C]: grey, grey and alpha, colour, colour and alpha."""
    height, width, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def deep_tiff(values, order="<"):
    """A TIFF file of 16 bits a sample, of colours [H,W,3], not compressed."""
    height, width, channels = values.shape
    pixels = values.astype(f"{order}u2").tobytes()
    num_tags = 9
    behind_tags = 8 + 2 + 12 * num_tags + 4
    shorts = [(256, width), (257, height), (259, 1), (262, 2), (277, channels), (278, height)]
    entries = {tag: struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in shorts}
    entries[258] = struct.pack(f"{order}HHII", 258, 3, channels, behind_tags)
    entries[273] = struct.pack(f"{order}HHII", 273, 4, 1, behind_tags + 2 * channels)
    entries[279] = struct.pack(f"{order}HHII", 279, 4, 1, len(pixels))
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, num_tags)
    bits = struct.pack(f"{order}{channels}H", *[16] * channels)
    return start + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4) + bits + pixels


def twelve_bits(channels, seed=0):
    values = np.random.RandomState(seed).randint(0, 4096, [32, 40, channels])
    values[0, 0] = 4095
    return values


def write_classes(root, files):
    """A folder of two classes, each with all of the files and a photograph of its own beside them."""
    for number, name in enumerate(("a", "b")):
        write_file(root / name / "photo.jpg", encode(picture(900 + number)))
        for file, content in files.items():
            write_file(root / name / file, content)
    return root


# Damaged JPEGs

ROUGH = {
    "baseline": encode(rough_picture()),
    "optimised": encode(rough_picture(), optimize=True),
    "restarts": encode(rough_picture(), restart_marker_rows=1),
    "fine": encode(rough_picture(), quality=98, subsampling=0),
    "smooth": encode(picture(3, width=200, height=160), optimize=True),
    "grey": encode(rough_picture().convert("L")),
    "CMYK": encode(rough_picture().convert("CMYK")),
    "turned": with_exif(6, image=rough_picture()),
    "progressive": encode(rough_picture(), progressive=True),
}


def pixel_data(data):
    """Where the pixel data of the first scan starts and the last ends."""
    start = data.index(START_OF_SCAN)
    return start + 2 + int.from_bytes(data[start + 2 : start + 4]), data.rindex(END)


def half_with_an_end(data):
    start, end = pixel_data(data)
    return data[: (start + end) // 2] + END


def zeroed_tail(data):
    start, end = pixel_data(data)
    middle = (start + end) // 2
    return data[:middle] + bytes(end - middle) + END


def zeroed_middle(data):
    start, end = pixel_data(data)
    quarter = (end - start) // 4
    return data[: start + quarter] + bytes(quarter) + data[start + 2 * quarter :]


HARMLESS = {
    "bytes behind the end": lambda data: data + b"anything" * 9,
    "zeros in front of the end": lambda data: data[:-2] + bytes(500) + END,
    "fill bytes in front of the end": lambda data: data[:-2] + b"\xff" * 7 + END,
    "bytes between segments": lambda data: data.replace(b"\xff\xdb", b"anything\0\0" + b"\xff\xdb", 1),
    "an unknown version of JFIF": lambda data: data.replace(b"JFIF\0\x01", b"JFIF\0\x07", 1),
    "a colour profile that is none": lambda data: with_segment(data, 0xE2, b"ICC_PROFILE\0\x01\x02nothing"),
}


def odd_segment_and_half(data):
    """What is wrong with metadata must not hide what is wrong with the pixels."""
    return HARMLESS["bytes between segments"](half_with_an_end(data))


DAMAGES = (half_with_an_end, zeroed_tail, zeroed_middle, odd_segment_and_half)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", ROUGH)
def test_damaged_jpegs_are_refused_however_they_end(kind, damage):
    prepare_image(ROUGH[kind])
    with pytest.raises(BrokenImageError, match=r"the JPEG file is (damaged|incomplete|truncated)"):
        prepare_image(damage(ROUGH[kind]))


def scans_of(data):
    starts = [at for at in range(len(data)) if data.startswith(START_OF_SCAN, at)]
    return starts, [*starts[1:], len(data) - len(END)]


def test_a_progressive_jpeg_needs_all_of_its_scans():
    data = ROUGH["progressive"]
    starts, ends = scans_of(data)
    assert len(starts) > 5
    with pytest.raises(BrokenImageError, match="lacks scans of 3 of its 3 components"):
        prepare_image(data[: data.rindex(b"\xff\xc4", 0, starts[2])] + END)
    with pytest.raises(BrokenImageError, match="lacks scans of 1 of its 3 components"):
        prepare_image(data[: data.rindex(b"\xff\xc4", 0, starts[-1])] + END)
    middle = (starts[3] + ends[3]) // 2  # A scan cut in two.
    rest = data.index(b"\xff\xc4", middle)
    with pytest.raises(BrokenImageError, match="damaged"):
        prepare_image(data[:middle] + data[rest:])


@pytest.mark.parametrize("oddity", HARMLESS)
@pytest.mark.parametrize("kind", ["baseline", "optimised", "smooth", "restarts", "progressive"])
def test_oddities_of_cameras_are_no_damage(kind, oddity):
    data = HARMLESS[oddity](ROUGH[kind])
    prepared = prepare_image(data)
    assert prepared.encoded == data
    np.testing.assert_array_equal(decoded(data), decoded(ROUGH[kind]))


def test_what_is_let_through_can_be_decoded_by_tensorflow():
    """Of damage inside pixel data no more can be promised: it may form valid codes."""
    random = np.random.RandomState(0)
    num_refused = 0
    for number in range(360):
        data = bytearray(list(ROUGH.values())[number % len(ROUGH)])
        start, end = pixel_data(data)
        if number % 3:
            data[random.randint(start, end)] = 0xFF
        else:
            at = random.randint(start, end - 16)
            data[at : at + 16] = random.bytes(16)
        try:
            prepared = prepare_image(bytes(data))
        except BrokenImageError:
            num_refused += 1
            continue
        assert decoded(prepared.encoded).shape == (prepared.height, prepared.width, 3)
    assert 100 < num_refused < 360


def test_rare_sampling_is_no_damage():
    """Eight blocks of brightness to one of each colour, flat: every block is two bits, no difference and no more."""
    table = bytes([0, 1] + [0] * 15 + [0])  # The one code, 0, means 0.
    data = b"".join(
        [
            b"\xff\xd8\xff\xdb" + struct.pack(">HB", 67, 0) + bytes([16] * 64),
            b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, 16, 32, 3) + bytes([1, 0x42, 0, 2, 0x11, 0, 3, 0x11, 0]),
            b"\xff\xc4" + struct.pack(">H", 20) + b"\x00" + table[1:] + b"\xff\xc4" + struct.pack(">H", 20) + b"\x10",
            table[1:] + b"\xff\xda" + struct.pack(">HB", 12, 3) + bytes([1, 0, 2, 0, 3, 0, 0, 63, 0]),
            b"\x00\x00\x0f" + END,
        ]
    )
    prepared = prepare_image(data)
    assert prepared.reencoded_from == "rare JPEG coding"
    assert (decoded(prepared.encoded) == 128).all()


def test_damaged_files_of_other_formats_are_refused():
    image = rough_picture()
    whole = {
        "PNG": encode(image, "PNG"),
        "WEBP": encode(image, "WEBP"),
        "TIFF": encode(image, "TIFF"),
        "packed TIFF": encode(image, "TIFF", compression="tiff_deflate"),
        "GIF": encode(image.quantize(60), "GIF"),
        "BMP": encode(image, "BMP"),
        "PPM": encode(image, "PPM"),
    }
    for kind, data in whole.items():
        prepare_image(data)
        with pytest.raises(BrokenImageError):
            prepare_image(data[: len(data) // 2]), kind
    at = whole["PNG"].index(b"IDAT") + 2000
    with pytest.raises(BrokenImageError):
        prepare_image(whole["PNG"][:at] + b"\0" * 9 + whole["PNG"][at + 9 :])


# Transparency


def seen_on(image, colour):
    """What people see of a transparent image on a ground, in float64, not rounded."""
    values = np.asarray(image.convert("RGBA")).astype(np.float64)
    alpha = values[..., 3:] / 255
    return values[..., :3] * alpha + np.array(colour) * (1 - alpha)


def shape_on_nothing(mode="RGBA", levels=256):
    """A black disc, and a soft rim around it, on a ground of which nothing is seen."""
    y, x = np.mgrid[:32, :40]
    alpha = np.clip((14 - np.hypot(y - 16, x - 20)) * 60 + 128, 0, 255)
    alpha = (alpha // (256 // levels) * (255 // (levels - 1))).astype(np.uint8)
    image = Image.fromarray(np.dstack([np.zeros([32, 40, 3], np.uint8), alpha]))
    return image.convert(mode)


def two_colours(transparent):
    """A grey picture of 40 and 200, in RGB and L, of which 200 is to be transparent."""
    values = np.where(np.indices([32, 40]).sum(axis=0) % 7 < 3, 40, transparent).astype(np.uint8)
    return Image.fromarray(values)


PALETTE = shape_on_nothing(levels=2).convert("RGB").quantize(4)
TRANSPARENT = {
    "RGBA PNG": encode(shape_on_nothing(), "PNG"),
    "LA PNG": encode(shape_on_nothing("LA"), "PNG"),
    "palette PNG": encode(two_colours(200).convert("P"), "PNG", transparency=bytes([255] * 200 + [90])),
    "grey PNG": encode(two_colours(200), "PNG", transparency=200),
    "RGB PNG": encode(two_colours(200).convert("RGB"), "PNG", transparency=(200, 200, 200)),
    "bilevel PNG": encode(two_colours(200).convert("1"), "PNG", transparency=1),
    "GIF": encode(two_colours(200).convert("P"), "GIF", transparency=200),
    "TIFF": encode(shape_on_nothing(), "TIFF"),
    "LA TIFF": encode(shape_on_nothing("LA"), "TIFF"),
    "WEBP": encode(shape_on_nothing(), "WEBP", lossless=True, exact=True),
    "JPEG2000": encode(shape_on_nothing(), "JPEG2000"),
}


@pytest.mark.parametrize(("background", "colour"), [("white", (255, 255, 255)), ("#20a0f0", (32, 160, 240))])
@pytest.mark.parametrize("kind", TRANSPARENT)
def test_transparency_is_laid_on_the_background(kind, background, colour):
    prepared = prepare_image(TRANSPARENT[kind], ImageRules(background))
    expected = seen_on(Image.open(io.BytesIO(TRANSPARENT[kind])), colour)
    assert np.abs(decoded(prepared.encoded) - expected).max() <= 0.5
    assert prepared.changes == (f"transparency laid on {background}",)
    assert len(np.unique(decoded(prepared.encoded))) > 1


@pytest.mark.parametrize("kind", ["RGBA PNG", "LA PNG", "palette PNG", "grey PNG", "RGB PNG", "bilevel PNG"])
def test_without_a_background_transparency_is_dropped_as_tensorflow_drops_it(kind):
    prepared = prepare_image(TRANSPARENT[kind], RULES_OF_OTHER_RECORDS)
    assert prepared.encoded == TRANSPARENT[kind]
    assert prepared.changes == ("transparency dropped",)


def test_an_opaque_alpha_changes_nothing():
    for mode in ("RGBA", "LA"):
        data = encode(picture().convert("RGB").convert(mode), "PNG")
        prepared = prepare_image(data)
        assert (prepared.encoded, prepared.changes) == (data, ())


def test_a_premultiplied_tiff_is_laid_on_the_background_once():
    """Of such files the colours have been darkened by their alpha already."""
    data = bytearray(encode(Image.new("RGBA", (8, 8), (100, 50, 0, 128)), "TIFF"))
    assert max(decoded(prepare_image(bytes(data)).encoded)[0, 0]) < 255
    extra_samples = struct.pack("<HHI", 338, 3, 1)
    at = data.index(extra_samples) + len(extra_samples)
    data[at] = 1  # "Associated" alpha.
    pixel = decoded(prepare_image(bytes(data), ImageRules("black")).encoded)[0, 0]
    np.testing.assert_allclose(pixel, [100, 50, 0], atol=1)


def test_convert_says_what_it_changed_and_by_which_rules(tmp_path, capsys):
    images = write_classes(tmp_path / "images", {"disc.png": TRANSPARENT["RGBA PNG"], "la.tif": TRANSPARENT["LA TIFF"]})
    words = [f"--images-dir={images}", f"--dataset-dir={tmp_path / 'out'}", "--validation-fraction=0"]
    assert convert_command.main([*words, "--background=Gray"]) == 0
    assert "4 images, transparency laid on Gray" in " ".join(capsys.readouterr().out.split())
    description = json.loads((tmp_path / "out/dataset.json").read_text())
    assert description["images"] == {"background": "Gray", "sample_bits": None}
    assert description["changed"] == {"transparency laid on Gray": 4}
    assert find_dataset(tmp_path / "out", None, "train").image_rules == ImageRules("Gray")
    del description["images"]  # As convert wrote it before there were rules.
    (tmp_path / "out/dataset.json").write_text(json.dumps(description))
    assert find_dataset(tmp_path / "out", None, "train").image_rules == RULES_OF_OTHER_RECORDS
    assert convert_command.main([*words, "--overwrite", "--background=grren"]) == 2
    assert "Did you mean green" in capsys.readouterr().err


# Bits of a sample


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "JPEG2000"])
def test_samples_are_scaled_by_the_bits_they_use(file_format):
    values = twelve_bits(1)[..., 0].astype(np.uint16)
    data = encode(Image.fromarray(values), file_format)
    if file_format == "JPEG2000":  # Says its range, and Pillow takes it.
        np.testing.assert_array_equal(
            decoded(prepare_image(data, ImageRules(sample_bits=12)).encoded, 1)[..., 0], values >> 8
        )
        return
    prepared = prepare_image(data, ImageRules(sample_bits=12))
    np.testing.assert_array_equal(decoded(prepared.encoded, 1)[..., 0], values >> 4)
    assert prepared.changes == ("12-bit samples scaled to 8 bits",)
    np.testing.assert_array_equal(decoded(prepare_image(data).encoded, 1)[..., 0], values >> 8)
    beyond = prepare_image(data, ImageRules(sample_bits=10))
    np.testing.assert_array_equal(decoded(beyond.encoded, 1)[..., 0], np.minimum(values >> 2, 255))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_colours_and_alpha_of_16_bits(channels):
    values = twelve_bits(channels)
    if channels % 2 == 0:
        values[..., -1] = 65535  # Opaque, by all of 16 bits.
    prepared = prepare_image(deep_png(values), ImageRules(sample_bits=12))
    expected = values[..., : channels - 1 + channels % 2] >> 4
    np.testing.assert_array_equal(decoded(prepared.encoded), np.broadcast_to(expected, [32, 40, 3]))
    assert prepared.changes == ("12-bit samples scaled to 8 bits",)


@pytest.mark.parametrize("order", ["<", ">"])
def test_colours_of_12_bits_in_a_tiff(order):
    values = twelve_bits(3)
    prepared = prepare_image(deep_tiff(values, order), ImageRules(sample_bits=12))
    np.testing.assert_array_equal(decoded(prepared.encoded), values >> 4)


def test_a_tiff_that_packs_12_bits_states_them():
    values = twelve_bits(1)[..., 0]
    first, second = values[:, ::2], values[:, 1::2]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=2).astype(np.uint8)
    data = bytearray(encode(Image.fromarray(packed.reshape(32, 60)), "TIFF"))
    for tag, old, new in ((256, 60, 40), (258, 8, 12)):  # Width and bits of a sample.
        at = data.index(struct.pack("<HHI", tag, 4 if tag == 256 else 3, 1)) + 8
        assert data[at] == old
        data[at] = new
    prepared = prepare_image(bytes(data), ImageRules(sample_bits=10))
    np.testing.assert_array_equal(decoded(prepared.encoded, 1)[..., 0], values >> 4)
    assert prepared.changes == ()


def test_one_value_of_16_bits_can_be_transparent():
    values = np.full([8, 8, 1], 4000)
    values[:4] = 16
    for data in (
        deep_png(values, chunk(b"tRNS", struct.pack(">H", 16))),
        deep_png(values.repeat(3, axis=2), chunk(b"tRNS", struct.pack(">HHH", 16, 16, 16))),
    ):
        pixels = decoded(prepare_image(data, ImageRules(sample_bits=12)).encoded)
        assert (pixels[:4] == 255).all()
        assert (pixels[4:] == 250).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_pgm_is_scaled_by_the_range_that_it_states(channels):
    values = twelve_bits(channels)
    data = b"P%d\n40 32\n4095\n" % (5 if channels == 1 else 6) + values.astype(">u2").tobytes()
    for rules in (DEFAULT_RULES, ImageRules(sample_bits=10)):
        pixels = decoded(prepare_image(data, rules).encoded).astype(int)
        assert np.abs(pixels - np.broadcast_to(values / 4095 * 255, [32, 40, 3])).max() <= 1


@pytest.mark.parametrize(("largest", "bits"), [(200, 8), (900, 10), (4095, 12), (5000, 14), (16384, 16)])
def test_one_scale_is_found_for_the_whole_set(tmp_path, capsys, largest, bits):
    images = tmp_path / "images"
    for index in range(8):
        values = np.random.RandomState(index).randint(0, 150, [8, 8, 1])
        values[0, 0] = largest if index == 7 else 150
        content = encode(Image.fromarray(values[..., 0].astype(np.uint16)), "TIFF") if index % 2 else deep_png(values)
        write_file(images / "ab"[index % 2] / f"{index}.bin", content)
    words = [f"--images-dir={images}", f"--dataset-dir={tmp_path / 'out'}"]
    assert convert_command.main(words) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert (f"8 images of 16 bits a sample have no value above {largest}" in out) == (bits < 16)
    description = json.loads((tmp_path / "out/dataset.json").read_text())
    assert description["images"]["sample_bits"] == bits
    assert description["changed"] == ({f"{bits}-bit samples scaled to 8 bits": 8} if bits < 16 else {})
    assert len(description["guessed"]) == (bits < 16)
    result = convert(ConvertSettings(tmp_path / "told", images, sample_bits=12))
    assert (result.image_rules.sample_bits, result.guessed) == (12, ())


def test_a_few_images_of_more_bits_are_told(tmp_path):
    for index in range(24):
        values = np.full([8, 8, 1], 4000)
        values[0, 0] = 65535 if index == 5 else 4095
        write_file(tmp_path / "images" / "ab"[index % 2] / f"{index}.png", deep_png(values))
    (guess,) = convert(ConvertSettings(tmp_path / "out", tmp_path / "images")).guessed
    assert "1 of 24 images of 16 bits a sample have values of more than 12 bits: all are taken to use 16" in guess
    for bits in (12, 16):
        told = convert(ConvertSettings(tmp_path / f"told_{bits}", tmp_path / "images", sample_bits=bits))
        assert (told.image_rules.sample_bits, told.guessed) == (bits, ())


# Metadata and orientation


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", [0, 1, 9, 700, "6", "top"])
def test_what_is_no_orientation_turns_nothing(file_format, orientation):
    data = with_exif(orientation, file_format)
    prepared = prepare_image(data)
    assert (prepared.encoded, prepared.reencoded_from, prepared.changes) == (data, "", ())


@pytest.mark.parametrize("file_format", ["WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [0, 9, 6])
def test_what_is_no_orientation_turns_nothing_in_other_formats(file_format, orientation):
    prepared = prepare_image(with_exif(orientation, file_format))
    assert (prepared.width, prepared.height) == ((32, 40) if orientation == 6 else (40, 32))


PHOTO, DRAWING = encode(picture(7)), encode(picture(7), "PNG")
NO_TIFF = b"Exif\0\0ASCII and no TIFF"
UNREADABLE = {
    "EXIF": with_segment(PHOTO, 0xE1, NO_TIFF),
    "EXIF beside a resolution": with_segment(encode(picture(7), dpi=(72, 72)), 0xE1, NO_TIFF),
    "short colour profile": with_segment(PHOTO, 0xE2, b"ICC_PROFILE\0"),
    "short Adobe segment": with_segment(PHOTO, 0xEE, b"Adobe"),
    "PNG's EXIF": with_chunk(DRAWING, chunk(b"eXIf", b"ASCII and no TIFF")),
    "PNG's colour profile": with_chunk(DRAWING, chunk(b"iCCP", b"x\0\x05nothing")),
    "PNG's resolution": with_chunk(DRAWING, chunk(b"pHYs", b"\0")),
    "PNG's gamma": with_chunk(DRAWING, chunk(b"gAMA", b"")),
    "PNG's compressed text": with_chunk(DRAWING, chunk(b"zTXt", b"a\0\x09nothing")),
    "checksum of a PNG's text": with_chunk(DRAWING, chunk(b"tEXt", b"a\0b")[:-4] + bytes(4)),
    "WebP's EXIF": encode(picture(7), "WEBP", exif=NO_TIFF),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_metadata_that_cannot_be_read_is_ignored_and_told(kind):
    prepared = prepare_image(UNREADABLE[kind])
    assert prepared.changes == ("metadata that can't be read ignored",)
    if "WebP" not in kind:
        np.testing.assert_array_equal(decoded(prepared.encoded), decoded(PHOTO if "PNG" not in kind else DRAWING))


def test_metadata_that_can_be_read_still_turns_the_picture():
    prepared = prepare_image(with_segment(with_exif(6), 0xE2, b"ICC_PROFILE\0"))
    assert (prepared.width, prepared.height, prepared.reencoded_from) == (32, 40, "turned JPEG")


def test_odd_metadata_that_says_nothing_is_passed_over():
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta broken"
    for data in (with_segment(PHOTO, 0xE1, xmp), with_segment(PHOTO, 0xED, b"Photoshop 3.0\x008BIM\x04")):
        assert prepare_image(data).encoded == data


def test_a_png_chunk_that_nobody_knows_is_no_matter():
    data = with_chunk(DRAWING, chunk(b"Abcd", b"critical by its name"))
    np.testing.assert_array_equal(decoded(prepare_image(data).encoded), decoded(DRAWING))


def test_of_several_pictures_in_a_file_the_first_is_taken_and_told():
    others = {"save_all": True, "append_images": [picture(8), picture(9)]}
    for file_format in ("GIF", "TIFF", "WEBP", "PNG"):
        prepared = prepare_image(encode(picture(7), file_format, **others))
        assert prepared.changes == ("first of several pictures taken",), file_format


# Size


def test_the_largest_image_is_a_setting(tmp_path, capsys):
    scan = encode(Image.new("L", (1500, 1000), 200), "PNG")
    images = write_classes(tmp_path / "images", {"scan.png": scan})
    words = [f"--images-dir={images}", f"--dataset-dir={tmp_path / 'out'}"]
    assert convert_command.main([*words, "--max-megapixels=1.2"]) == 2
    message = capsys.readouterr().err
    assert "a/scan.png: its 1500 x 1000 pixels are 1.5 megapixels, above the limit of 1.2 (--max-megapixels)" in message
    assert convert_command.main([*words, "--max-megapixels=1.5"]) == 0
    for value in ("0", "501"):
        assert convert_command.main([*words, f"--max-megapixels={value}", "--overwrite"]) == 2
        assert "--max-megapixels" in capsys.readouterr().err


def test_no_limit_but_the_setting_counts(tmp_path, monkeypatch):
    """Pillow's own is a tenth of these pictures' size here, and is left as it was."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 128)
    for file_format in ("PNG", "GIF", "TIFF", "WEBP", "JPEG"):
        data = encode(picture(), file_format)
        assert is_image(write_file(tmp_path / "no_suffix", data))
        prepare_image(data)
    assert Image.MAX_IMAGE_PIXELS == 128


# HEIC

NEEDS_HEIF = pytest.mark.skipif(importlib.util.find_spec("pillow_heif") is None, reason="needs the extra heic")


def heic(image, **options):
    import pillow_heif

    pillow_heif.register_heif_opener()
    return encode(image, "HEIF", **options)


@NEEDS_HEIF
def test_heic_is_read_with_the_extra_and_named_without_it(tmp_path, monkeypatch):
    data = heic(rough_picture(64, 48), quality=-1, chroma=444)
    prepared = prepare_image(data)
    assert (prepared.reencoded_from, prepared.format, prepared.changes) == ("HEIF", "png", ())
    np.testing.assert_allclose(decoded(prepared.encoded), rough_picture(64, 48), atol=3)
    assert is_image(write_file(tmp_path / "photo", data))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert is_image(tmp_path / "photo")
    with pytest.raises(BrokenImageError, match=r"extra heic: pip install '\.\[heic\]'"):
        prepare_image(data)


def test_avif_is_no_heic():
    if not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    assert prepare_image(encode(picture(), "AVIF")).reencoded_from == "AVIF"


# One sight of an image everywhere


def every_kind():
    """Files by name, of all kinds that are read."""
    deep = np.random.RandomState(4).randint(0, 4096, [32, 40, 1])
    files = {
        "baseline.jpg": encode(rough_picture()),
        "progressive.jpg": encode(rough_picture(), progressive=True),
        "grey.jpg": encode(picture(2, mode="L")),
        "cmyk.jpg": encode(picture(2, mode="CMYK")),
        "camera.mpo": encode(picture(2), "MPO", save_all=True, append_images=[picture(1)]),
        "rgb.png": encode(picture(2), "PNG"),
        "two_colours.png": encode(rough_picture().convert("1"), "PNG"),
        "four_colours.png": encode(picture(2).quantize(4), "PNG"),
        "sixteen_colours.png": encode(picture(2).quantize(16), "PNG"),
        "sixteen_soft_colours.png": encode(picture(2).quantize(16), "PNG", transparency=bytes(range(0, 256, 16))),
        "deep.png": deep_png(deep),
        "deep_colours.png": deep_png(np.random.RandomState(5).randint(0, 4096, [32, 40, 3])),
        "deep_alpha.png": deep_png(np.random.RandomState(6).randint(0, 4096, [32, 40, 4])),
        "deep.tif": encode(Image.fromarray(deep[..., 0].astype(np.uint16)), "TIFF"),
        "stated.pgm": b"P5\n40 32\n4095\n" + deep.astype(">u2").tobytes(),
        "plain.bmp": encode(picture(2), "BMP"),
        "plain.gif": encode(picture(2).quantize(50), "GIF"),
        "lossy.webp": encode(picture(2), "WEBP"),
        "lossless.webp": encode(picture(2), "WEBP", lossless=True),
        "soft.png": encode(Image.merge("RGBA", [*picture(2).split(), picture(3, mode="L")]), "PNG"),
        "soft_grey.png": encode(Image.merge("LA", [picture(2, mode="L"), picture(3, mode="L")]), "PNG"),
        "soft.tif": encode(Image.merge("RGBA", [*picture(2).split(), picture(3, mode="L")]), "TIFF"),
    }
    files |= {f"turned_{number}.jpg": with_exif(number) for number in range(2, 9)}
    files |= {f"{kind.replace(' ', '_')}.bin": data for kind, data in TRANSPARENT.items()}
    if features.check("avif"):
        files["picture.avif"] = encode(picture(2), "AVIF")
    if importlib.util.find_spec("pillow_heif"):
        files["picture.heic"] = heic(picture(2))
    return files


# What TensorFlow's decoders don't know: a GIF's transparency, and formats other than these four.
DECODED_BY_TENSORFLOW = (b"\xff\xd8", b"\x89PNG", b"GIF", b"BM")
NOT_AS_PREDICTED = ("cmyk", "GIF.bin")
# A conversion encodes it anew.
NEARLY_AS_PREDICTED = "turned"


@pytest.fixture(scope="module", params=[False, True], ids=["colour", "grey"])
def everywhere(request, tmp_path_factory):
    """A run, a data set of every kind of file, and the probabilities of an evaluation by file name."""
    root = tmp_path_factory.mktemp("everywhere")
    images = root / "images"
    for name, content in every_kind().items():
        write_file(images / "train/blue" / name, content)
    for name in CLASSES[1:]:
        write_file(images / "train" / name / "only.png", deep_png(np.full([32, 40, 1], 4095)))
    convert(ConvertSettings(root / "records", images, background="#3060c0"))
    run = write_run(root / "run", use_grayscale=request.param)
    rules = find_dataset(root / "records", None, "train").image_rules
    assert rules == ImageRules("#3060c0", 12)
    write_file(run / "images.json", json.dumps(rules.to_json()).encode())
    words = [f"--checkpoint={run}", f"--dataset-dir={root / 'records'}", f"--output-dir={root / 'eval'}"]
    assert evaluate.main([*words, "--split=train", "--no-report"]) == 0
    with (root / "eval/predictions.csv").open() as file:
        expected = {row["filename"]: row for row in csv.DictReader(file)}
    return root, run, images, {name: expected[f"train/blue/{name}"] for name in every_kind()}


def test_predict_sees_every_kind_of_file_as_an_evaluation_of_its_record(everywhere, capsys):
    _, run, images, expected = everywhere
    capsys.readouterr()
    assert predict.main([f"--checkpoint={run}", "--format=json", str(images / "train/blue")]) == 0
    captured = capsys.readouterr()
    found = {row["filename"].rsplit("/", 1)[1]: row["guesses"][0] for row in json.loads(captured.out)}
    assert found.keys() == expected.keys()
    for name, row in expected.items():
        assert str(found[name]["class"]) == row["prediction"], name
        assert found[name]["probability"] == pytest.approx(float(row["probability"]), abs=1e-6), name
    assert "images, transparency laid on #3060c0" in captured.err
    assert "images, 12-bit samples scaled to 8 bits" in captured.err


def test_a_saved_model_sees_them_too(everywhere):
    root, run, _, expected = everywhere
    words = [f"--checkpoint={run}", f"--output-dir={root / 'served'}", f"--dataset-dir={root / 'records'}"]
    assert export.main([*words, "--split=train"]) == 0
    decoding = json.loads((root / "served/export.json").read_text())["image_preparation"]["decoding"]
    assert decoding["transparency"]["background"] == [0x30, 0x60, 0xC0]
    assert decoding["samples_of_16_bits"]["bits_used"] == 12
    serve = tf.saved_model.load(str(root / "served")).signatures["serving_default"]
    files = {
        name: content
        for name, content in every_kind().items()
        if content.startswith(DECODED_BY_TENSORFLOW) and not name.startswith(NOT_AS_PREDICTED)
    }
    assert len(files) >= 23
    probabilities = serve(encoded=tf.constant(list(files.values())))["probabilities"].numpy()
    for (name, _), row in zip(files.items(), probabilities, strict=True):
        tolerance = 0.03 if name.startswith(NEARLY_AS_PREDICTED) else 1e-6
        assert row[int(expected[name]["prediction"])] == pytest.approx(
            float(expected[name]["probability"]), abs=tolerance
        ), name


def exif_block(orientation, *, order="little", kind=3, entries_before=1):
    """A TIFF directory in which the orientation stands among others."""

    def number(value, num_bytes):
        return value.to_bytes(num_bytes, order)

    entry = number(0x0112, 2) + number(kind, 2) + number(1, 4)
    entry += number(orientation, {1: 1, 3: 2, 4: 4}[kind]).ljust(4, b"\0")
    others = (number(0x0100, 2) + number(3, 2) + number(1, 4) + number(6, 2) + b"\0\0") * entries_before
    start = (b"II" if order == "little" else b"MM") + number(42, 2) + number(8, 4)
    return start + number(entries_before + 1, 2) + others + entry + b"\0" * 4


def turned_by_graph():
    def turn(encoded):
        return turned_upright(tf.io.decode_image(encoded, channels=3, expand_animations=False), encoded)

    return tf.function(turn, autograph=False, input_signature=[tf.TensorSpec([], tf.string)])


def test_the_graph_turns_images_as_exif_says():
    turn = turned_by_graph()
    for orientation in range(10):
        for block in (
            exif_block(orientation),
            exif_block(orientation, order="big", entries_before=7),
            exif_block(orientation, kind=4, entries_before=0),
            exif_block(orientation, kind=1),
        ):
            jpeg = with_segment(with_segment(PHOTO, 0xE1, b"Exif\0\0" + block), 0xE0, b"before it")
            for file in (jpeg, with_chunk(DRAWING, chunk(b"eXIf", block))):
                seen = Image.fromarray(tf.io.decode_image(file, channels=3).numpy())
                way = Image.Exif()
                way[0x0112] = orientation if orientation in range(1, 9) else 1
                seen.getexif().update(way)
                expected = np.asarray(ImageOps.exif_transpose(seen))
                np.testing.assert_array_equal(turn(tf.constant(file)).numpy(), expected)


def test_the_graph_takes_what_cannot_be_read_for_upright():
    turn = turned_by_graph()
    whole = exif_block(6)
    damaged = [b"", b"II", NO_TIFF, whole[:12], b"II+" + whole[3:], whole[:4] + b"\xff" * 4 + whole[8:], whole[:-12]]
    for block in damaged:
        for file in (with_segment(PHOTO, 0xE1, b"Exif\0\0" + block), with_chunk(DRAWING, chunk(b"eXIf", block))):
            expected = tf.io.decode_image(file, channels=3).numpy()
            np.testing.assert_array_equal(turn(tf.constant(file)).numpy(), expected)


def test_records_that_lie_on_their_side_are_measured_as_they_were_trained_on(tmp_path):
    """Records of slim's hold a photograph as the camera wrote it, and TensorFlow decodes it so."""
    run, records = write_run(tmp_path / "run"), tmp_path / "records"
    records.mkdir()
    with RecordWriter(records / "tiny_validation_00000-of-00001.tfrecord") as writer:
        for label in range(3):
            writer.write(encode_record(Record(with_exif(6), "jpg", label, 32, 40, f"{label}.jpg")))
    words = [f"--checkpoint={run}", f"--output-dir={tmp_path / 'served'}", f"--dataset-dir={records}"]
    assert export.main(words) == 0


@pytest.mark.parametrize("channels", [1, 3])
def test_the_graph_decodes_to_the_bit_what_prepare_image_makes(channels):
    rules = ImageRules("#102030", 12)
    for name, data in every_kind().items():
        if data.startswith(b"\x89PNG"):
            pixels = decode_file(tf.constant(data), channels, rules)
            np.testing.assert_array_equal(pixels, decoded(prepare_image(data, rules).encoded, channels), err_msg=name)


# Whose rules hold


def test_a_flag_wins_over_the_run_and_the_run_over_the_default(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    disc = write_file(tmp_path / "disc.png", TRANSPARENT["RGBA PNG"])

    def logits_and_words(*words):
        assert predict.main([f"--checkpoint={run}", str(disc), *words, "--format=json"]) == 0
        captured = capsys.readouterr()
        return json.loads(captured.out)[0]["guesses"], captured.err

    # Of before there were rules: its records held such files as they were.
    assert image_rules_of_run(run) == RULES_OF_OTHER_RECORDS
    as_of_old, said = logits_and_words()
    assert "Changed: 1 image, transparency dropped" in said
    assert "Otherwise than" not in said
    write_file(run / "images.json", b'{"background": "red", "sample_bits": null}')
    on_red, said = logits_and_words()
    assert "laid on red" in said
    on_blue, said = logits_and_words("--background=blue")
    assert f"Otherwise than the images that {run} was trained on: transparency laid on blue, not laid on red." in said
    assert logits_and_words("--background=#ff0000")[0] == on_red
    assert len({json.dumps(guess) for guess in (as_of_old, on_red, on_blue)}) == 3
    (run / "config.toml").unlink()
    (run / "images.json").unlink()
    assert image_rules_of_run(run) is None
    assert "laid on white" in logits_and_words("--model=cifarnet")[1]
    write_file(run / "images.json", b"{}")
    assert predict.main([f"--checkpoint={run}", str(disc), "--model=cifarnet"]) == 2
    assert "images.json can't be read" in capsys.readouterr().err


def test_training_keeps_the_rules_and_whatever_measures_on_others_says_so(tmp_path, capsys):
    images = write_classes(
        tmp_path / "images", {"deep.png": deep_png(twelve_bits(1)), "disc.png": TRANSPARENT["LA PNG"]}
    )
    convert(ConvertSettings(tmp_path / "twelve", images, background="red", validation_fraction=0))
    convert(ConvertSettings(tmp_path / "ten", images, background="black", sample_bits=10, validation_fraction=0))
    run, words = tmp_path / "run", ["--split=train", "--no-report"]
    settings = [f"--dataset-dir={tmp_path / 'twelve'}", f"--train-dir={run}", "--model=lenet", "--max-steps=1"]
    assert train.main([*settings, "--batch-size=2"]) == 0
    assert json.loads((run / "images.json").read_text()) == {"background": "red", "sample_bits": 12}
    assert evaluate.main([f"--checkpoint={run}", f"--dataset-dir={tmp_path / 'twelve'}", *words]) == 0
    assert "Otherwise" not in capsys.readouterr().err
    assert evaluate.main([f"--checkpoint={run}", f"--dataset-dir={tmp_path / 'ten'}", *words]) == 0
    said = capsys.readouterr().err
    assert "trained on: transparency laid on black, not laid on red." in said
    assert "trained on: 16-bit files scaled from 10 bits, not 12." in said
    words = [f"--checkpoint={run}", f"--dataset-dir={tmp_path / 'ten'}", "--split=train"]
    assert export.main([*words, f"--output-dir={tmp_path / 'served'}"]) == 0
    assert "trained on: transparency laid on black, not laid on red." in capsys.readouterr().err


def test_differences_are_told_only_where_images_come_out_otherwise():
    assert ImageRules("white").differences(ImageRules("#fff")) == []
    assert ImageRules(sample_bits=12).differences(ImageRules(sample_bits=None)) == []
    assert ImageRules(sample_bits=12).differences(ImageRules(sample_bits=10)) == [
        "16-bit files scaled from 12 bits, not 10"
    ]
    with pytest.raises(UserError, match="--sample-bits is 17"):
        ImageRules(sample_bits=17)


def test_threads_do_not_disturb_each_other():
    """Pillow's limit is the whole process's."""
    limit = Image.MAX_IMAGE_PIXELS
    threads = [threading.Thread(target=lambda: [prepare_image(PHOTO) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert limit == Image.MAX_IMAGE_PIXELS
