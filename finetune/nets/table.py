"""The table of networks: one record for each, in the order of `finetune-inspect --models`. No TensorFlow is needed."""

from typing import Any

from finetune.nets.spec import NetSpec

_DOWNLOADS = "https://download.tensorflow.org/models/"
_STORAGE = "https://storage.googleapis.com/"


def _groups(root: str, body: str, *head: str) -> tuple[tuple[str, ...], ...]:
    """One group for each scope of the body (parted by spaces, under `root`), then one of all the head's scopes."""
    return (*((f"{root}/{scope}",) for scope in body.split()), head)


def _vgg(name: str, num_convolutions: tuple[int, ...], **published: Any) -> NetSpec:
    return NetSpec(
        name=name,
        function="finetune.nets.vgg:vgg",
        arguments={"name": name, "num_convolutions": num_convolutions},
        root_scope=name,
        image_size=224,
        head_scopes=(f"{name}/fc8",),
        layer_groups=_groups(name, "conv1 conv2 conv3 conv4 conv5 fc6 fc7", f"{name}/fc8"),
        num_top_groups=3,
        preprocessing="vgg",
        paper="Simonyan and Zisserman, 2015, arXiv:1409.1556",
        label_offset=1,
        **published,
    )


def _resnet_v1(name: str, num_units: tuple[int, ...], **published: Any) -> NetSpec:
    return NetSpec(
        name=name,
        function="finetune.nets.resnet_v1:resnet_v1",
        arguments={"name": name, "num_units": num_units},
        batch_norm_epsilon=1e-5,
        root_scope=name,
        image_size=224,
        head_scopes=(f"{name}/logits",),
        layer_groups=_groups(name, f"conv1 {_residual_units(num_units)}", f"{name}/logits"),
        num_top_groups=1,
        preprocessing="vgg",
        paper="He et al., 2015, arXiv:1512.03385",
        label_offset=1,
        **published,
    )


def _resnet_v2(name: str, num_units: tuple[int, ...], **published: Any) -> NetSpec:
    """Slim's own default, 224 pixels and VGG's preprocessing, is not what the published weights were trained with."""
    return NetSpec(
        name=name,
        function="finetune.nets.resnet_v2:resnet_v2",
        arguments={"name": name, "num_units": num_units},
        batch_norm_epsilon=1e-5,
        root_scope=name,
        image_size=224,
        published_image_size=299,
        head_scopes=(f"{name}/logits",),
        layer_groups=_groups(name, f"conv1 {_residual_units(num_units)} postnorm", f"{name}/logits"),
        num_top_groups=1,
        preprocessing="inception",
        paper="He et al., 2016, arXiv:1603.05027",
        **published,
    )


def _residual_units(num_units: tuple[int, ...]) -> str:
    blocks = enumerate(num_units, start=1)
    return " ".join(f"block{block}/unit_{unit}" for block, count in blocks for unit in range(1, count + 1))


def _numbered(scope: str, count: int) -> str:
    return " ".join(f"{scope}_{number}" for number in range(1, count + 1))


def _mobilenet_v1(
    name: str, depth_multiplier: float, num_parameters: int, published_file: str, top_1: float, top_5: float
) -> NetSpec:
    root = "MobilenetV1"
    return NetSpec(
        name=name,
        function="finetune.nets.mobilenet_v1:mobilenet_v1",
        arguments={"depth_multiplier": depth_multiplier},
        root_scope=root,
        image_size=224,
        head_scopes=(f"{root}/Logits",),
        layer_groups=(
            (f"{root}/Conv2d_0",),
            *((f"{root}/Conv2d_{n}_depthwise", f"{root}/Conv2d_{n}_pointwise") for n in range(1, 14)),
            (f"{root}/Logits",),
        ),
        num_top_groups=1,
        preprocessing="inception",
        paper="Howard et al., 2017, arXiv:1704.04861",
        num_parameters=num_parameters,
        published_file=f"{_DOWNLOADS}mobilenet_v1_2018_02_22/{published_file}",
        top_1=top_1,
        top_5=top_5,
    )


