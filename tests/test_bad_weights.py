"""Weight files as an attacker or a faulty disk leaves them: each is refused in a line, and nothing of it is run."""

import functools
import io
import re
import zipfile

import flatbuffers
import h5py
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from tiny_runs import values_of_network

from finetune.commands.import_weights import main
from finetune.errors import UserError
from finetune.foreign_weights import open_weights
from finetune.foreign_weights.tflite import TFLiteFile
from finetune.nets import get_spec, layers

SIDE = 8  # Pixels of the images: LeNet's weights are few then.
BIASES = "LeNet/fc4/biases"
CONV = "LeNet/conv1/weights"


def weights(image_size=None):
    return dict(values_of_network("lenet", 3, image_size, None))


@functools.cache
def frozen():
    """LeNet as a frozen graph: constants under the variables' names."""
    values = weights(SIDE)

    def constant(getter, name, *, shape, **_):
        with tf.compat.v1.name_scope(None):
            return tf.identity(tf.constant(values[name], name=name), name=f"{name}/read")

    modes = layers.layer_modes(is_training=False, is_frozen=lambda scope: True, seed=None)
    with tf.Graph().as_default() as graph:
        images = tf.compat.v1.placeholder(tf.float32, [1, SIDE, SIDE, 1], name="input")
        with tf.compat.v1.variable_scope("", custom_getter=constant, use_resource=False), modes:
            get_spec("lenet").load_function()(images, 3, is_training=False)
    return graph.as_graph_def().SerializeToString()


def graph_with(change):
    """The bytes of that graph, changed: `change` gets its nodes by name and the graph."""
    graph = tf.compat.v1.GraphDef.FromString(frozen())
    change({node.name: node for node in graph.node}, graph)
    return graph.SerializeToString()


def add_node(graph, op, name, *inputs, **attributes):
    graph.node.add(name=name, op=op, input=inputs)
    node = graph.node[-1]
    for key, value in attributes.items():
        if isinstance(value, str):
            node.attr[key].tensor.CopyFrom(tf.make_tensor_proto(value))
        else:
            node.attr[key].type = value
    return node


def add_writer(graph, target):
    """An operation that writes a file."""
    string = tf.string.as_datatype_enum
    add_node(graph, "Const", "target", value=str(target), dtype=string)
    add_node(graph, "Const", "content", value="written", dtype=string)
    add_node(graph, "WriteFile", "writer", "target", "content")


def last_layer(nodes):
    return nodes["LeNet/fc4/BiasAdd"]


def shape_of(node, *sizes):
    """Says that a constant has another shape than its content."""
    shape = node.attr["value"].tensor.tensor_shape
    del shape.dim[:]
    for size in sizes:
        shape.dim.add(size=size)


def replaced_input(node, source):
    node.input[0] = source


def run_through(op):
    """Puts an operation between the last layer and what it adds to."""

    def change(nodes, graph):
        add_node(graph, op, "between", last_layer(nodes).input[0], T=tf.float32.as_datatype_enum)
        replaced_input(last_layer(nodes), "between")

    return change


def identity_loop(nodes, graph):
    read = nodes[f"{BIASES}/read"]
    last_layer(nodes).input[1] = BIASES.replace("biases", "elsewhere")
    read.input[0] = BIASES
    read.input.append(read.name)
    for node in graph.node:
        if node.name not in (read.name, BIASES):
            kept = [source for source in node.input if source != BIASES]
            del node.input[:]
            node.input.extend(kept)


def cycle(nodes, graph):
    relu = nodes["LeNet/fc3/Relu"]
    replaced_input(relu, relu.name)


GRAPHS = {
    "no graph": (lambda: b"\xff" * 100, "is not a frozen graph"),
    "empty": (lambda: b"", "holds no LeNet/fc4"),
    "content of a wrong size": (
        lambda: graph_with(lambda nodes, _: setattr(nodes[CONV].attr["value"].tensor, "tensor_content", b"1234567")),
        r"the content of the constant LeNet/conv1/weights doesn't fit its shape \[5, 5, 1, 32\]",
    ),
    "negative shape": (lambda: graph_with(lambda nodes, _: shape_of(nodes[BIASES], -3)), r"has the shape \[-3\]"),
    "shape of terabytes": (
        lambda: graph_with(lambda nodes, _: shape_of(nodes[CONV], 5, 5, 1, 2**40)),
        "which no network's weights have",
    ),
    "classes by the billion": (lambda: graph_with(lambda nodes, _: shape_of(nodes[BIASES], 2**27)), "in the file and"),
    "images of a million pixels": (
        lambda: graph_with(
            lambda nodes, _: [
                setattr(nodes["input"].attr["shape"].shape.dim[axis], "size", 1_000_000) for axis in (1, 2)
            ]
        ),
        "takes images of 1,000,000 pixels",
    ),
    "no images": (
        lambda: graph_with(lambda nodes, _: setattr(nodes["input"], "op", "Const")),
        "has no placeholder for float images",
    ),
    "identity loop": (lambda: graph_with(identity_loop), "nothing in the graph uses LeNet/fc4/biases"),
    "cycle": (lambda: graph_with(cycle), "the graph can't be run"),
    "node that isn't there": (
        lambda: graph_with(lambda nodes, _: replaced_input(last_layer(nodes), "nowhere")),
        "lacks the node nowhere",
    ),
    **{
        op: (lambda op=op: graph_with(run_through(op)), f"the operation {op} .*Nothing of the graph was run")
        for op in ("PyFunc", "ReadFile", "Print", "PartitionedCall", "RandomUniform", "SomethingOfMyOwn")
    },
}


