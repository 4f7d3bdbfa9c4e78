"""Every reader of what comes from outside, with inputs drawn for it: sound ones changed a little, and any others.

`scripts/fuzz.py` makes as many runs as it is told, `test_fuzz.py` a few of each. What was found is in `KEPT`.
"""

import contextlib
import dataclasses
import functools
import gzip
import http.client
import io
import json
import logging
import os
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
from hypothesis import strategies as st
from image_files import encode, picture, write_file
from tiny_runs import CLASSES

from finetune.datasets.catalogue import catalogue_shards, parse_shard_name
from finetune.datasets.description import read_description, read_labels
from finetune.datasets.image_rules import DEFAULT_RULES
from finetune.datasets.images import BrokenImageError, is_image, largest_sample, prepare_image
from finetune.datasets.label_table import read_label_table
from finetune.datasets.records import Record, encode_record, read_feature, read_features
from finetune.datasets.schema import find_schema
from finetune.datasets.tfrecord import RecordFileError, RecordWriter, count_records, hash_content, read_records
from finetune.errors import UserError
from finetune.evaluation.report import _read_plan
from finetune.foreign_weights.frozen_graph import FrozenGraph
from finetune.foreign_weights.keras_weights import KerasFile
from finetune.foreign_weights.named_arrays import open_npz
from finetune.model.checkpoint import Checkpoint, best_checkpoint, newest_checkpoint, newest_whole, write_checkpoint
from finetune.model.checkpoint_names import names_of_objects
from finetune.model.weight_files import file_kind
from finetune.nets import get_spec
from finetune.prediction.find_images import find_images
from finetune.published.archives import unpack
from finetune.published.cifar10_mnist import write_mnist
from finetune.published.http_download import download
from finetune.runs.decision_file import Scorer, read_decision
from finetune.runs.label_thresholds import read_label_thresholds
from finetune.runs.provenance import read_provenance
from finetune.runs.run_folder import RunFolder, image_rules_of_run
from finetune.runs.stage_record import read_stage_records
from finetune.settings.command_line import parse_flags
from finetune.settings.convert import ConvertSettings
from finetune.settings.flags import flags_of
from finetune.settings.predict import PredictSettings
from finetune.settings.settings_file import read_toml
from finetune.settings.train import TrainSettings
from finetune.training.best import _read_best
from finetune.training.divergence import read_rate_cuts
from finetune.training.kept_precisions import find_kept

DECLARED = (UserError,)


@dataclasses.dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        inputs: What is drawn for it.
        read: Takes what was drawn, and an empty folder that the runs share.
        declared: The errors that may come out.
        cost: Milliseconds that a run takes, about; long rounds are divided by it.
    """

    inputs: st.SearchStrategy[Any]
    read: Callable[[Any, Path], object]
    declared: tuple[type[Exception], ...] = DECLARED
    cost: float = 1.0


CHANGES = st.lists(
    st.tuples(st.integers(0, 2**16), st.sampled_from(("set", "cut", "insert", "drop")), st.binary(max_size=9)),
    max_size=6,
)


def changed(sound: bytes | Callable[[], bytes]) -> st.SearchStrategy[bytes]:
    """The bytes of a sound file with a few changes, cut off, or others altogether."""
    return st.one_of(
        CHANGES.map(lambda changes: _change(sound() if callable(sound) else sound, changes)),
        st.binary(max_size=200),
    )


def _change(content: bytes, changes: list[tuple[int, str, bytes]]) -> bytes:
    data = bytearray(content)
    for number, how, piece in changes:
        at = number % (len(data) + 1)
        if how == "set":
            data[at : at + len(piece)] = piece
        elif how == "insert":
            data[at:at] = piece
        elif how == "drop":
            del data[at : at + len(piece)]
        elif number % 4 == 0:
            del data[at:]
    return bytes(data)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def changed_json(sound: Any) -> st.SearchStrategy[bytes]:
    """A sound value with one of its parts in place of another, any value, or the file's bytes changed."""
    paths = list(_paths(sound))
    one_replaced = st.builds(
        lambda path, part: json.dumps(_with(sound, path, part)).encode(), st.sampled_from(paths), ANY_JSON
    )
    return st.one_of(
        one_replaced, ANY_JSON.map(lambda value: json.dumps(value).encode()), changed(json.dumps(sound).encode())
    )


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _paths(item, (*path, key))