def _inverted_residual_groups(root: str, num_blocks: int, *last: str) -> tuple[tuple[str, ...], ...]:
    """Layer groups of MobileNet V2 and its successors: first convolution, blocks, `last` layers, logits."""
    blocks = ("expanded_conv", *(f"expanded_conv_{index}" for index in range(1, num_blocks)))
    return tuple((f"{root}/{scope}",) for scope in ("Conv", *blocks, *last, "Logits"))


def _mobilenet_v2(
    name: str, depth_multiplier: float, num_parameters: int, published_file: str, top_1: float, top_5: float
) -> NetSpec:
    return NetSpec(
        name=name,
        function="finetune.nets.mobilenet_v2:mobilenet_v2",
        arguments={"depth_multiplier": depth_multiplier},
        root_scope="MobilenetV2",
        image_size=224,
        head_scopes=("MobilenetV2/Logits",),
        layer_groups=_inverted_residual_groups("MobilenetV2", 17, "Conv_1"),
        num_top_groups=1,
        preprocessing="inception",
        paper="Sandler et al., 2018, arXiv:1801.04381",
        num_parameters=num_parameters,
        published_file=f"{_STORAGE}mobilenet_v2/checkpoints/{published_file}",
        top_1=top_1,
        top_5=top_5,
    )


def _mobilenet_v3(
    name: str, arguments: dict[str, Any], num_parameters: int, published_file: str, top_1: float
) -> NetSpec:
    return NetSpec(
        name=name,
        function="finetune.nets.mobilenet_v3:mobilenet_v3",
        arguments=arguments,
        root_scope="MobilenetV3",
        image_size=224,
        head_scopes=("MobilenetV3/Logits",),
        layer_groups=_inverted_residual_groups(
            "MobilenetV3", {"large": 15, "small": 11}[arguments["size"]], "Conv_1", "Conv_2"
        ),
        num_top_groups=2,
        preprocessing="inception",
        paper="Howard et al., 2019, arXiv:1905.02244",
        num_parameters=num_parameters,
        published_file=f"{_STORAGE}mobilenet_v3/checkpoints/{published_file}",
        top_1=top_1,
    )


def _mobilenet_edgetpu(
    name: str, depth_multiplier: float, num_parameters: int, published_file: str, top_1: float
) -> NetSpec:
    return NetSpec(
        name=name,
        function="finetune.nets.mobilenet_edgetpu:mobilenet_edgetpu",
        arguments={"depth_multiplier": depth_multiplier},
        root_scope="MobilenetEdgeTPU",
        image_size=224,
        head_scopes=("MobilenetEdgeTPU/Logits",),
        layer_groups=_inverted_residual_groups("MobilenetEdgeTPU", 22, "Conv_1"),
        num_top_groups=1,
        preprocessing="inception",
        paper="Gupta and Akin, 2020, arXiv:2003.02838",
        num_parameters=num_parameters,
        published_file=f"{_STORAGE}mobilenet_edgetpu/checkpoints/{published_file}",
        top_1=top_1,
    )


_IMAGENET_STEM = (("conv0", "conv0_bn"), ("cell_stem_0",), ("cell_stem_1",))


def _nasnet(
    name: str,
    num_cells: int,
    arguments: dict[str, Any],
    stem: tuple[tuple[str, ...], ...] = _IMAGENET_STEM,
    has_reduction_cells: bool = True,
    **rest: Any,
) -> NetSpec:
    """NASNet and PNASNet: their variables have no root, and the auxiliary classifier sits two thirds up."""
    third = num_cells // 3
    cells = []
    for number in range(num_cells):
        if has_reduction_cells and number in (third, 2 * third):
            cells.append(f"reduction_cell_{number // third - 1}")
        cells.append(f"cell_{number}")
    head = ("final_layer", f"aux_{2 * third - 1}")
    return NetSpec(
        name=name,
        arguments={"num_cells": num_cells, **arguments},
        root_scope="",
        head_scopes=head,
        layer_groups=(*stem, *((cell,) for cell in cells), head),
        num_top_groups=1,
        has_auxiliary_logits=True,
        **rest,
    )