def npz(**members):
    """A zip archive of members as they are."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as zipped:
        for name, member in members.items():
            zipped.writestr(name.replace("__", "/") + ".npy", member)
    return content.getvalue()


def array_bytes(array, allow_pickle=False):
    content = io.BytesIO()
    np.save(content, array, allow_pickle=allow_pickle)
    return content.getvalue()


def npz_with(array, name=CONV):
    content = io.BytesIO()
    np.savez(content, **{**weights(), name: array})
    return content.getvalue()


def header(shape):
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return content.getvalue()


def with_bytes(content, **positions):
    """The content with bytes of the zip's directory changed: flags of encryption, method of compression."""
    changed = bytearray(content)
    for magic, (flags_at, method_at) in {b"PK\x03\x04": (6, 8), b"PK\x01\x02": (8, 10)}.items():
        start = changed.find(magic)
        while start >= 0:
            changed[start + flags_at] |= positions.get("flags", 0)
            changed[start + method_at] |= positions.get("method", 0)
            start = changed.find(magic, start + 4)
    return bytes(changed)


CONV_SHAPE = (5, 5, 1, 32)
ARRAYS = {
    "a .npy": (lambda: array_bytes(np.zeros(3, np.float32)), "is not a whole .npz file"),
    "text": (lambda: npz_with(np.full(CONV_SHAPE, "text")), "is of <U4, and weights are of float32"),
    "dates": (lambda: npz_with(np.zeros(CONV_SHAPE, "datetime64[s]")), r"is of datetime64\[s\]"),
    "complex": (lambda: npz_with(np.zeros(CONV_SHAPE, np.complex64)), "is of complex64"),
    "truth values": (lambda: npz_with(np.zeros(CONV_SHAPE, bool)), "is of bool"),
    "whole numbers": (lambda: npz_with(np.zeros(CONV_SHAPE, np.int32)), "is of int32"),
    "NaN": (lambda: npz_with(np.full(CONV_SHAPE, np.nan, np.float32)), "hold NaN or infinity"),
    "infinity": (lambda: npz_with(np.full(CONV_SHAPE, np.inf, np.float32)), "hold NaN or infinity"),
    "too large for 32 bits": (lambda: npz_with(np.full(CONV_SHAPE, 1e300)), "hold NaN or infinity"),
    "objects": (lambda: npz_with(np.full(CONV_SHAPE, None, object)), "Object arrays cannot be loaded"),
    "4 EiB": (lambda: npz(LeNet__fc4__biases=header((2**60,))), "has 128 bytes, not the 4,611,686,018,427,388,032"),
    "negative": (lambda: npz(LeNet__fc4__biases=header((-3,))), r"not the .* of its shape \(-3,\)"),
    "a header that is no header": (lambda: npz(LeNet__fc4__biases=b"\x93NUMPY\1\0\5\0{[}]\n"), "Cannot parse header"),
    "a version of the future": (lambda: npz(LeNet__fc4__biases=b"\x93NUMPY\x09\0"), "unknown version"),
    "no array": (lambda: npz(LeNet__fc4__biases=b"nothing"), "is not a whole .npz file"),
    "encrypted": (lambda: with_bytes(npz_with(np.zeros(CONV_SHAPE)), flags=1), "is encrypted, password required"),
    "unknown method": (lambda: with_bytes(npz_with(np.zeros(CONV_SHAPE)), method=99), "by a method that isn't known"),
    "cut off": (lambda: npz_with(np.zeros(CONV_SHAPE))[:5_000_000], "is not a whole .npz file"),
    "other bytes": (
        lambda: npz_with(np.full(CONV_SHAPE, 1.5, np.float32)).replace(b"\0\0\xc0\x3f" * 9, b"\0\0\xc0\x4f" * 9, 1),
        "Bad CRC-32",
    ),
    "another shape": (lambda: npz_with(np.zeros((1, 1), np.float32)), r"is \[1, 1\] in the file"),
}


