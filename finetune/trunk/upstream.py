"""What an end point of a network is computed by: found in the graph of a pass."""

import tensorflow as tf

from finetune.model.model import Model
from finetune.nets.spec import NetSpec


def variables_until(spec: NetSpec, end_point: str, image_size: int | None, channels: int | None) -> set[str] | None:
    """Names of the variables that an end point is computed by; None: the network has no such end point.

    Args:
        spec: The network's record.
        end_point: Its name, as the network's function gives it.
        image_size: Height and width of the images in pixels; None: the network's own.
        channels: Of the images; None: the network's own.
    """
    with tf.Graph().as_default():  # Where variables take no memory.
        model = Model(spec, 2, image_size=image_size, channels=channels, initialise=False)
        graph = tf.__internal__.FuncGraph("upstream")
        with graph.as_default():
            images = tf.compat.v1.placeholder(tf.float32, [None, model.image_size, model.image_size, model.channels])
            tensor = model(images, is_training=False).end_points.get(end_point)
    if tensor is None:
        return None
    operations = {tensor.op.name}
    waiting = [tensor.op]
    while waiting:
        for read in waiting.pop().inputs:
            if read.op.name not in operations:
                operations.add(read.op.name)
                waiting.append(read.op)
    handles = {id(outer) for outer, inner in graph.captures if inner.op.name in operations}
    return {name for name, variable in model.model_variables.items() if id(variable.handle) in handles}
