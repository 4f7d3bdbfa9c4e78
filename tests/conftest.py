"""Fixtures that all tests share."""

import logging
from collections.abc import Generator
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture
def shared_dir() -> Path:
    """Real photographs, checkpoints and figures beside the checkout; the test is skipped where they are absent."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder ../shared with real photographs and checkpoints, which is not here")
    return SHARED


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


@pytest.fixture(autouse=True)
def fresh_logger() -> None:
    """Our logger shows what commands show; import-linter, where a test ran it, has turned all loggers off."""
    log = logging.getLogger("finetune")
    log.disabled = False
    log.setLevel(logging.INFO)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What was captured as text that processes of tests can send each other, names that are no text escaped."""
    report = yield
    report.sections = [
        (title, content.encode("utf-8", "backslashreplace").decode()) for title, content in report.sections
    ]
    return report


def pytest_configure() -> None:
    """Two logical CPUs, for tests of several devices; TensorFlow takes this before its first operation alone."""
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
