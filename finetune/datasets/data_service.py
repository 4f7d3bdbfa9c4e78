"""Images that other processes decode and augment, by TensorFlow's tf.data service, in the order that they have here.

The service as such gives no order among its workers. So each input worker is a service of its own, which makes whole
steps, every so manieth of them, and a training takes one from each in turn, by their numbers. A run is the same with
input workers and without, to the bit where processors and TensorFlow are the same.

An input worker reads all records, which costs little beside decoding, and needs no Python function: what is read by one
can't be sent.
"""

import logging
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from finetune.datasets.record_streams import AUTOTUNE, in_order, plain
from finetune.errors import UserError
from finetune.settings.data_service import ports_of
from finetune.settings.workers import joined

SECONDS_FOR_A_PORT = 5.0
SECONDS_BETWEEN_TRIES = 0.2
FLAG = "--data-service"

log = logging.getLogger("finetune")

service = tf.data.experimental.service


def prepared_by_service(
    workers: Sequence[str],
    records: tf.data.Dataset,
    prepare: Callable[..., Any],
    *,
    step_size: int,
    num_parallel_calls: int | None,
) -> tf.data.Dataset:
    """What the input workers make of records without end, in the records' order.

    Args:
        workers: `host:port` of each.
        records: Tuples of what `prepare` takes; they are read by the workers.
        prepare: What they do with each; its graph is sent to them.
        step_size: Examples that a worker makes in its turn.
        num_parallel_calls: Of it, on each worker; None: chosen while running.

    Returns:
        Batches of `step_size` of what `prepare` returns.
    """

    def examples_of(step: Any, *parts: Any) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices(parts).map(plain(lambda *record: (step, *record)))

    def made_by(index: int, address: str) -> tf.data.Dataset:
        made = (
            records.batch(step_size, drop_remainder=True)
            .enumerate()
            .shard(len(workers), index)
            .flat_map(plain(lambda step, parts: examples_of(step, *parts)))
            .map(
                plain(lambda step, *record: (step, *prepare(*record))),
                num_parallel_calls=num_parallel_calls or AUTOTUNE,
                deterministic=True,
            )
            .batch(step_size, drop_remainder=True)
            .map(plain(lambda steps, *examples: (steps[0], *examples)))
        )
        host, port, _ = ports_of(address, FLAG)
        return in_order(made.prefetch(AUTOTUNE)).apply(
            service.distribute(processing_mode=service.ShardingPolicy.OFF, service=f"grpc://{joined(host, port)}")
        )

    def checked(turn: Any, made: tuple[Any, ...]) -> tuple[Any, ...]:
        step, *batch = made
        # A worker that was started anew would begin from its beginning.
        check = tf.debugging.assert_equal(step, turn, "an input worker is at another step")
        with tf.control_dependencies([check]):
            return tuple(tf.identity(values) for values in batch)

    turns = tf.data.Dataset.range(len(workers)).repeat()
    served = [made_by(index, address) for index, address in enumerate(workers)]
    batches = tf.data.Dataset.choose_from_datasets(served, turns, stop_on_empty_dataset=True)
    return batches.enumerate().map(plain(checked))


def wait_for_service(workers: Sequence[str], seconds: float) -> None:
    """Waits until all input workers can be reached.

    Args:
        workers: `host:port` of each.
        seconds: How long at most.

    Raises:
        UserError: One can't be.
    """
    deadline, told = time.monotonic() + seconds, ""
    for address in workers:
        while (failure := why_not_reached(address)) is not None:
            if time.monotonic() >= deadline:
                raise UserError(
                    f"{FLAG}: input worker {address} can't be reached in time (--worker-timeout): {failure}.",
                    f"Start it there by finetune data-service --address {address}, and open both ports.",
                )
            if told != address:
                log.info("Waiting for input worker %s: %s.", address, failure)
                told = address
            time.sleep(SECONDS_BETWEEN_TRIES)


def why_not_reached(address: str) -> str | None:
    """Why one of an input worker's ports can't be reached, in words; None: both can."""
    host, *ports = ports_of(address, FLAG)
    for port in ports:
        try:
            socket.create_connection((host, port), timeout=SECONDS_FOR_A_PORT).close()
        except OSError as error:
            return f"port {port}: {error.strerror or error}"
    return None