def tflite(change=lambda model: None):
    """A file of one convolution, changed."""
    kernel = tf.constant(np.ones([3, 3, 1, 4], np.float32))
    function = tf.function(lambda images: tf.nn.conv2d(images, kernel, 1, "SAME"))
    concrete = function.get_concrete_function(tf.TensorSpec([1, SIDE, SIDE, 1], tf.float32))
    content = tf.lite.TFLiteConverter.from_concrete_functions([concrete], tf.Module()).convert()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def custom(model):
    model.operatorCodes[0].builtinCode = model.operatorCodes[0].deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    model.operatorCodes[0].customCode = b"FlexWriteFile"


def shaped(shape):
    def change(model):
        model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]].shape = np.asarray(shape, np.int32)

    return change


def kernel_shaped(shape):
    def change(model):
        operator = next(each for each in model.subgraphs[0].operators if len(each.inputs) > 2)
        model.subgraphs[0].tensors[operator.inputs[1]].shape = np.asarray(shape, np.int32)

    return change


LITE = {
    "cut off": (lambda: tflite()[:300], "is not a whole TensorFlow Lite file"),
    "nothing but its name": (lambda: b"\0\0\0\0TFL3", "is not a whole TensorFlow Lite file"),
    "an operator of its own": (lambda: tflite(custom), "TensorFlow Lite"),
    "no graph": (lambda: tflite(lambda model: setattr(model, "subgraphs", [])), "is not a whole TensorFlow Lite file"),
    "images of terabytes": (lambda: tflite(shaped([1, 2**20, 2**20, 1])), "TensorFlow Lite|larger than any network's"),
    "a kernel that is too short": (lambda: tflite(kernel_shaped([4, 3, 3, 100])), "is not a whole TensorFlow Lite"),
    "another network": (tflite, "has 1 convolutions"),
}


def hdf5(fill):
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        fill(file)
    return content.getvalue()


def keras_archive(compression, name="model.weights.h5"):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as zipped:
        zipped.writestr(name, hdf5(lambda file: None))
        zipped.writestr("model.weights.h5" if name != "model.weights.h5" else "config.json", b"{}")
    return content.getvalue()


HDF5 = {
    "terabytes": (
        lambda: hdf5(lambda file: file.create_dataset("a", (2**40,), "f4", chunks=(2**20,), compression="gzip")),
        "unpacks to more than 4,294,967,296 bytes",
    ),
    "another file": (
        lambda: hdf5(lambda file: file.create_dataset("a", (4,), "u1", external=[("/etc/passwd", 0, 4)])),
        "a lies in another file",
    ),
    "a link": (lambda: hdf5(lambda file: file.__setitem__("a", h5py.ExternalLink("/etc/passwd", "b"))), "a is a link"),
    "nothing": (lambda: hdf5(lambda file: None), "does not hold weights of mobilenet_v1_025"),
}


def told(capsys, path, content, model):
    path.write_bytes(content)
    assert main([str(path), "--model", model, "--output", str(path.with_name("out"))]) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    return message


def cases(table, ending, model):
    return [
        pytest.param(make, message, ending, model, id=f"{ending} {name}") for name, (make, message) in table.items()
    ]


@pytest.mark.parametrize(
    ("make", "message", "ending", "model"),
    [
        *cases(GRAPHS, ".pb", "lenet"),
        *cases(ARRAYS, ".npz", "lenet"),
        *cases(LITE, ".tflite", "lenet"),
        *cases(HDF5, ".weights.h5", "mobilenet_v1_025"),
        pytest.param(
            lambda: keras_archive(zipfile.ZIP_DEFLATED),
            "is compressed, which Keras doesn't do",
            ".keras",
            "mobilenet_v1_025",
            id=".keras compressed",
        ),
    ],
)
def test_bad_file_is_refused_in_words(tmp_path, capsys, make, message, ending, model):
    found = told(capsys, tmp_path / f"weights{ending}", make(), model)
    assert re.search(message, found, re.DOTALL), found


def test_graph_is_imported_and_what_hangs_on_it_is_not_run(tmp_path, capsys):
    """A file written by way of a control dependency, which computes nothing that the logits need."""
    target = tmp_path / "written"

    def change(nodes, graph):
        add_writer(graph, target)
        last_layer(nodes).input.append("^writer")

    path = tmp_path / "graph.pb"
    path.write_bytes(graph_with(change))
    assert main([str(path), "--model", "lenet", "--output", str(tmp_path / "out")]) == 0
    assert "LeNet" not in capsys.readouterr().err
    assert not target.exists()


def test_mutated_tflite_files_give_declared_errors_alone(tmp_path):
    content = tflite()
    path = tmp_path / "model.tflite"
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        mutated = bytearray(content)
        for position in random.integers(8, len(content), 3):
            mutated[position] = random.integers(256)
        path.write_bytes(mutated)
        try:
            assert isinstance(open_weights(path), TFLiteFile)
        except UserError:
            refused += 1
    assert refused > 30