def _with(value: Any, path: tuple[Any, ...], part: Any) -> Any:
    if not path:
        return part
    copy = value.copy()
    copy[path[0]] = _with(value[path[0]], path[1:], part)
    return copy


def of_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes, Path], object]:
    """A reader of a folder's file."""

    def read_file(content: bytes, folder: Path) -> object:
        (folder / name).write_bytes(content)
        return read(folder)

    return read_file


def _lines(content: bytes) -> bytes:
    return content + b"\n"


EXAMPLE = encode_record(Record(encode(picture(0, width=16, height=16)), "jpg", 1, 16, 16, "a.jpg"))


def _records_file(compress: Callable[[bytes], bytes] = bytes) -> bytes:
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"finetune-fuzz-{os.getpid()}.tfrecord"
    with RecordWriter(path) as writer:
        for index in range(3):
            writer.write(b"%d" % index * 5)
    content = path.read_bytes()
    path.unlink()
    return compress(content)


def _read_record_file(content: bytes, folder: Path) -> None:
    path = folder / "a.tfrecord"
    path.write_bytes(content)
    for read in (count_records, lambda path: list(read_records(path)), hash_content):
        with contextlib.suppress(RecordFileError):
            read(path)


def _read_example(content: bytes, folder: Path) -> None:
    features = read_features(content)
    for key in [*features, "image/encoded"]:
        read_feature(content, key)
    schema = find_schema(features, "image/encoded", "image/class/label", CLASSES)
    schema.read_label(content)


@functools.cache
def image(file_format: str, mode: str) -> bytes:
    if mode == "I;16":
        return encode(picture(0, width=16, height=16, mode="L").convert("I;16"), file_format)
    return encode(picture(0, width=16, height=16, mode=mode), file_format)


IMAGES = [
    ("JPEG", "RGB"),
    ("JPEG", "CMYK"),
    ("PNG", "RGBA"),
    ("PNG", "P"),
    ("PNG", "I;16"),
    ("GIF", "P"),
    ("BMP", "RGB"),
    ("WEBP", "RGB"),
    ("TIFF", "RGB"),
    ("TIFF", "I;16"),
    ("PPM", "RGB"),
    ("TGA", "RGB"),
]


def _read_image(content: bytes, folder: Path) -> None:
    path = folder / "a.img"
    path.write_bytes(content)
    is_image(path)
    file_kind(path)
    with contextlib.suppress(BrokenImageError):
        largest_sample(path, DEFAULT_RULES)
    prepare_image(content)


TABLE = b"file,class,split\na.jpg,cat,train\nb.jpg,dog,train\nc.jpg,cat,validation\n"


