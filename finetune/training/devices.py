"""Which devices train: one by default, several in step under a mirrored strategy."""

from typing import Any

import tensorflow as tf

from finetune.errors import UserError


def uses_xla(choice: str, *, on_cpu: bool, num_devices: int) -> bool:
    """Whether steps are compiled by XLA: "on", "off", or "auto": on a GPU that works alone.

    On CPUs it was slower wherever it was measured (MobileNet V2 forward: 9 images a second instead of 160).

    Raises:
        UserError: It is asked for on several devices, between whose steps it can't add up.
    """
    if choice == "on" and num_devices > 1:
        raise UserError(f"--xla on goes with one device, not with --num-clones {num_devices}.", "Give --xla off.")
    if choice == "auto":
        return num_devices == 1 and not on_cpu and bool(tf.config.list_physical_devices("GPU"))
    return choice == "on"


def choose_strategy(num_devices: int, *, on_cpu: bool) -> Any:
    """The distribution strategy for training.

    Memory of GPUs is taken as it is needed, not all at once, so that others can share them.

    Args:
        num_devices: Number of replicas, each with a batch of its own.
        on_cpu: Use no GPU, even where there is one.

    Raises:
        UserError: There are fewer devices.
    """
    gpus = [] if on_cpu else tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        if not tf.config.experimental.get_memory_growth(gpu):
            tf.config.experimental.set_memory_growth(gpu, True)
    kind = "GPU" if gpus else "CPU"
    devices = tf.config.list_logical_devices(kind)
    if num_devices > len(devices):
        raise UserError(
            f"--num-clones is {num_devices}, but there {'is' if len(devices) == 1 else 'are'} {len(devices)} {kind}"
            f"{'' if len(devices) == 1 else 's'} here.",
            f"Give --num-clones {len(devices)}; a batch of the same total size is --batch-size times as large.",
        )
    if num_devices > 1:
        # Sums without collective operations on CPUs, where TensorFlow matches those of the replicas unreliably.
        sums = tf.distribute.NcclAllReduce() if gpus else tf.distribute.ReductionToOneDevice()
        return tf.distribute.MirroredStrategy([device.name for device in devices[:num_devices]], sums)
    if on_cpu:
        return tf.distribute.OneDeviceStrategy("/cpu:0")
    return tf.distribute.get_strategy()
