"""SHA-256 of published files, by address, where somebody wrote it down who had fetched them from their first host.

MNIST's, CIFAR-10's and the flowers' are those that TensorFlow Datasets checks. Of the checkpoints none is known: their
hash is that of the first download.
"""

_MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist/"

SHA256 = {
    f"{_MNIST}train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    f"{_MNIST}train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    f"{_MNIST}t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    f"{_MNIST}t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz": (
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
    ),
    "https://download.tensorflow.org/example_images/flower_photos.tgz": (
        "4c54ace7911aaffe13a365c34f650e71dd5bf1be0a58b464e5a7183e3e595d9c"
    ),
}
