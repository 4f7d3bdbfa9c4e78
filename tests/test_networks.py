"""Every network of the table: against figures of slim's own, at other image sizes, and through a training step."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from reference_networks import NETWORKS_DIR, ONE_OF_EACH_FUNCTION, load_reference, reference_images

from finetune.model.model import Model
from finetune.nets import MODELS, get_spec


@dataclass
class Inference:
    """A model, its inference for two images as a function, and what shapes that gives."""

    model: Model
    function: Any
    end_point_shapes: dict[str, list[int]]


@pytest.fixture(scope="module")
def published(published_network) -> Inference:
    """A network as its figures were measured: in inference."""
    return _traced_inference(published_network)


def test_no_network_is_missing():
    assert {path.stem for path in NETWORKS_DIR.glob("*.json")} == set(MODELS)


def test_images_are_slims(published):
    reference = load_reference(published.model.spec.name)
    assert published.model.image_size == reference["image_size"]
    assert published.model.channels == reference["channels"]


def test_variables_are_slims(published):
    reference = load_reference(published.model.spec.name)
    variables = published.model.model_variables
    trainable = {name: variable for name, variable in variables.items() if variable.trainable}
    assert _shapes(trainable) == reference["trainable"]
    assert _shapes({name: variables[name] for name in variables.keys() - trainable}) == reference["non_trainable"]
    assert sum(variable.shape.num_elements() for variable in trainable.values()) == reference["num_parameters"]
    assert len(published.model.decayed_names) == reference["num_regularization_losses"]
    assert published.model.decayed_names <= trainable.keys()


def test_inference_needs_slims_variables(published):
    reference = load_reference(published.model.spec.name)
    read = {variable.name.removesuffix(":0") for variable in published.function.graph.variables}
    assert read == published.model.model_variables.keys() - set(reference["training_only"])


def test_end_points_are_slims(published):
    assert published.end_point_shapes == load_reference(published.model.spec.name)["end_points"]


def test_logits_are_slims(published):
    reference = load_reference(published.model.spec.name)
    results = published.function(tf.constant(reference_images(reference["image_size"], reference["channels"])))
    for name, golden in reference["golden"].items():
        difference = np.abs(results[name].numpy() - np.array(golden)).max()
        assert difference <= 1e-4 * np.abs(golden).max(), name


def test_epsilon_is_as_the_table_says(published):
    epsilons = set()
    for operation in published.function.graph.get_operations():
        if operation.type.startswith("FusedBatchNorm"):
            epsilons.add(round(operation.get_attr("epsilon"), 9))
        elif operation.type == "Rsqrt":
            epsilons.add(round(float(tf.get_static_value(operation.inputs[0].op.inputs[1])), 9))
    assert epsilons <= {published.model.spec.batch_norm_epsilon}
    assert bool(epsilons) == any(name.endswith("moving_variance") for name in published.model.model_variables)


def test_layer_groups_hold_every_variable_once(published):
    for name in published.model.model_variables:
        assert sum(_is_within(name, group) for group in published.model.spec.layer_groups) == 1, name
    for group in published.model.spec.layer_groups:
        for scope in group:
            assert any(_is_within(name, [scope]) for name in published.model.model_variables), scope


def test_layer_groups_but_the_heads_are_in_the_order_in_which_the_network_makes_its_layers(published):
    *body, _ = published.model.spec.layer_groups
    met = [
        number
        for name in published.model.model_variables
        for number, group in enumerate(body)
        if _is_within(name, group)
    ]
    assert list(dict.fromkeys(met)) == list(range(len(body)))


def test_depths_of_the_head_alone_follow_the_number_of_classes(small_network):
    spec = small_network.spec
    reference = load_reference(spec.name)
    ten = {name: shape[-1] for name, shape in (reference["trainable"] | reference["non_trainable"]).items()}
    two = {name: variable.shape[-1] for name, variable in small_network.model_variables.items()}
    differing = {name for name in ten | two if ten.get(name) != two.get(name)}
    assert all(_is_within(name, spec.head_scopes) for name in differing)
    assert all(any(_is_within(name, [scope]) for name in differing) for scope in spec.head_scopes)


@pytest.mark.parametrize("published_network", ONE_OF_EACH_FUNCTION, indirect=True)
def test_every_variable_gets_a_gradient_from_1001_classes(small_network, monkeypatch):
    """The same trunk trains under a head of 1001 classes in the place of the old one."""
    variables = small_network.model_variables
    for name, variable in list(variables.items()):
        if _is_within(name, small_network.spec.head_scopes) and variable.shape[-1] == small_network.num_classes:
            wider = tf.Variable(tf.zeros([*variable.shape[:-1], 1001]), name=name)
            monkeypatch.setitem(variables, name, wider)
    monkeypatch.setattr(small_network, "num_classes", 1001)
    monkeypatch.setattr(small_network, "is_frozen", lambda scope: False)
    _trace_step(small_network, [variable for variable in variables.values() if variable.trainable])


@pytest.mark.parametrize("name", ["cifarnet", "inception_v1", pytest.param("alexnet_v2", marks=pytest.mark.slow)])
def test_larger_images(name):
    """One row of logits for each image, though the last map is larger than what the network was made for."""
    spec = get_spec(name)
    model = Model(spec, 10, image_size=spec.image_size * 3 // 2)
    assert _traced_inference(model).function.output_shapes["logits"] == [2, 10]


def _traced_inference(model: Model) -> Inference:
    shapes: dict[str, list[int]] = {}

    def run(images: Any) -> dict[str, Any]:
        outputs = model(images, is_training=False)
        shapes.update({name: value.shape.as_list() for name, value in outputs.end_points.items()})
        auxiliary = {name: value for name, value in outputs.end_points.items() if name == "AuxLogits"}
        return {"logits": outputs.logits, **auxiliary}

    images = tf.TensorSpec([2, model.image_size, model.image_size, model.channels])
    return Inference(model, tf.function(run, autograph=False).get_concrete_function(images), shapes)


def _trace_step(model: Model, trained: list[Any]) -> None:
    """A step over two images of noise in which each of the variables gets a gradient."""
    images = reference_images(model.image_size, model.channels)

    def step() -> None:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(trained)
            outputs = model(images, is_training=True, seed=tf.constant([1, 2, 0]))
            assert outputs.logits.shape == [2, model.num_classes]
            loss = _loss(outputs.logits)
            assert (outputs.auxiliary_logits is not None) == model.spec.has_auxiliary_logits
            if outputs.auxiliary_logits is not None:
                assert outputs.auxiliary_logits.shape == [2, model.num_classes]
                loss += 0.4 * _loss(outputs.auxiliary_logits)
        for variable, gradient in zip(trained, tape.gradient(loss, trained), strict=True):
            assert gradient is not None, variable.name

    tf.function(step, autograph=False).get_concrete_function()


def _loss(logits: Any) -> Any:
    labels = tf.zeros([2], tf.int32)
    return tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


def _shapes(variables: dict[str, Any]) -> dict[str, list[int]]:
    return {name: variable.shape.as_list() for name, variable in variables.items()}


def _is_within(name: str, scopes: Iterable[str]) -> bool:
    return any(name == scope or name.startswith(f"{scope}/") for scope in scopes)