def _read_table(content: bytes, folder: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        if not (folder / "images" / name).exists():
            write_file(folder / "images" / name, b"x")
    (folder / "table.csv").write_bytes(content)
    read_label_table(folder / "table.csv", folder / "images")


def _archive(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zipped:
            zipped.writestr("a/b.txt", b"b" * 100)
            zipped.writestr("c.txt", b"c")
        return buffer.getvalue()
    with tarfile.open(fileobj=buffer, mode=kind) as tar:
        for name in ("a/b.txt", "c.txt"):
            member = tarfile.TarInfo(name)
            member.size = 100
            tar.addfile(member, io.BytesIO(b"b" * 100))
    return buffer.getvalue()


def _unpack(content: bytes, folder: Path) -> None:
    (folder / "archive").write_bytes(content)
    before = set(folder.parent.iterdir())
    unpack(folder / "archive", folder / "unpacked")
    assert set(folder.parent.iterdir()) == before


@functools.cache
def _npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones([2, 3], np.float32), b=np.int64(3))
    return buffer.getvalue()


def _read_npz(content: bytes, folder: Path) -> None:
    (folder / "a.npz").write_bytes(content)
    open_npz(folder / "a.npz")


@functools.cache
def _frozen_graph() -> bytes:
    """A head alone: it is read and run as a whole network is."""
    with tf.Graph().as_default() as graph:
        images = tf.compat.v1.placeholder(tf.float32, [1, 2, 2, 1], name="input")
        arrays = [tf.constant(np.ones(shape, np.float32), name=name) for name, shape in HEAD.items()]
        tf.nn.bias_add(tf.reshape(images, [1, 4]) @ arrays[0], arrays[1])
    return graph.as_graph_def().SerializeToString()


HEAD = {"LeNet/fc4/weights": (4, 3), "LeNet/fc4/biases": (3,)}


def _read_frozen_graph(content: bytes, folder: Path) -> None:
    path = folder / "graph.pb"
    path.write_bytes(content)
    graph, spec = FrozenGraph(path), get_spec("lenet")
    graph.num_classes(spec)
    graph.find_weights(spec, HEAD)
    graph.image_size()
    graph.logits(np.zeros([1, 2, 2, 1], np.float32))


@functools.cache
def _keras_model() -> Any:
    return keras.Sequential([keras.Input([4]), keras.layers.Dense(3, name="head")])


@functools.cache
def _keras_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.weights.h5"
        _keras_model().save_weights(path)
        return path.read_bytes()


def _read_keras_file(changes: list[tuple[int, str, bytes]], folder: Path) -> None:
    path = folder / "a.weights.h5"
    path.write_bytes(_change(_keras_file(), changes))
    file = KerasFile(path)
    with (
        mock.patch("finetune.foreign_weights.keras_weights.build_application", lambda *_: _keras_model()),
        mock.patch("finetune.foreign_weights.keras_weights.pair_variables", lambda *_: {}),
    ):
        file.find_weights(get_spec("mobilenet_v2"), {"MobilenetV2/Logits/Conv2d_1c_1x1/biases": (3,)})


def _architecture() -> Any:
    """A model of a model, as config.json in a `.keras` file has it."""
    images = keras.Input((8, 8, 3))
    base = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.RandomFlip(), keras.layers.BatchNormalization()])
    outputs = keras.layers.Dense(3, activation="softmax")(keras.layers.Flatten()(base(images / 2)))
    return json.loads(keras.Model(images, outputs).to_json())


def _idx(*shape: int) -> bytes:
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + bytes(range(int(np.prod(shape))))


def _read_mnist(content: tuple[bytes, bytes], folder: Path) -> None:
    for name, part in zip(("images", "labels"), content, strict=True):
        (folder / name).write_bytes(part)
    write_mnist([folder / "images", folder / "labels"] * 2, folder / "mnist")


@functools.cache
def _checkpoint_files() -> dict[str, bytes]:
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"finetune-fuzz-{os.getpid()}"
    write_checkpoint(folder / "m", {"a/weights": np.ones([2, 3], np.float32), "global_step": np.int64(3)})
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    return files


def _read_checkpoint(content: dict[str, bytes], folder: Path) -> None:
    for ending, part in zip((".data-00000-of-00001", ".index"), content, strict=True):
        (folder / f"m-1{ending}").write_bytes(part)
    newest_whole(folder)
    checkpoint = Checkpoint(str(folder / "m-1"))
    for name in checkpoint.shapes:
        checkpoint.read(name)


STATE = b'model_checkpoint_path: "model.ckpt-1"\nall_model_checkpoint_paths: "model.ckpt-1"\n'


def _read_state(folder: Path) -> None:
    (folder / "model.ckpt-1.index").touch()
    newest_checkpoint(folder)


