"""The record of a Keras network, made from its layers."""

import functools

from finetune.nets.keras_networks.architecture import batch_norm_epsilon, layers_of
from finetune.nets.keras_networks.depth import layer_groups, num_top_groups
from finetune.nets.keras_networks.table import APPLICATIONS
from finetune.nets.spec import NetSpec

# What the network's call does beside the preprocessing.
_COLOURS = {"keras_caffe": "bgr", "keras_torch": "deviations"}


@functools.cache
def application_record(name: str) -> NetSpec:
    """The record of a network of the table `APPLICATIONS`; Keras is imported for it.

    Its head is the last layer with variables, which gives the logits.
    """
    from finetune.nets.keras_networks.network import application_network

    application = APPLICATIONS[name]
    size = application.image_size
    network = application_network(application.function, 1000, size, size, 3, "float32")
    variables: dict[str, list[str]] = {}
    for variable in network.variables:
        variables.setdefault(variable.partition("/")[0], []).append(variable)
    layers = layers_of(network.config)
    groups = layer_groups(layers, variables)
    return NetSpec(
        name=name,
        function="finetune.nets.keras_networks.network:keras_network",
        arguments={"application": application.function, "colours": _COLOURS.get(application.preprocessing, "")},
        root_scope="",
        image_size=size,
        head_scopes=groups[-1],
        layer_groups=groups,
        num_top_groups=num_top_groups(layers, groups),
        preprocessing=application.preprocessing,
        paper=application.paper,
        label_offset=1,
        num_parameters=application.num_parameters,
        top_1=application.top_1,
        top_5=application.top_5,
        batch_norm_epsilon=batch_norm_epsilon(network.config) or NetSpec.batch_norm_epsilon,
    )
