"""Fixtures that all tests share, and how the suite stays short. For whoever adds tests:

- Building or tracing a network is what takes time: build it once for all its checks. Those on every network of the
  table take `published_network` or `small_network`, which are built once in a session for the tests of all files.
- Run and record files come from `tiny_runs`, which draws a network's weights once; a fixture of a file that several
  tests read has `scope="module"`. Take the smallest network, images and number of steps that can show the fault.
- A process that imports TensorFlow takes seconds: start one only where the test is about processes.
- With `pytest -n 2` the tests of a file run in one process, in order, and those on every network in one process by
  network: `ByNetworkOrFile` below. Measure with `--durations=20`.
"""

import contextlib
import ctypes
import gc
import logging
import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from reference_networks import EVERY_NETWORK, ReferenceModel, load_reference, make_small_network
from xdist.scheduler import LoadScopeScheduling

from finetune.nets import get_spec

# Whose tests are on one network each.
NETWORK_FILES = ("test_networks.py", "test_split_model.py", "test_keras_networks.py")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Real photographs, checkpoints and figures beside the checkout; the test is skipped where they are absent."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder ../shared with real photographs and checkpoints, which is not here")
    return SHARED


@pytest.fixture(autouse=True, scope="session")
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache folder of their own, also of the processes that they start: the user's is neither read nor written.

    matplotlib's list of fonts, which takes seconds to make, stays where it is.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLCONFIGDIR", os.environ.get("MPLCONFIGDIR", str(cache / "matplotlib")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with random weights: of cifarnet, three classes."""
    from tiny_runs import write_run

    return write_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Record files of the run's classes: 12 images to validate on, 8 to train on."""
    from tiny_runs import write_records

    folder = write_records(tmp_path_factory.mktemp("data") / "records")
    return write_records(folder, num_images=8, split="train")


@pytest.fixture(scope="session", params=EVERY_NETWORK)
def published_network(request: pytest.FixtureRequest) -> Iterator[ReferenceModel]:
    """Every network as its figures were measured, with weights that anyone can make again."""
    yield ReferenceModel(get_spec(request.param), load_reference(request.param)["num_classes"])
    gc.collect()


@pytest.fixture(scope="session")
def small_network(published_network: ReferenceModel) -> ReferenceModel:
    """Every network, with two classes, for smaller images of the other number of channels than its own.

    It holds the published network's own variables, where the shapes agree: whoever changes values puts them back.
    """
    return make_small_network(published_network)


@pytest.fixture(autouse=True)
def fresh_logger() -> None:
    """Our logger shows what commands show."""
    logging.getLogger("finetune").setLevel(logging.INFO)


@pytest.fixture
def signals_of_a_terminal() -> Iterator[None]:
    """Ctrl-C and SIGTERM end programs, where they would be ignored too, as in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler), signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, before[0])
    signal.signal(signal.SIGTERM, before[1])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What was captured as text that processes of tests can send each other, names that are no text escaped."""
    report = yield
    report.sections = [
        (title, content.encode("utf-8", "backslashreplace").decode()) for title, content in report.sections
    ]
    return report


@pytest.fixture(autouse=True, scope="module")
def memory_is_given_back(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a file's networks took, before the next file's need as much: two processes share a machine of 24 GB.

    What TensorFlow keeps for good, millions of objects after some hundred graphs, isn't looked through again each time.
    It also keeps the names of all scopes, of all networks ever made, and looks through them where a scope is left.
    """
    yield
    tf.compat.v1.reset_default_graph()
    if "tiny_runs" in sys.modules:
        sys.modules["tiny_runs"].values_of_network.cache_clear()
    gc.collect()
    if request.path.name not in NETWORK_FILES:  # Between these a network is kept that goes soon.
        gc.freeze()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # Another C library.
            ctypes.CDLL(None).malloc_trim(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first, so that no process is left with one at the end."""
    slow_files = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.name not in NETWORK_FILES, item.path not in slow_files))


class ByNetworkOrFile(LoadScopeScheduling):
    """Tests of one network go to one process, and so do the others of one file: they share what takes long to make.

    pytest-xdist's own groups (3.8, `--dist loadgroup`) are not seen under pytest 9.2, without a word.
    """

    def _split_scope(self, nodeid: str) -> str:
        path, _, test = nodeid.partition("::")
        network = test.partition("[")[2]
        return network if network and Path(path).name in NETWORK_FILES else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByNetworkOrFile:
    """Whatever `--dist` says."""
    return ByNetworkOrFile(config, log)


def pytest_configure() -> None:
    """What TensorFlow takes before its first operation alone: two logical CPUs, for tests of several devices; no GPU.

    Processes that run tests side by side share the cores: threads of each on all of them would wait for each other.
    """
    import tensorflow as tf

    num_processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    tf.config.threading.set_intra_op_parallelism_threads(max(1, (os.cpu_count() or 1) // num_processes))
    tf.config.set_visible_devices([], "GPU")
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
