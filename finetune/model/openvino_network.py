"""Networks as OpenVINO computes them, on the processor, by the package of the extra `openvino`.

Their layers compute in the type that is asked for, or it is said: OpenVINO by itself takes bfloat16 for networks in
float32 wherever the processor has units for it, and for float16 where it has none for that.
"""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from typing import Any

from finetune.errors import UserError, first_line
from finetune.types import Array

DEVICE = "CPU"
TYPE_NAMES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}

# Its classes declare no types.
Network = Any
CompiledNetwork = Any

_PACKAGE = "openvino"
_TELEMETRY = "openvino_telemetry"


def load_openvino(flag: str) -> Any:
    """The package, imported without its telemetry.

    That writes files into the user's home, and tells Google Analytics of each import, in a process forked for it,
    unless the user has declined. Where it isn't installed OpenVINO does without.

    Args:
        flag: That needs the package, with its value, for the message.

    Raises:
        UserError: It is not installed.
    """
    try:
        with _hidden(_TELEMETRY):
            return importlib.import_module(_PACKAGE)
    except ImportError as error:
        raise UserError(
            f"{flag}: {error.name or _PACKAGE} is not installed.",
            "It comes with the extra openvino: pip install 'slim-finetune[openvino]'",
        ) from error


def convert(function: Any, flag: str) -> Network:
    """A function of TensorFlow's as a network of OpenVINO's, with the weights in it.

    Args:
        function: A concrete function, with a name for its input, that gives a dictionary; these names are kept.
        flag: That needs it, with its value, for the message.

    Raises:
        UserError: OpenVINO is not installed, or lacks one of the function's operations.
    """
    # What `openvino.convert_model` does with a function, but for its telemetry, and for its reading of sys.argv.
    frontends = load_openvino(flag).frontend
    frontend = frontends.FrontEndManager().load_by_framework("tf")
    as_graph = importlib.import_module(f"{_PACKAGE}.frontend.tensorflow.utils").create_tf_graph_iterator
    # Weights that are shared would be read from where TensorFlow has them, for as long as it has them there.
    graph = as_graph(function, None, None, None, share_weights=False)
    loaded = frontend.load(graph)  # It reads `graph` on, which therefore needs its name.
    try:
        return frontend.convert(loaded)
    except frontends.OpConversionFailure as error:
        reasons = [line.removeprefix("-- ") for line in str(error).splitlines() if line.startswith("-- ")]
        raise UserError(
            f"{flag}: OpenVINO can't convert this network: {'; '.join(reasons) or first_line(error)}.",
            f"Give another {flag.partition(' ')[0]}.",
        ) from error


def compile_network(network: Network, precision: str, flag: str) -> CompiledNetwork:
    """A network ready to be run, whose layers compute in `precision`.

    Args:
        network: As `convert` gives it, or as it is read from a file.
        precision: "float32", "bfloat16" or "float16".
        flag: That needs it, with its value, for the message.

    Raises:
        UserError: OpenVINO would compute in another type on this processor.
    """
    openvino = load_openvino(flag)
    compiled = openvino.Core().compile_model(network, DEVICE, {"INFERENCE_PRECISION_HINT": TYPE_NAMES[precision]})
    used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if used != TYPE_NAMES[precision]:
        instead = {name: word for word, name in TYPE_NAMES.items()}.get(used, used)
        raise UserError(
            f"{flag}: OpenVINO computes {instead} in place of {precision} on this processor.",
            "Give --precision float32, which it has everywhere, or leave the engine to TensorFlow.",
        )
    return compiled


def run(compiled: CompiledNetwork, images: Array, output: str) -> Array:
    """One output of a network for its input `images`, float32 [B,H,W,C]."""
    return compiled({"images": images})[output]


@contextlib.contextmanager
def _hidden(package: str) -> Iterator[None]:
    """Has what is imported within the context take a package for one that isn't installed."""
    kept = sys.modules.get(package)
    sys.modules[package] = None  # type: ignore[assignment]  # Python's own word for it.
    try:
        yield
    finally:
        del sys.modules[package]
        if kept is not None:
            sys.modules[package] = kept
