"""Class activation maps: which positions of a network's last feature map speak for a class.

Grad-CAM: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
arXiv:1610.02391, equations 1 and 2. LayerCAM: Jiang et al., "LayerCAM: Exploring Hierarchical Class Activation Maps for
Localization", IEEE Transactions on Image Processing 30, 2021, doi:10.1109/TIP.2021.3089943, equations 5 and 6.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from finetune.errors import UserError
from finetune.explanation.last_feature_map import last_feature_map
from finetune.model.model import Model
from finetune.trunk.traced_pass import TracedPass
from finetune.types import Array, Tensor


class ClassActivationMaps:
    """Maps of a model's classes.

    Attributes:
        num_maps: For each image, so many classes.
        shape: Height and width of a map, those of the feature map.
        tensor_name: Of the feature map in the graph.
    """

    def __init__(self, model: Model, method: str, num_maps: int) -> None:
        """Traces the pass and finds the feature map in it.

        Args:
            model: With the weights that it has when maps are asked for.
            method: One of `EXPLANATIONS`: "gradcam" or "layercam".
            num_maps: Classes that each image is given with.

        Raises:
            UserError: The network has no feature map.
        """
        self.num_maps = num_maps
        self._combine = METHODS[method]
        self.shape, self.tensor_name = (0, 0), ""
        size = [None, model.image_size, model.image_size, model.channels]
        function = tf.function(lambda images, class_ids: self._maps(model, images, class_ids), autograph=False)
        specifications = tf.TensorSpec(size, tf.float32), tf.TensorSpec([None, num_maps], tf.int32)
        self._function = function.get_concrete_function(*specifications)

    def __call__(self, images: Array, class_ids: Array) -> Array:
        """The maps of classes, each 0 where nothing speaks for the class, without a common scale.

        Args:
            images: float32 [B,image_size,image_size,channels], preprocessed.
            class_ids: Of each image the outputs whose maps are wanted, integers [B,num_maps].

        Returns:
            float32 [B,num_maps,H,W], at least 0.
        """
        given = tf.constant(images, tf.float32), tf.constant(class_ids, tf.int32)
        return np.asarray(self._function(*given))

    def _maps(self, model: Model, images: Tensor, class_ids: Tensor) -> Tensor:
        seed = tf.zeros([3], tf.int32)
        outputs = model(images, is_training=False, seed=seed)
        graph = tf.compat.v1.get_default_graph()
        feature_map = last_feature_map(TracedPass(model, graph, images, seed, outputs, graph.get_operations()))
        if feature_map is None:
            raise UserError(
                f"--explain: {model.spec.name} with images of {model.image_size} pixels has no feature map of several "
                "positions that all of its logits are computed from: there is nothing to lay over an image.",
                "Leave out --explain.",
            )
        self.shape, self.tensor_name = tuple(feature_map.shape[1:3]), feature_map.name
        maps = []
        for class_ids_of_rank in tf.unstack(class_ids, axis=1):
            # An image's logit hangs on no other image: the sum's gradient is each one's own.
            logits = tf.gather(outputs.logits, class_ids_of_rank, batch_dims=1)
            (gradient,) = tf.gradients(logits, [feature_map])
            # In float32, whatever the layers compute in.
            maps.append(self._combine(tf.cast(feature_map, tf.float32), tf.cast(gradient, tf.float32)))
        return tf.stack(maps, axis=1)


def grad_cam(feature_map: Tensor, gradient: Tensor) -> Tensor:
    """Channels weighted by their mean gradients; [B,H,W] of a map and of the class's gradient, both [B,H,W,C]."""
    weights = tf.reduce_mean(gradient, axis=[1, 2], keepdims=True)
    return tf.nn.relu(tf.reduce_sum(weights * feature_map, axis=-1))


def layer_cam(feature_map: Tensor, gradient: Tensor) -> Tensor:
    """Values weighted by their own gradients, where these are positive; as `grad_cam`."""
    return tf.nn.relu(tf.reduce_sum(tf.nn.relu(gradient) * feature_map, axis=-1))


METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"gradcam": grad_cam, "layercam": layer_cam}