def _read_best_file(folder: Path) -> None:
    (folder / "model.ckpt-1.index").touch()
    best = best_checkpoint(folder)
    assert best is None or Path(best).parent == folder
    _read_best(RunFolder(folder))


ANSWER = b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\nETag: "1"\r\nConnection: close\r\n\r\n0123456789'


class _Socket:
    """A connection whose other side sends these bytes."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def makefile(self, *_: object, **__: object) -> io.BytesIO:
        return io.BytesIO(self._content)

    def sendall(self, _: object) -> None:
        pass

    def close(self) -> None:
        pass


def _download(content: bytes, folder: Path) -> None:
    def connect(connection: http.client.HTTPConnection) -> None:
        connection.sock = _Socket(content)

    for old in folder.glob("a.bin*"):
        old.unlink()
    with (
        mock.patch("http.client.HTTPConnection.connect", connect),
        mock.patch("http.client.HTTPSConnection.connect", connect),
    ):
        download("http://localhost/a.bin", folder / "a.bin", pause=lambda seconds: None)


WORDS = st.sampled_from([flag.option for flag in flags_of(TrainSettings)]) | st.text(max_size=6).filter(
    lambda word: word.lstrip("-") not in ("h", "help", "version") and not word.startswith("~")
)
VALUES = st.sampled_from(
    [
        "nan",
        "inf",
        "-1",
        "0",
        "1",
        "1e309",
        "9" * 30,
        "",
        "true",
        "a,b",
        "a=1",
        ":",
        "--",
        "=",
        "\0",
        "x" * 300,
        "lenet",
    ]
) | st.text(max_size=6)
COMMAND_LINES = st.lists(WORDS | VALUES | st.builds("{}={}".format, WORDS, VALUES), max_size=5)


def _parse(settings_class: type) -> Callable[[list[str], Path], object]:
    def parse(words: list[str], folder: Path) -> object:
        if any(word.replace("_", "-").startswith(("--help", "--version", "--flagfile", "--config")) for word in words):
            return None
        return parse_flags(
            settings_class, ["--dataset-dir=d", "--checkpoint=c", *words], prog="finetune", description=""
        )

    return parse


TOML_VALUES = st.sampled_from(
    [
        "nan",
        "-inf",
        "1e400",
        "-1",
        "0",
        "''",
        "[]",
        "[1]",
        "[['a']]",
        "{a=1}",
        "true",
        "1979-05-27",
        "'\\u0000'",
        "0x10",
        "'a'",
    ]
)
TOML = st.lists(
    st.builds(
        "{} = {}".format,
        st.sampled_from([flag.name for flag in flags_of(TrainSettings)]) | st.text(max_size=4),
        TOML_VALUES,
    ),
    max_size=4,
).map(lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass"))

GLOBS = st.lists(st.text("*?[]!-{}aé\udcff\0,\n", max_size=6).filter(lambda word: word != "-"), max_size=3)


def _find_images(words: list[str], folder: Path) -> None:
    with contextlib.chdir(folder):
        list(find_images(words))


def _name_shards(names: list[str], folder: Path) -> None:
    for name in names:
        parse_shard_name(folder / name)
    within = folder / "shards"
    within.mkdir(exist_ok=True)
    for old in within.iterdir():
        old.unlink()
    for name in names:
        with contextlib.suppress(OSError, ValueError):
            (within / name).touch()
    catalogue_shards(within)


SHARD_NAMES = st.lists(
    st.text("ab_-.0", max_size=8)
    | st.from_regex(r"[a-c_]{0,3}_?(train|val|test)?[-_.]?[0-9]{0,6}(-of-[0-9]{0,6})?(\.tfrecord)?", fullmatch=True),
    max_size=4,
)


def _object_graph() -> bytes:
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    graph = TrackableObjectGraph()
    node = graph.nodes.add()
    node.attributes.add(
        name="VARIABLE_VALUE", full_name="LeNet/fc3/weights", checkpoint_key="a/.ATTRIBUTES/VARIABLE_VALUE"
    )
    return graph.SerializeToString()


DATA = {"name": "tiny", "split": "train", "num_examples": 3, "sha256": "0"}
DATASET = {
    "version": 1,
    "name": "tiny",
    "classes": ["a", "b"],
    "splits": {
        "train": {"num_examples": 1, "shards": [{"file": "f", "num_records": 1, "num_bytes": 1, "sha256": "0"}]}
    },
    "images": {"background": "white", "sample_bits": None},
}
CHOSEN_ON = {"split": "validation", "data_sha256": "0", "num_images": 3}
DECISION = {
    "checkpoint": "model.ckpt-1",
    "step": 1,
    "weights_sha256": "0",
    "classes": ["a", "b"],
    "scored_with": {"tta": "none"},
    "temperature": {"value": 1.5, "chosen_on": CHOSEN_ON},
    "threshold": {"value": 0.5, "positive_class": "b", "rule": "recall>=0.9", "chosen_on": CHOSEN_ON},
}
SCORER = Scorer("model.ckpt-1", 1, "0", ("a", "b"), {"tta": "none"})
PLAN = {"variables": [{"name": "a", "shape": [3], "source": None, "is_trained": True, "is_statistic": False}]}
PRECISION = {"precision": "bfloat16", "seconds": {"float32": 0.5}, "date": "2026-11-30", "of": {"a": 1}}

TARGETS = {
    "best.json": Target(
        changed_json({"checkpoint": "model.ckpt-1", "step": 1, "accuracy": 0.5, "loss": 1.0, "macro_f1": 0.5}),
        of_file("best.json", _read_best_file),
    ),
    "decision.json": Target(
        changed_json(DECISION),
        of_file("decision.json", lambda folder: read_decision(folder, lambda: SCORER)),
    ),
    "images.json": Target(
        changed_json({"background": "#ff8000", "sample_bits": 12}), of_file("images.json", image_rules_of_run)
    ),
    "label_thresholds.json": Target(
        changed_json(
            {
                "checkpoint": "model.ckpt-1",
                "weights_sha256": "0",
                "rule": "max-f1",
                "split": "validation",
                "data_sha256": "0",
                "num_images": 3,
                "thresholds": {"a": 0.5, "b": 0.25},
                "not_chosen": ["a"],
            }
        ),
        of_file("label_thresholds.json", lambda folder: read_label_thresholds(f"{folder}/m", ["a", "b"], lambda: "0")),
    ),
    "plan.json": Target(changed_json(PLAN), of_file("plan.json", lambda folder: _read_plan(folder / "plan.json"))),
    "provenance.json": Target(
        changed_json({"versions": {"numpy": "2"}, "data": DATA}), of_file("provenance.json", read_provenance)
    ),
    "rate_cuts.json": Target(
        changed_json({"cuts": [{"step": 4, "factor": 0.5, "seen_at": 6, "why": "The loss is nan."}]}),
        of_file("rate_cuts.json", lambda folder: read_rate_cuts(RunFolder(folder))),
    ),
    "stages.json": Target(
        changed_json({"stages": [{"name": "head", "first_step": 0, "last_step": 3}]}),
        of_file("stages.json", read_stage_records),
    ),
    "metrics.jsonl": Target(
        changed_json({"step": 3, "loss": 0.5, "split": "validation"}).map(_lines),
        of_file("metrics.jsonl", lambda folder: RunFolder(folder).forget_metrics_after(1)),
    ),
    "precisions.jsonl": Target(
        changed_json(PRECISION).map(_lines),
        of_file("precisions.jsonl", lambda folder: find_kept(folder / "precisions.jsonl", {"a": 1}, ["float32"])),
        (),
    ),
    "dataset.json": Target(changed_json(DATASET), of_file("dataset.json", read_description)),
    "labels.txt": Target(
        changed(b"0:daisy\n1:r\xc3\xb6schen\n2:tulip\n")
        | st.text("0123456789:ab \n\r\t\u2028\ufeff{[", max_size=20).map(lambda text: text.encode("utf-16")),
        of_file("labels.txt", lambda folder: read_labels(folder / "labels.txt")),
    ),
    "config.toml": Target(
        TOML | changed(b'model = "lenet"\nmax_steps = 3\ntrainable_scopes = ["a", "b"]\n'),
        of_file(
            "config.toml",
            lambda folder: TrainSettings(**{"dataset_dir": "d", **read_toml(TrainSettings, folder / "config.toml")}),
        ),
    ),
    "flags of train": Target(COMMAND_LINES, _parse(TrainSettings), cost=8),
    "flags of convert": Target(COMMAND_LINES, _parse(ConvertSettings), cost=4),
    "flags of predict": Target(COMMAND_LINES, _parse(PredictSettings), cost=4),
    "records": Target(changed(EXAMPLE), _read_example, (UserError, ValueError)),
    "record files": Target(changed(_records_file()), _read_record_file),
    "record files, compressed": Target(
        changed(_records_file(functools.partial(gzip.compress, mtime=0))), _read_record_file
    ),
    "images": Target(
        st.sampled_from(IMAGES).flatmap(lambda kind: changed(lambda: image(*kind))), _read_image, (BrokenImageError,), 3
    ),
    "tables of labels": Target(
        changed(TABLE) | st.text("abcj.pg,;\t|\"'\n0", max_size=40).map(str.encode), _read_table
    ),
    "archives": Target(
        st.sampled_from(("w:", "w:gz", "w:xz", "zip")).flatmap(lambda kind: changed(functools.partial(_archive, kind))),
        _unpack,
        cost=2,
    ),
    ".npz": Target(changed(_npz), _read_npz),
    "frozen graphs": Target(changed(_frozen_graph), _read_frozen_graph, cost=6),
    "architecture.json": Target(
        changed_json(_architecture()), of_file("own.keras", lambda folder: get_spec(str(folder / "own.keras"))), cost=6
    ),
    "Keras files": Target(CHANGES, _read_keras_file, cost=6),
    "MNIST": Target(st.tuples(changed(_idx(2, 3, 3)), changed(_idx(2))), _read_mnist, cost=2),
    "state of checkpoints": Target(changed(STATE), of_file("checkpoint", _read_state)),
    "checkpoints": Target(
        st.tuples(
            *(
                changed(lambda ending=ending: _checkpoint_files()[f"m{ending}"])
                for ending in (".data-00000-of-00001", ".index")
            )
        ),
        _read_checkpoint,
        cost=3,
    ),
    "names of objects": Target(
        st.tuples(st.lists(st.text("a./S_", max_size=9), max_size=3), changed(_object_graph)),
        lambda drawn, folder: names_of_objects(*drawn),
    ),
    "answers of servers": Target(changed(ANSWER), _download, cost=4),
    "words for images": Target(GLOBS, _find_images),
    "names of shards": Target(SHARD_NAMES, _name_shards),
}

# What was found once, by the name of its target.
KEPT: dict[str, list[Any]] = {
    "archives": [_change(_archive("zip"), [(0, "drop", b"\0")])],  # A member that begins before the file does.
    ".npz": [
        _change(_npz(), [(4586, "set", b"\0\0@")]),  # Of a version of zip's that there isn't.
        b"\x93NUMPY",
    ],
    "MNIST": [(_idx(2, 3, 3), b"\0\0\x08\0\x01")],  # A single number, where an array was expected.
    "names of objects": [([], b"\0")],
    "record files, compressed": [b"\x1f\x8b\x08\0"],
    "answers of servers": [ANSWER.replace(b"Length: 10", b"Length: \x0010"), ANSWER.replace(b"10", b"abc")],
}


def run(name: str, drawn: Any, folder: Path) -> None:
    """One run: what comes out but the target's declared errors is a fault."""
    logging.getLogger("finetune").setLevel(logging.ERROR)
    target = TARGETS[name]
    with contextlib.suppress(*target.declared):
        target.read(drawn, folder)
