"""A temperature within Keras's own application of a network: in the weights of its last layer."""

from typing import Any

from finetune.errors import UserError


def divide_logits(application: Any, temperature: float) -> None:
    """Divides the logits of a Keras model by the temperature, by dividing the weights of the layer that they come from.

    What stands behind that layer must let a factor through, as reshaping does: measuring the export proves it.

    Args:
        application: From images to logits; its weights are changed.
        temperature: Above 0.

    Raises:
        UserError: No layer has a kernel.
    """
    if temperature == 1.0:
        return
    layer = next((layer for layer in reversed(application.layers) if getattr(layer, "kernel", None) is not None), None)
    if layer is None:
        raise UserError(
            "--format: the temperature fits into no layer of this network.",
            "Give --calibrate none, or --format saved_model.",
        )
    for variable in (layer.kernel, layer.bias):
        if variable is not None:
            variable.assign(variable / temperature)