SPECS: tuple[NetSpec, ...] = (
    NetSpec(
        name="lenet",
        function="finetune.nets.lenet:lenet",
        root_scope="LeNet",
        image_size=28,
        channels=1,
        head_scopes=("LeNet/fc4",),
        layer_groups=_groups("LeNet", "conv1 conv2 fc3", "LeNet/fc4"),
        num_top_groups=2,
        preprocessing="lenet",
        paper="LeCun et al., 1998",
        num_parameters=3_274_634,
    ),
    NetSpec(
        name="cifarnet",
        function="finetune.nets.cifarnet:cifarnet",
        root_scope="CifarNet",
        image_size=32,
        head_scopes=("CifarNet/logits",),
        layer_groups=_groups("CifarNet", "conv1 conv2 fc3 fc4", "CifarNet/logits"),
        num_top_groups=3,
        preprocessing="cifarnet",
        paper="Krizhevsky, 2012, cuda-convnet",
        num_parameters=1_756_426,
    ),
    NetSpec(
        name="alexnet_v2",
        function="finetune.nets.alexnet:alexnet_v2",
        root_scope="alexnet_v2",
        image_size=224,
        head_scopes=("alexnet_v2/fc8",),
        layer_groups=_groups("alexnet_v2", "conv1 conv2 conv3 conv4 conv5 fc6 fc7", "alexnet_v2/fc8"),
        num_top_groups=3,
        preprocessing="vgg",
        paper="Krizhevsky, 2014, arXiv:1404.5997",
        num_parameters=50_308_009,
    ),
    NetSpec(
        name="overfeat",
        function="finetune.nets.overfeat:overfeat",
        root_scope="overfeat",
        image_size=231,
        head_scopes=("overfeat/fc8",),
        layer_groups=_groups("overfeat", "conv1 conv2 conv3 conv4 conv5 fc6 fc7", "overfeat/fc8"),
        num_top_groups=3,
        preprocessing="vgg",
        paper="Sermanet et al., 2014, arXiv:1312.6229",
        num_parameters=145_708_521,
    ),
    _vgg("vgg_a", (1, 1, 2, 2, 2), num_parameters=132_863_336),
    _vgg(
        "vgg_16",
        (2, 2, 3, 3, 3),
        num_parameters=138_357_544,
        published_file=f"{_DOWNLOADS}vgg_16_2016_08_28.tar.gz",
        top_1=71.5,
        top_5=89.8,
    ),
    _vgg(
        "vgg_19",
        (2, 2, 4, 4, 4),
        num_parameters=143_667_240,
        published_file=f"{_DOWNLOADS}vgg_19_2016_08_28.tar.gz",
        top_1=71.1,
        top_5=89.8,
    ),
    NetSpec(
        name="inception_v1",
        function="finetune.nets.inception_v1:inception_v1",
        root_scope="InceptionV1",
        image_size=224,
        head_scopes=("InceptionV1/Logits",),
        layer_groups=_groups(
            "InceptionV1",
            "Conv2d_1a_7x7 Conv2d_2b_1x1 Conv2d_2c_3x3 Mixed_3b Mixed_3c "
            "Mixed_4b Mixed_4c Mixed_4d Mixed_4e Mixed_4f Mixed_5b Mixed_5c",
            "InceptionV1/Logits",
        ),
        num_top_groups=1,
        preprocessing="inception",
        paper="Szegedy et al., 2014, arXiv:1409.4842",
        num_parameters=6_618_649,
        published_file=f"{_DOWNLOADS}inception_v1_2016_08_28.tar.gz",
        top_1=69.8,
        top_5=89.6,
    ),
    NetSpec(
        name="inception_v2",
        function="finetune.nets.inception_v2:inception_v2",
        root_scope="InceptionV2",
        image_size=224,
        head_scopes=("InceptionV2/Logits",),
        layer_groups=_groups(
            "InceptionV2",
            "Conv2d_1a_7x7 Conv2d_2b_1x1 Conv2d_2c_3x3 Mixed_3b Mixed_3c "
            "Mixed_4a Mixed_4b Mixed_4c Mixed_4d Mixed_4e Mixed_5a Mixed_5b Mixed_5c",
            "InceptionV2/Logits",
        ),
        num_top_groups=1,
        preprocessing="inception",
        paper="Ioffe and Szegedy, 2015, arXiv:1502.03167",
        num_parameters=11_179_361,
        published_file=f"{_DOWNLOADS}inception_v2_2016_08_28.tar.gz",
        top_1=73.9,
        top_5=91.8,
    ),
    NetSpec(
        name="inception_v3",
        function="finetune.nets.inception_v3:inception_v3",
        root_scope="InceptionV3",
        image_size=299,
        head_scopes=("InceptionV3/Logits", "InceptionV3/AuxLogits"),
        layer_groups=_groups(
            "InceptionV3",
            "Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 Conv2d_3b_1x1 Conv2d_4a_3x3 Mixed_5b Mixed_5c Mixed_5d "
            "Mixed_6a Mixed_6b Mixed_6c Mixed_6d Mixed_6e Mixed_7a Mixed_7b Mixed_7c",
            "InceptionV3/Logits",
            "InceptionV3/AuxLogits",
        ),
        num_top_groups=1,
        preprocessing="inception",
        paper="Szegedy et al., 2015, arXiv:1512.00567",
        has_auxiliary_logits=True,
        num_parameters=23_819_401,
        published_file=f"{_DOWNLOADS}inception_v3_2016_08_28.tar.gz",
        top_1=78.0,
        top_5=93.9,
    ),
    NetSpec(
        name="inception_v4",
        function="finetune.nets.inception_v4:inception_v4",
        root_scope="InceptionV4",
        image_size=299,
        head_scopes=("InceptionV4/Logits", "InceptionV4/AuxLogits"),
        layer_groups=_groups(
            "InceptionV4",
            "Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 Mixed_3a Mixed_4a Mixed_5a Mixed_5b Mixed_5c Mixed_5d Mixed_5e "
            "Mixed_6a Mixed_6b Mixed_6c Mixed_6d Mixed_6e Mixed_6f Mixed_6g Mixed_6h "
            "Mixed_7a Mixed_7b Mixed_7c Mixed_7d",
            "InceptionV4/Logits",
            "InceptionV4/AuxLogits",
        ),
        num_top_groups=1,
        preprocessing="inception",
        paper="Szegedy et al., 2016, arXiv:1602.07261",
        has_auxiliary_logits=True,
        num_parameters=42_649_769,
        published_file=f"{_DOWNLOADS}inception_v4_2016_09_09.tar.gz",
        top_1=80.2,
        top_5=95.2,
    ),
    NetSpec(
        name="inception_resnet_v2",
        function="finetune.nets.inception_resnet_v2:inception_resnet_v2",
        root_scope="InceptionResnetV2",
        image_size=299,
        head_scopes=("InceptionResnetV2/Logits", "InceptionResnetV2/AuxLogits"),
        layer_groups=_groups(
            "InceptionResnetV2",
            "Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 Conv2d_3b_1x1 Conv2d_4a_3x3 "
            f"Mixed_5b {_numbered('Repeat/block35', 10)} Mixed_6a {_numbered('Repeat_1/block17', 20)} "
            f"Mixed_7a {_numbered('Repeat_2/block8', 9)} Block8 Conv2d_7b_1x1",
            "InceptionResnetV2/Logits",
            "InceptionResnetV2/AuxLogits",
        ),
        num_top_groups=1,
        preprocessing="inception",
        paper="Szegedy et al., 2016, arXiv:1602.07261",
        has_auxiliary_logits=True,
        num_parameters=55_814_729,
        published_file=f"{_DOWNLOADS}inception_resnet_v2_2016_08_30.tar.gz",
        top_1=80.4,
        top_5=95.3,
    ),
    _resnet_v1(
        "resnet_v1_50",
        (3, 4, 6, 3),
        num_parameters=25_557_032,
        published_file=f"{_DOWNLOADS}resnet_v1_50_2016_08_28.tar.gz",
        top_1=75.2,
        top_5=92.2,
    ),
    _resnet_v1(
        "resnet_v1_101",
        (3, 4, 23, 3),
        num_parameters=44_549_160,
        published_file=f"{_DOWNLOADS}resnet_v1_101_2016_08_28.tar.gz",
        top_1=76.4,
        top_5=92.9,
    ),
    _resnet_v1(
        "resnet_v1_152",
        (3, 8, 36, 3),
        num_parameters=60_192_808,
        published_file=f"{_DOWNLOADS}resnet_v1_152_2016_08_28.tar.gz",
        top_1=76.8,
        top_5=93.2,
    ),
    _resnet_v1("resnet_v1_200", (3, 24, 36, 3), num_parameters=64_673_832),
    _resnet_v2(
        "resnet_v2_50",
        (3, 4, 6, 3),
        num_parameters=25_570_409,
        published_file=f"{_DOWNLOADS}resnet_v2_50_2017_04_14.tar.gz",
        top_1=75.6,
        top_5=92.8,
    ),
    _resnet_v2(
        "resnet_v2_101",
        (3, 4, 23, 3),
        num_parameters=44_579_945,
        published_file=f"{_DOWNLOADS}resnet_v2_101_2017_04_14.tar.gz",
        top_1=77.0,
        top_5=93.7,
    ),
    _resnet_v2(
        "resnet_v2_152",
        (3, 8, 36, 3),
        num_parameters=60_238_953,
        published_file=f"{_DOWNLOADS}resnet_v2_152_2017_04_14.tar.gz",
        top_1=77.8,
        top_5=94.1,
    ),
    # The paper's accuracy; no checkpoint was published.
    _resnet_v2("resnet_v2_200", (3, 24, 36, 3), num_parameters=64_728_169, top_1=79.9, top_5=95.2),
    _mobilenet_v1("mobilenet_v1", 1.0, 4_233_001, "mobilenet_v1_1.0_224.tgz", 70.9, 89.9),
    _mobilenet_v1("mobilenet_v1_075", 0.75, 2_586_329, "mobilenet_v1_0.75_224.tgz", 68.4, 88.2),
    _mobilenet_v1("mobilenet_v1_050", 0.5, 1_332_105, "mobilenet_v1_0.5_224.tgz", 63.3, 84.9),
    _mobilenet_v1("mobilenet_v1_025", 0.25, 470_329, "mobilenet_v1_0.25_224.tgz", 49.8, 74.2),
    _mobilenet_v2("mobilenet_v2", 1.0, 3_506_153, "mobilenet_v2_1.0_224.tgz", 71.9, 91.0),
    _mobilenet_v2("mobilenet_v2_140", 1.4, 6_110_569, "mobilenet_v2_1.4_224.tgz", 74.9, 92.5),
    _mobilenet_v2("mobilenet_v2_035", 0.35, 1_678_409, "mobilenet_v2_0.35_224.tgz", 60.3, 82.9),
    _mobilenet_v3("mobilenet_v3_small", {"size": "small"}, 2_543_881, "v3-small_224_1.0_float.tgz", 67.5),
    _mobilenet_v3("mobilenet_v3_large", {"size": "large"}, 5_484_313, "v3-large_224_1.0_float.tgz", 75.2),
    _mobilenet_v3(
        "mobilenet_v3_small_minimalistic",
        {"size": "small", "is_minimalistic": True},
        2_045_761,
        "v3-small-minimalistic_224_1.0_float.tgz",
        61.9,
    ),
    _mobilenet_v3(
        "mobilenet_v3_large_minimalistic",
        {"size": "large", "is_minimalistic": True},
        3_925_569,
        "v3-large-minimalistic_224_1.0_float.tgz",
        72.3,
    ),
    # Their accuracies were published for the 8-bit networks only.
    _mobilenet_edgetpu("mobilenet_edgetpu", 1.0, 4_092_713, "mobilenet_edgetpu_224_1.0.tgz", 75.6),
    _mobilenet_edgetpu("mobilenet_edgetpu_075", 0.75, 2_989_441, "mobilenet_edgetpu_224_0.75.tgz", 73.5),
    _nasnet(
        "nasnet_cifar",
        18,
        {"depth": 32},
        stem=(("l1_stem_3x3", "l1_stem_bn"),),
        function="finetune.nets.nasnet:nasnet_cifar",
        batch_norm_epsilon=1e-5,
        image_size=32,
        preprocessing="cifarnet",
        paper="Zoph et al., 2017, arXiv:1707.07012",
        num_parameters=3_346_538,
    ),
    _nasnet(
        "nasnet_mobile",
        12,
        {"depth": 44, "stem_depth": 32, "auxiliary_kernel_size": 4, "skips_reduction_input": False},
        function="finetune.nets.nasnet:nasnet",
        image_size=224,
        preprocessing="inception",
        paper="Zoph et al., 2017, arXiv:1707.07012",
        num_parameters=5_291_035,
        published_file=f"{_STORAGE}download.tensorflow.org/models/nasnet-a_mobile_04_10_2017.tar.gz",
        top_1=74.0,
        top_5=91.6,
    ),
    _nasnet(
        "nasnet_large",
        18,
        {
            "depth": 168,
            "stem_depth": 96,
            "auxiliary_kernel_size": 6,
            "skips_reduction_input": True,
            "drop_path_keep_prob": 0.7,
        },
        function="finetune.nets.nasnet:nasnet",
        image_size=331,
        preprocessing="inception",
        paper="Zoph et al., 2017, arXiv:1707.07012",
        num_parameters=88_757_183,
        published_file=f"{_STORAGE}download.tensorflow.org/models/nasnet-a_large_04_10_2017.tar.gz",
        top_1=82.7,
        top_5=96.2,
    ),
    _nasnet(
        "pnasnet_mobile",
        9,
        {"depth": 54, "stem_depth": 32, "auxiliary_kernel_size": 4},
        has_reduction_cells=False,
        function="finetune.nets.pnasnet:pnasnet",
        image_size=224,
        preprocessing="inception",
        paper="Liu et al., 2017, arXiv:1712.00559",
        num_parameters=5_065_568,
        published_file=f"{_STORAGE}download.tensorflow.org/models/pnasnet-5_mobile_2017_12_13.tar.gz",
        top_1=74.2,
        top_5=91.9,
    ),
    _nasnet(
        "pnasnet_large",
        12,
        {"depth": 216, "stem_depth": 96, "auxiliary_kernel_size": 6, "drop_path_keep_prob": 0.6},
        has_reduction_cells=False,
        function="finetune.nets.pnasnet:pnasnet",
        image_size=331,
        preprocessing="inception",
        paper="Liu et al., 2017, arXiv:1712.00559",
        num_parameters=86_061_989,
        published_file=f"{_STORAGE}download.tensorflow.org/models/pnasnet-5_large_2017_12_13.tar.gz",
        top_1=82.9,
        top_5=96.2,
    ),
)
