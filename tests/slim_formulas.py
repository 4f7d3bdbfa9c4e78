"""slim's training written out in float64: the formulas of its optimizers, and all of its trainer for a MobileNet V1.

AdamW's and Lion's formulas, which slim lacks, are their papers'.

Gradients are TensorFlow's own, of a network that is written out here, too; nothing of finetune takes part.
"""

import functools

import numpy as np
import tensorflow as tf

# The slots of each variable by the endings of their names, with the values that they start from.
SLOTS = {
    "adadelta": {"Adadelta": 0.0, "Adadelta_1": 0.0},
    "adagrad": {"Adagrad": 0.1},
    "adam": {"Adam": 0.0, "Adam_1": 0.0},
    "adamw": {"AdamW": 0.0, "AdamW_1": 0.0},
    "ftrl": {"Ftrl": 0.1, "Ftrl_1": 0.0},
    "lion": {"Lion": 0.0},
    "momentum": {"Momentum": 0.0},
    "rmsprop": {"RMSProp": 1.0, "RMSProp_1": 0.0},
    "sgd": {},
}
AVERAGE = "ExponentialMovingAverage"


def updated(optimizer, value, slots, gradient, *, rate, number, epsilon, decay=0.0):
    """A variable and its slots after update `number`, counted from 1; floats or arrays of one shape."""
    g = gradient
    if optimizer == "adadelta":
        squares, updates = slots
        squares = 0.95 * squares + 0.05 * g * g
        update = np.sqrt(updates + epsilon) / np.sqrt(squares + epsilon) * g
        return value - rate * update, [squares, 0.95 * updates + 0.05 * update * update]
    if optimizer == "adagrad":
        squares = slots[0] + g * g
        return value - rate * g / np.sqrt(squares), [squares]
    if optimizer == "adamw":
        value = value - rate * decay * value
    if optimizer in ("adam", "adamw"):
        mean, squares = 0.9 * slots[0] + 0.1 * g, 0.999 * slots[1] + 0.001 * g * g
        corrected_rate = rate * np.sqrt(1 - 0.999**number) / (1 - 0.9**number)
        return value - corrected_rate * mean / (np.sqrt(squares) + epsilon), [mean, squares]
    if optimizer == "ftrl":
        squares = slots[0] + g * g
        linear = slots[1] + g - (np.sqrt(squares) - np.sqrt(slots[0])) / rate * value
        return -linear * rate / np.sqrt(squares), [squares, linear]
    if optimizer == "lion":
        direction = np.sign(0.9 * slots[0] + 0.1 * g)
        return value - rate * (direction + decay * value), [0.99 * slots[0] + 0.01 * g]
    if optimizer == "momentum":
        momentum = 0.9 * slots[0] + g
        return value - rate * momentum, [momentum]
    if optimizer == "rmsprop":
        squares = 0.9 * slots[0] + 0.1 * g * g
        momentum = 0.9 * slots[1] + rate * g / np.sqrt(squares + epsilon)
        return value - momentum, [squares, momentum]
    assert optimizer == "sgd"
    return value - rate * g, []


