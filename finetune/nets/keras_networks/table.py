"""The table of Keras Applications: one row for each, in Keras's order. Neither Keras nor TensorFlow is needed.

Parameters, with the head for ImageNet, are counted (tests/test_keras_networks.py); accuracies on ImageNet are those of
Keras's documentation.
"""

import dataclasses

PREFIX = "keras/"


@dataclasses.dataclass(frozen=True)
class Application:
    """A network of `keras.applications`.

    Attributes:
        function: Its name there.
        image_size: Height and width in pixels that the published weights were trained at.
        num_parameters: Trained values, with the head for ImageNet.
        preprocessing: The row of the preprocessing table that does what its `preprocess_input` does.
        paper: Where it is from.
        top_1: Published ImageNet accuracy in percent.
        top_5: Likewise; None: not published.
    """

    function: str
    image_size: int
    num_parameters: int
    preprocessing: str
    paper: str
    top_1: float
    top_5: float | None = None


_XCEPTION = "Chollet, 2017, arXiv:1610.02357"
_VGG = "Simonyan and Zisserman, 2015, arXiv:1409.1556"
_RESNET = "He et al., 2015, arXiv:1512.03385"
_RESNET_V2 = "He et al., 2016, arXiv:1603.05027"
_DENSENET = "Huang et al., 2017, arXiv:1608.06993"
_NASNET = "Zoph et al., 2018, arXiv:1707.07012"
_MOBILENET_V3 = "Howard et al., 2019, arXiv:1905.02244"
_EFFICIENTNET = "Tan and Le, 2019, arXiv:1905.11946"
_EFFICIENTNET_V2 = "Tan and Le, 2021, arXiv:2104.00298"
_CONVNEXT = "Liu et al., 2022, arXiv:2201.03545"

