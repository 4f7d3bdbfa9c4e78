"""Which devices train, one by default, several in step under a strategy of TensorFlow's; and what they are."""

import dataclasses
import logging
import os
import platform
import re
from typing import Any

import tensorflow as tf

from finetune.cluster.team import Team
from finetune.errors import UserError, first_line
from finetune.model.gpus import find_devices
from finetune.training.precision import cpu_flags

log = logging.getLogger("finetune")

# TensorFlow's, which tensorflow_start sets where it isn't set.
ONEDNN_VARIABLE = "TF_ENABLE_ONEDNN_OPTS"
# Units of which TensorFlow's and oneDNN's kernels have versions of their own.
_VECTOR_UNITS = re.compile(r"sse4_[12]|avx\w*|fma|amx\w*|asimd|sve\w*")


@dataclasses.dataclass(frozen=True)
class Devices:
    """What makes the steps of a training.

    Attributes:
        strategy: TensorFlow's, over the devices of all workers, of which each takes a batch of a step.
        team: The workers.
    """

    strategy: Any
    team: Team


def uses_xla(choice: str, *, on_cpu: bool, num_devices: int, recomputes: bool = False) -> bool:
    """Whether steps are compiled by XLA: "on", "off", or "auto": on a GPU that works alone.

    On CPUs it was slower wherever it was measured (MobileNet V2 forward: 9 images a second instead of 160).

    Args:
        choice: One of them.
        on_cpu: Whether training is kept off the GPUs.
        num_devices: That train in step.
        recomputes: Whether activations are computed again in the backward pass.

    Raises:
        UserError: It is asked for on several devices, whose gradients XLA doesn't add up, or with activations that are
            computed again, which XLA would merge with what was computed before.
    """
    if choice == "on" and num_devices > 1:
        raise UserError(f"--xla on goes with one device, not with {num_devices} in step.", "Give --xla off.")
    if choice == "on" and recomputes:
        raise UserError(
            "--recompute-activations is undone by --xla on: XLA merges equal operations, and keeps what they gave.",
            "Leave one of them out.",
        )
    if choice != "auto":
        return choice == "on"
    is_alone_on_gpu = num_devices == 1 and not on_cpu and bool(tf.config.get_visible_devices("GPU"))
    if is_alone_on_gpu and recomputes:
        log.info("XLA: off, since it would undo --recompute-activations.")
    return is_alone_on_gpu and not recomputes


def make_deterministic(*, on_cpu: bool) -> None:
    """Takes only operations that give the same bits each time; on a CPU those of training do so by themselves.

    Args:
        on_cpu: Whether training is kept off the GPUs.
    """
    if on_cpu or not tf.config.get_visible_devices("GPU"):
        log.info("--deterministic: nothing is to be done for it on a CPU, where the same steps give the same bits.")
        return
    tf.config.experimental.enable_op_determinism()


def describe_machine(*, on_cpu: bool) -> dict[str, Any]:
    """What the last bits of a weight may hang on: the processor's units, threads, and the devices that train.

    Args:
        on_cpu: Whether training is kept off the GPUs.
    """
    gpus = [] if on_cpu else tf.config.get_visible_devices("GPU")
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus]
    units = sorted(filter(_VECTOR_UNITS.fullmatch, cpu_flags()))
    return {
        "processor": " ".join([platform.machine(), *units]),
        "threads": tf.config.threading.get_intra_op_parallelism_threads() or _num_usable_cores(),
        "devices": names or ["CPU"],
        "onednn": os.environ.get(ONEDNN_VARIABLE, "unset"),
    }


def _num_usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count_devices(*, on_cpu: bool) -> int:
    """GPUs that may be used; without any, or where they aren't to be used, logical CPUs."""
    gpus = [] if on_cpu else tf.config.get_visible_devices("GPU")
    return len(gpus) or len(tf.config.list_logical_devices("CPU"))


def count_idle_gpus(num_devices: int, *, on_cpu: bool) -> int:
    """GPUs that may be used and aren't, where training takes so many devices."""
    gpus = [] if on_cpu else tf.config.get_visible_devices("GPU")
    return max(0, len(gpus) - num_devices)


def multi_worker_strategy(team: Team, num_devices: int, *, on_cpu: bool) -> Any:
    """The strategy over the devices of several processes. To be made before anything is computed, once in a process.

    Gradients are added up by NCCL between GPUs, and in a ring between CPUs.

    Args:
        team: The processes, which have met: TensorFlow's own start waits for whoever is missing.
        num_devices: GPUs of each of them; 1 where the CPU trains.
        on_cpu: Use no GPU, even where there is one.

    Raises:
        UserError: There are fewer; TensorFlow has begun otherwise.
    """
    gpus = [] if on_cpu else tf.config.get_visible_devices("GPU")
    if num_devices > max(1, len(gpus)):
        kind = f"{len(gpus)} GPUs" if gpus else "no GPU, and a process takes its CPU as one device"
        raise UserError(
            f"--num-clones is {num_devices}, of each worker, but this one has {kind}.",
            f"Give --num-clones {max(1, len(gpus))}, and start more workers.",
        )
    experimental = tf.distribute.experimental
    implementation = experimental.CommunicationImplementation
    try:
        tf.config.set_visible_devices(gpus[:num_devices], "GPU")
        return tf.distribute.MultiWorkerMirroredStrategy(
            tf.distribute.cluster_resolver.SimpleClusterResolver(
                tf.train.ClusterSpec({"worker": list(team.addresses)}),
                task_type="worker",
                task_id=team.index,
                rpc_layer="grpc",
            ),
            # Without a timeout: TensorFlow keeps a thread for each operation until its timeout has passed, ten thousand
            # in a minute. Workers that died are told by their heartbeats, after some 10 seconds.
            experimental.CommunicationOptions(implementation=implementation.NCCL if gpus else implementation.RING),
        )
    except RuntimeError as error:
        raise UserError(
            f"Several workers: TensorFlow has begun otherwise in this program: {first_line(error)}.",
            "Make this training the first thing that the program computes, and the only one on several workers.",
        ) from error


def choose_strategy(num_devices: int, *, on_cpu: bool) -> Any:
    """The distribution strategy for training.

    Args:
        num_devices: Number of replicas, each with a batch of its own.
        on_cpu: Use no GPU, even where there is one.

    Raises:
        UserError: There are fewer devices.
    """
    devices = find_devices(num_devices, on_cpu=on_cpu)
    if num_devices > 1:
        # Sums without collective operations on CPUs, where TensorFlow matches those of the replicas unreliably.
        are_gpus = "GPU" in devices[0]
        sums = tf.distribute.NcclAllReduce() if are_gpus else tf.distribute.ReductionToOneDevice()
        return tf.distribute.MirroredStrategy(devices, sums)
    if on_cpu:
        return tf.distribute.OneDeviceStrategy("/cpu:0")
    return tf.distribute.get_strategy()
