"""The words that flags allow, and defaults that are names: of the settings and of what reads them. No TensorFlow."""

OPTIMIZERS = ("adadelta", "adagrad", "adam", "ftrl", "momentum", "rmsprop", "sgd")
DECAY_TYPES = ("fixed", "exponential", "polynomial", "cosine")
BATCH_NORM_MODES = ("plan", "frozen", "slim")
PRECISIONS = ("float32", "bfloat16", "float16")
XLA_MODES = ("auto", "on", "off")
GRAYSCALE_STEMS = ("same", "sum")
AUGMENTATIONS = ("default", "crop", "flip", "none")
TEST_TIME_AUGMENTATIONS = ("none", "flip")
LAYOUTS = ("classes", "splits")
WAYS_TO_MATCH = ("name", "index")
MATCH_LABELS_HELP = (
    "where the data's class names are not the network's: name: letter case, spaces, - and _ don't count; index: labels "
    "mean what they mean by number; not given: equal names, else refused"
)

# Keys of the image and of its label in slim's records.
IMAGE_KEY = "image/encoded"
LABEL_KEY = "image/class/label"
