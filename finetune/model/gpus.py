"""Which GPUs TensorFlow may use, how much of their memory, and why there may be none. To be told before it computes."""

import contextlib
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import tensorflow as tf

from finetune.errors import UserError
from finetune.notices import tell_once
from finetune.settings.gpus import GpuSettings

VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"  # CUDA's: which GPUs it counts.
DEVICES_FOLDER = Path("/dev")

_INSTALL = "pip install '.[gpu]' brings CUDA's libraries; TF_CPP_MIN_LOG_LEVEL=0 shows what TensorFlow misses"


def use_gpus(settings: GpuSettings) -> None:
    """Has TensorFlow use the GPUs that the settings name, and of their memory what they allow.

    What isn't given is left as the program has it, but for memory, which is taken as it is needed, so that others can
    share a GPU; TensorFlow by itself takes all. Where a driver has a GPU that TensorFlow can't use, a line says so.

    Raises:
        UserError: A GPU that there isn't; TensorFlow has computed already, and otherwise.
    """
    gpus = {_number(gpu): gpu for gpu in tf.config.list_physical_devices("GPU")}
    if settings.gpu != "none" and not gpus:
        _do_without(settings)
    try:
        if settings.gpu is not None:
            numbers = [] if settings.gpu == "none" else sorted(settings.gpu)  # TensorFlow's own order, too.
            tf.config.set_visible_devices([_find(number, gpus) for number in numbers], "GPU")
        for gpu in tf.config.get_visible_devices("GPU"):
            _set_memory(gpu, settings)
    except (RuntimeError, ValueError) as error:  # The latter of a GPU whose memory the program has parted itself.
        raise UserError(
            f"{' and '.join(_options(settings))}: TensorFlow has begun otherwise in this program: {error}.",
            "Give the same to the first function that computes, or begin anew.",
        ) from error


def find_devices(num_clones: int, *, on_cpu: bool) -> list[str]:
    """Names of so many devices that compute alike: GPUs that may be used; without any, logical CPUs.

    Args:
        num_clones: How many.
        on_cpu: Take no GPU, even where there is one.

    Raises:
        UserError: There are fewer.
    """
    kind = "GPU" if tf.config.get_visible_devices("GPU") and not on_cpu else "CPU"
    devices = tf.config.list_logical_devices(kind)
    if num_clones > len(devices):
        raise UserError(
            f"--num-clones is {num_clones}, but there {'is' if len(devices) == 1 else 'are'} {len(devices)} {kind}"
            f"{'' if len(devices) == 1 else 's'} here.",
            f"Give --num-clones {len(devices)}; a batch of the same total size is --batch-size times as large.",
        )
    return [device.name for device in devices[:num_clones]]


def devices_side_by_side(num_clones: int) -> list[str | None]:
    """Devices on each of which the same network is to be; None for one alone, which TensorFlow chooses.

    Says how many GPUs that may be used have nothing to do then.

    Raises:
        UserError: As `find_devices`.
    """
    idle = len(tf.config.get_visible_devices("GPU")) - num_clones
    if idle > 0:
        tell_once(f"{idle} of {idle + num_clones} GPUs have nothing to do: --num-clones {idle + num_clones} takes all.")
    found = find_devices(num_clones, on_cpu=False)
    return [None] if num_clones == 1 else [*found]


def _do_without(settings: GpuSettings) -> None:
    """Says what there is to say where TensorFlow finds no GPU."""
    unused = _unused_gpu()
    if settings.gpu is not None:
        raise UserError(
            f"--gpu {','.join(map(str, settings.gpu))}: TensorFlow finds no GPU here.{f' {unused}' if unused else ''}",
            "Leave the flag out, or give --gpu none, to compute on the processor.",
        )
    if unused:
        tell_once(f"{unused} The processor computes.", level=logging.WARNING)
    if settings.about_memory:
        tell_once(f"{settings.about_memory}: nothing is to be done for it, TensorFlow finds no GPU here.")


def _unused_gpu() -> str:
    """Words on a GPU that has a driver, to whom TensorFlow finds none; empty where there is none, or it is hidden.

    That nvidia-smi is installed proves no GPU: images for containers have it wherever they run.
    """
    visible = os.environ.get(VISIBLE_VARIABLE)
    if visible is not None and (not visible.strip() or visible.startswith("-")):  # CUDA's ways to hide all.
        return ""
    nodes = sorted(DEVICES_FOLDER.glob("nvidia[0-9]*"))
    if not nodes and shutil.which("nvidia-smi"):
        nodes = list(DEVICES_FOLDER.glob("dxg"))  # That of Windows' Subsystem for Linux, for GPUs of any make.
    if not nodes:
        return ""
    if not tf.test.is_built_with_cuda():
        return f"There is a GPU, {nodes[0]}, but this TensorFlow is built without CUDA: pip install '.[gpu]'."
    cuda = tf.sysconfig.get_build_info()["cuda_version"]
    hidden = "" if visible is None else f", or {VISIBLE_VARIABLE}={visible} hides it"
    return (
        f"There is a GPU, {nodes[0]}, but TensorFlow can't use it: libraries of CUDA {cuda} are missing, or the driver "
        f"is older than they need{hidden}. {_INSTALL}."
    )


def _find(number: int, gpus: dict[int, Any]) -> Any:
    if number in gpus:
        return gpus[number]
    visible = os.environ.get(VISIBLE_VARIABLE)
    among = "" if visible is None else f" among those of {VISIBLE_VARIABLE}={visible}, counted from 0"
    present = ", ".join(f"{one} ({_name(gpu)})" for one, gpu in sorted(gpus.items()))
    raise UserError(f"--gpu {number}: there is no such GPU{among}.", f"Give one or more of {present}.")


def _number(gpu: Any) -> int:
    """As CUDA has it: the last part of `/physical_device:GPU:0`."""
    return int(gpu.name.rpartition(":")[2])


def _name(gpu: Any) -> str:
    return str(tf.config.experimental.get_device_details(gpu).get("device_name", "GPU"))


def _set_memory(gpu: Any, settings: GpuSettings) -> None:
    parted = tf.config.get_logical_device_configuration(gpu)
    if settings.gpu_memory_limit is not None:
        limit = [tf.config.LogicalDeviceConfiguration(memory_limit=settings.gpu_memory_limit)]
        if parted != limit:
            tf.config.experimental.set_memory_growth(gpu, False)
            tf.config.set_logical_device_configuration(gpu, limit)
    elif settings.gpu_memory_growth is not None:
        tf.config.experimental.set_memory_growth(gpu, settings.gpu_memory_growth)
    elif parted is None:
        with contextlib.suppress(RuntimeError):  # A program that computes already has its own way.
            tf.config.experimental.set_memory_growth(gpu, True)


def _options(settings: GpuSettings) -> list[str]:
    return [option for option in ("--gpu" if settings.gpu is not None else "", settings.about_memory) if option]