class WrittenOutTrainer:
    """slim's trainer of all variables of a MobileNet V1 whose activation is tanh.

    Attributes:
        state: Values in float64 by name: variables, slots, Adam's powers and each variable's moving average.
    """

    def __init__(
        self,
        values,
        strides,
        *,
        optimizer,
        rate,
        epsilon,
        weight_decay,
        label_smoothing,
        statistics_decay,
        averages_decay,
    ):
        """Starts from the network's `values` by name; `strides` are those of its depthwise convolutions."""
        self._strides = strides
        self._optimizer = optimizer
        self._rate = rate
        self._epsilon = epsilon
        self._weight_decay = weight_decay
        self._label_smoothing = label_smoothing
        self._statistics_decay = statistics_decay
        self._averages_decay = averages_decay
        self._names = list(values)
        self._number = 0
        self.state = {name: value.astype(np.float64) for name, value in values.items()}
        self.state |= {f"{name}/{AVERAGE}": self.state[name] for name in values}
        for name in filter(is_trained, values):
            for slot, start in SLOTS[optimizer].items():
                self.state[f"{name}/{slot}"] = np.full(values[name].shape, start)
        if optimizer == "adam":
            self.state |= {"beta1_power": np.array(0.9), "beta2_power": np.array(0.999)}

    def step(self, images, labels):
        """Makes a step; cross-entropy and weight decay before it."""
        losses, gradients, statistics = losses_gradients_statistics(
            {name: tf.constant(self.state[name]) for name in self._names},
            tf.constant(images, tf.float64),
            tf.constant(labels),
            strides=self._strides,
            weight_decay=self._weight_decay,
            label_smoothing=self._label_smoothing,
        )
        self._number += 1
        for name, gradient in gradients.items():
            self._update(name, gradient.numpy())
        for name, statistic in statistics.items():
            self._move(name, statistic.numpy(), self._statistics_decay)
        # Early averages follow closely: TensorFlow's rule where it is told the number of updates before this one.
        decay = min(self._averages_decay, self._number / (9 + self._number))
        for name in self._names:
            self._move(f"{name}/{AVERAGE}", self.state[name], decay)
        if self._optimizer == "adam":
            self._move("beta1_power", 0.0, 0.9)
            self._move("beta2_power", 0.0, 0.999)
        return losses.numpy()

    def _update(self, name, gradient):
        slots = [f"{name}/{slot}" for slot in SLOTS[self._optimizer]]
        self.state[name], values = updated(
            self._optimizer,
            self.state[name],
            [self.state[slot] for slot in slots],
            gradient,
            rate=self._rate,
            number=self._number,
            epsilon=self._epsilon,
        )
        self.state |= dict(zip(slots, values, strict=True))

    def _move(self, name, target, decay):
        self.state[name] = decay * self.state[name] + (1 - decay) * target


def is_trained(name):
    """Whether a variable is anything but a moving statistic."""
    return "/moving_" not in name


@functools.partial(tf.function, autograph=False)
def losses_gradients_statistics(values, images, labels, *, strides, weight_decay, label_smoothing):
    """Cross-entropy and weight decay [2], gradients by name, and by name what each moving statistic moves towards."""
    trained = {name: value for name, value in values.items() if is_trained(name)}
    with tf.GradientTape() as tape:
        tape.watch(trained)
        logits, statistics = short_mobilenet(values, images, strides)
        targets = tf.one_hot(labels, logits.shape[-1], dtype=tf.float64) * (1 - label_smoothing)
        targets += label_smoothing / logits.shape[-1]
        cross_entropy = -tf.reduce_mean(tf.reduce_sum(targets * tf.nn.log_softmax(logits), axis=-1))
        # Kernels decay, except depthwise ones; biases and batch norm's parameters don't.
        kernels = [value for name, value in trained.items() if name.endswith("/weights")]
        decay = weight_decay * tf.add_n([tf.reduce_sum(kernel**2) / 2 for kernel in kernels])
        loss = cross_entropy + decay
    return tf.stack([cross_entropy, decay]), tape.gradient(loss, trained), statistics


def short_mobilenet(values, images, strides):
    """Logits [B,num_classes], and by name what each moving statistic moves towards."""
    statistics = {}

    def normalised(inputs, scope):
        scope = f"{scope}/BatchNorm"
        mean = tf.reduce_mean(inputs, [0, 1, 2])
        variance = tf.reduce_mean((inputs - mean) ** 2, [0, 1, 2])
        count = inputs.shape[0] * inputs.shape[1] * inputs.shape[2]
        statistics[f"{scope}/moving_mean"] = mean
        # Fused batch norm's: an estimate without bias.
        statistics[f"{scope}/moving_variance"] = variance * count / (count - 1)
        outputs = (inputs - mean) / tf.sqrt(variance + 0.001)
        return tf.tanh(outputs * values[f"{scope}/gamma"] + values[f"{scope}/beta"])

    scope = "MobilenetV1/Conv2d_0"
    net = normalised(tf.nn.conv2d(images, values[f"{scope}/weights"], 2, "SAME"), scope)
    for number, stride in enumerate(strides, start=1):
        scope = f"MobilenetV1/Conv2d_{number}_depthwise"
        kernel = values[f"{scope}/depthwise_weights"]
        net = normalised(tf.nn.depthwise_conv2d(net, kernel, [1, stride, stride, 1], "SAME"), scope)
        scope = f"MobilenetV1/Conv2d_{number}_pointwise"
        net = normalised(tf.nn.conv2d(net, values[f"{scope}/weights"], 1, "SAME"), scope)
    scope = "MobilenetV1/Logits/Conv2d_1c_1x1"
    return tf.reduce_mean(net, [1, 2]) @ values[f"{scope}/weights"][0, 0] + values[f"{scope}/biases"], statistics