APPLICATIONS: dict[str, Application] = {
    "keras/xception": Application("Xception", 299, 22_855_952, "keras_tf", _XCEPTION, 79.0, 94.5),
    "keras/vgg16": Application("VGG16", 224, 138_357_544, "keras_caffe", _VGG, 71.3, 90.1),
    "keras/vgg19": Application("VGG19", 224, 143_667_240, "keras_caffe", _VGG, 71.3, 90.0),
    "keras/resnet50": Application("ResNet50", 224, 25_583_592, "keras_caffe", _RESNET, 74.9, 92.1),
    "keras/resnet101": Application("ResNet101", 224, 44_601_832, "keras_caffe", _RESNET, 76.4, 92.8),
    "keras/resnet152": Application("ResNet152", 224, 60_268_520, "keras_caffe", _RESNET, 76.6, 93.1),
    "keras/resnet50_v2": Application("ResNet50V2", 224, 25_568_360, "keras_tf", _RESNET_V2, 76.0, 93.0),
    "keras/resnet101_v2": Application("ResNet101V2", 224, 44_577_896, "keras_tf", _RESNET_V2, 77.2, 93.8),
    "keras/resnet152_v2": Application("ResNet152V2", 224, 60_236_904, "keras_tf", _RESNET_V2, 78.0, 94.2),
    "keras/inception_v3": Application(
        "InceptionV3", 299, 23_817_352, "keras_tf", "Szegedy et al., 2015, arXiv:1512.00567", 77.9, 93.7
    ),
    "keras/inception_resnet_v2": Application(
        "InceptionResNetV2", 299, 55_813_192, "keras_tf", "Szegedy et al., 2016, arXiv:1602.07261", 80.3, 95.3
    ),
    "keras/mobilenet": Application(
        "MobileNet", 224, 4_231_976, "keras_tf", "Howard et al., 2017, arXiv:1704.04861", 70.4, 89.5
    ),
    "keras/mobilenet_v2": Application(
        "MobileNetV2", 224, 3_504_872, "keras_tf", "Sandler et al., 2018, arXiv:1801.04381", 71.3, 90.1
    ),
    "keras/mobilenet_v3_small": Application("MobileNetV3Small", 224, 2_542_856, "keras_raw", _MOBILENET_V3, 68.1),
    "keras/mobilenet_v3_large": Application("MobileNetV3Large", 224, 5_483_032, "keras_raw", _MOBILENET_V3, 75.6),
    "keras/densenet121": Application("DenseNet121", 224, 7_978_856, "keras_torch", _DENSENET, 75.0, 92.3),
    "keras/densenet169": Application("DenseNet169", 224, 14_149_480, "keras_torch", _DENSENET, 76.2, 93.2),
    "keras/densenet201": Application("DenseNet201", 224, 20_013_928, "keras_torch", _DENSENET, 77.3, 93.6),
    "keras/nasnet_mobile": Application("NASNetMobile", 224, 5_289_978, "keras_tf", _NASNET, 74.4, 91.9),
    "keras/nasnet_large": Application("NASNetLarge", 331, 88_753_150, "keras_tf", _NASNET, 82.5, 96.0),
    "keras/efficientnet_b0": Application("EfficientNetB0", 224, 5_288_548, "keras_raw", _EFFICIENTNET, 77.1, 93.3),
    "keras/efficientnet_b1": Application("EfficientNetB1", 240, 7_794_184, "keras_raw", _EFFICIENTNET, 79.1, 94.4),
    "keras/efficientnet_b2": Application("EfficientNetB2", 260, 9_109_994, "keras_raw", _EFFICIENTNET, 80.1, 94.9),
    "keras/efficientnet_b3": Application("EfficientNetB3", 300, 12_233_232, "keras_raw", _EFFICIENTNET, 81.6, 95.7),
    "keras/efficientnet_b4": Application("EfficientNetB4", 380, 19_341_616, "keras_raw", _EFFICIENTNET, 82.9, 96.4),
    "keras/efficientnet_b5": Application("EfficientNetB5", 456, 30_389_784, "keras_raw", _EFFICIENTNET, 83.6, 96.7),
    "keras/efficientnet_b6": Application("EfficientNetB6", 528, 43_040_704, "keras_raw", _EFFICIENTNET, 84.0, 96.8),
    "keras/efficientnet_b7": Application("EfficientNetB7", 600, 66_347_960, "keras_raw", _EFFICIENTNET, 84.3, 97.0),
    "keras/efficientnet_v2_b0": Application(
        "EfficientNetV2B0", 224, 7_139_704, "keras_raw", _EFFICIENTNET_V2, 78.7, 94.3
    ),
    "keras/efficientnet_v2_b1": Application(
        "EfficientNetV2B1", 240, 8_141_052, "keras_raw", _EFFICIENTNET_V2, 79.8, 95.0
    ),
    "keras/efficientnet_v2_b2": Application(
        "EfficientNetV2B2", 260, 10_096_086, "keras_raw", _EFFICIENTNET_V2, 80.5, 95.1
    ),
    "keras/efficientnet_v2_b3": Application(
        "EfficientNetV2B3", 300, 14_358_406, "keras_raw", _EFFICIENTNET_V2, 82.0, 95.8
    ),
    "keras/efficientnet_v2_s": Application(
        "EfficientNetV2S", 384, 21_458_488, "keras_raw", _EFFICIENTNET_V2, 83.9, 96.7
    ),
    "keras/efficientnet_v2_m": Application(
        "EfficientNetV2M", 480, 54_139_356, "keras_raw", _EFFICIENTNET_V2, 85.3, 97.4
    ),
    "keras/efficientnet_v2_l": Application(
        "EfficientNetV2L", 480, 118_515_272, "keras_raw", _EFFICIENTNET_V2, 85.7, 97.5
    ),
    "keras/convnext_tiny": Application("ConvNeXtTiny", 224, 28_589_128, "keras_raw", _CONVNEXT, 81.3),
    "keras/convnext_small": Application("ConvNeXtSmall", 224, 50_223_688, "keras_raw", _CONVNEXT, 82.3),
    "keras/convnext_base": Application("ConvNeXtBase", 224, 88_591_464, "keras_raw", _CONVNEXT, 85.3),
    "keras/convnext_large": Application("ConvNeXtLarge", 224, 197_767_336, "keras_raw", _CONVNEXT, 86.3),
    "keras/convnext_xlarge": Application("ConvNeXtXLarge", 224, 350_196_968, "keras_raw", _CONVNEXT, 86.7),
}
