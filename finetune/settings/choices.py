"""The words that flags allow, and defaults and limits that the settings share with what reads them. No TensorFlow."""

SINGLE_LABEL, MULTILABEL = TASKS = ("single-label", "multilabel")
OPTIMIZERS = ("adadelta", "adagrad", "adam", "adamw", "ftrl", "lion", "momentum", "rmsprop", "sgd")
DECAY_TYPES = ("fixed", "exponential", "polynomial", "cosine", "one-cycle", "piecewise")
RATE_SCALINGS = ("none", "linear", "sqrt")
BATCH_NORM_MODES = ("plan", "frozen", "slim")
LOSSES = ("cross-entropy", "focal")
PRECISIONS = ("float32", "bfloat16", "float16")
XLA_MODES = ("auto", "on", "off")
STRATEGIES = ("auto", "one", "mirrored", "multi-worker")
GRAYSCALE_STEMS = ("same", "sum")
AUGMENTATIONS = ("default", "crop", "flip", "none", "inception", "vgg", "keras", "randaugment", "turns")
RESIZES = ("squash", "crop", "pad")
TEST_TIME_AUGMENTATIONS = ("none", "flip")
EXPLANATIONS = ("gradcam", "layercam")
WAYS_TO_MATCH = ("name", "index")
LAYOUTS = ("classes", "splits")
NO_TRACKER = "none"
TRACKERS = (NO_TRACKER, "mlflow", "wandb")
ON_CORRUPT = ("fail", "skip")
FEATURE_SUFFIXES = (".npz", ".parquet")
ON_DUPLICATE = ("warn", "fail", "same-split")
PREDICTION_FORMATS = ("csv", "json", "lines")
HEAD_POOLINGS = ("avg", "max", "concat")
EXPORT_FORMATS = ("saved_model", "tflite", "onnx", "openvino", "keras", "keras-weights")
ENGINES = ("tensorflow", "openvino")
QUANTIZATIONS = ("none", "float16", "int8")
BEST_BY = ("accuracy", "balanced_accuracy", "f1", "mean_average_precision", "loss")
ON_DIVERGENCE = ("stop", "halve")
CALIBRATIONS = ("temperature", "none")
NO_DECISION = "none"
SHELLS = ("bash", "zsh")
# Those of slim's data sets that can be downloaded; published/known_datasets.py says from where.
PUBLISHED_DATASETS = ("flowers", "cifar10", "mnist")

# In place of a checkpoint's path.
FROM_SCRATCH = "none"

TASK_HELP = "single-label: one class an image; multilabel: any number of them"
# Between the classes of an image in a cell of a table.
DEFAULT_LABEL_SEPARATOR = ";"

# Keys of the image and of its label in slim's records.
IMAGE_KEY = "image/encoded"
LABEL_KEY = "image/class/label"

DEFAULT_VALIDATION_FRACTION = 0.2
DEFAULT_DUPLICATE_SIMILARITY = 0.5
MIN_SHARDS = 5  # slim's number.
MAX_IMAGES_PER_SHARD = 1000
MOST_SHARDS = 99_999  # A shard's number has five digits.

DEFAULT_BACKGROUND = "white"
LEAST_SAMPLE_BITS, MOST_SAMPLE_BITS = 8, 16
DEFAULT_MAX_MEGAPIXELS = 90.0  # Converting an image of any kind takes less than 1 GiB.
DEEP_PIXEL_COUNTS = 3  # Of 16 bits a sample; they take so much more memory.
MOST_IMAGE_SIZE = 8192  # Pixels in height and width; no network's weights or activations fit a memory beyond.
MOST_MEGAPIXELS = 500.0  # TensorFlow's decoders end at 2^29 pixels.

ON_CORRUPT_HELP = (
    "records that can't be read: name the first and stop, or look for all of them beforehand and leave them out"
)

# Exports are calibrated on images of this split where there is one.
CALIBRATION_SPLIT = "train"

# Settings that a run is no longer the same run without: what its steps are given, and what they compute.
DECISIVE_SETTINGS = (
    "model",
    "head",
    "head_dropout",
    "head_pooling",
    "seed",
    "batch_size",
    "accumulate_steps",
    "num_clones",
    "worker_replicas",
    "precision",
    "preprocessing",
    "resize",
    "augmentation",
    "crop_area",
    "randaugment",
    "random_erasing",
    "image_size",
    "use_grayscale",
    "labels_offset",
    "image_key",
    "label_key",
    "trainable_scopes",
    "batch_norm",
    "sync_batch_norm",
    "balanced_sampling",
    "mixup",
    "cutmix",
    "pseudo_label_fraction",
    "pseudo_label_threshold",
    "pseudo_label_refresh",
)
# What a run may be resumed with that it wasn't trained with: --allow-changed.
CHANGEABLE = (
    "data",
    "unlabeled",
    "finetune",
    "tensorflow",
    "numpy",
    "processor",
    "threads",
    "devices",
    "onednn",
    *DECISIVE_SETTINGS,
)

RESIZE_HELP = (
    "whole pictures to the network's square: squash: whatever the aspect ratio; crop: the middle, by the short side; "
    "pad: all of it, in grey borders"
)

# TensorFlow's seeds are int32.
LEAST_SEED, MOST_SEED = -(2**31), 2**31 - 1

MATCH_LABELS_HELP = (
    "where the data's class names are not the network's: name: letter case, spaces, - and _ don't count; index: labels "
    "mean what they mean by number; not given: equal names, else refused"
)
