"""Under which keys records hold image and label, of what kind the labels are, and how they become class numbers.

Slim's records hold a JPEG or PNG file's bytes and one int64; others hold the label as a float, as a text, or as a list
with a single one in it. The kind is that of a split's first record, and must be that of all. Where an image may have
several labels a record holds any number of int64, each a class, or none; slim's single one is a list of one. Two
readers agree on what a label is: one without TensorFlow, which can say what is wrong with a record, and one within
TensorFlow's graph.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from finetune.datasets.records import (
    BYTES,
    ENCODED,
    FILENAME,
    FLOAT,
    INT64,
    LABEL,
    WEIGHT,
    Feature,
    read_feature,
    read_features,
)
from finetune.errors import did_you_mean
from finetune.notices import few
from finetune.settings.choices import MULTILABEL
from finetune.types import Tensor

# What the graph makes of a label that is none; Python's reader then says why.
UNREADABLE = -1
# A text that is a number; no class has one of more digits, and TensorFlow none beyond int64.
NUMBER = re.compile("[0-9]{1,18}")

IMAGE_MAGICS = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"GIF8": "GIF", b"BM": "BMP"}
MOST_KEYS_NAMED = 8
LABEL_WORDS = ("label", "class")
MOST_NAMES_LISTED = 20

OTHER_KEY = "Name the key of the label with --label-key."
WRITE_FILES = "Write the images as PNG files into class folders, and convert these: finetune-convert."
OR_LISTS = f" Lists of classes are read with --task {MULTILABEL}."
OTHER_NAMES = "Correct labels.txt, a line id:name for each class."


class LabelError(ValueError):
    """A record's label can't be read; the message says what was found, `mend` what mends it."""

    def __init__(self, message: str, mend: str) -> None:
        super().__init__(message)
        self.mend = mend


class ParsedRecord(NamedTuple):
    """Scalar tensors: `encoded` string, `label` int64, `filename` string ('' where the record has none), `weight`.

    The weight is float32, 1 where the record has none. Where records have lists of labels, `label` is int64 [n].
    """

    encoded: Tensor
    label: Tensor
    filename: Tensor
    weight: Tensor


@dataclass(frozen=True)
class RecordSchema:
    """How to read the records of a split.

    Attributes:
        image_key: Key of the bytes of a JPEG or PNG file.
        label_key: Key of the label.
        label_kind: Of its values, "int64", "float" or "bytes".
        num_values: 1; of a one-hot list its length, which is the number of classes.
        class_names: What a label that is a text, but no number, is looked up in; the index is the label.
        has_weights: Whether images have weights, how much each counts in training; a record without one has 1.
        has_lists: Whether an image has any number of labels, also none, each a class's number.
    """

    image_key: str = ENCODED
    label_key: str = LABEL
    label_kind: str = INT64
    num_values: int = 1
    class_names: tuple[str, ...] | None = None
    has_weights: bool = False
    has_lists: bool = False

    def read_weight(self, serialized: bytes) -> float:
        """How much the image of a serialized tf.train.Example counts in training; 1 where nothing is said of it.

        Raises:
            LabelError: It is no number from 0 on.
            ValueError: These bytes are no Example.
        """
        feature = read_feature(serialized, WEIGHT) if self.has_weights else None
        if feature is None or not feature.values:
            return 1.0
        is_number = (feature.kind, len(feature.values)) == (FLOAT, 1)
        weight = float(feature.values[0]) if is_number else math.nan
        if not 0 <= weight < math.inf:
            found = weight if is_number else _in_words(feature)
            raise LabelError(
                f"the image's weight under {WEIGHT} is {found}, no number from 0 on",
                "Write one float for each image, or take the key out of all records: then all count alike.",
            )
        return weight

    def read_labels(self, serialized: bytes) -> tuple[int, ...]:
        """The classes of a serialized tf.train.Example, one where records have no lists of them.

        Raises:
            LabelError: As `read_label`; one of a list stands there twice.
            ValueError: These bytes are no Example.
        """
        if not self.has_lists:
            return (self.read_label(serialized),)
        feature = read_feature(serialized, self.label_key)
        values = () if feature is None else feature.values
        if feature is not None and values and feature.kind != INT64:
            raise LabelError(
                f"{self.label_key} holds {_in_words(feature)}; with --task {MULTILABEL} a list of int64 was expected",
                OTHER_KEY,
            )
        if len(set(values)) < len(values):
            raise LabelError(
                f"{self.label_key} holds a label twice ({few([str(value) for value in values], 5)}): a list of the "
                "numbers of classes was expected, each once, not a 0 or 1 for each class",
                "Write the numbers of the classes that the image has.",
            )
        return tuple(int(value) for value in values)

    def read_label(self, serialized: bytes) -> int:
        """The class of a serialized tf.train.Example.

        Raises:
            LabelError: It has none, or one of another kind; the name of no class.
            ValueError: These bytes are no Example.
        """
        feature = read_feature(serialized, self.label_key)
        if feature is None or not feature.values:
            raise _missing_label(read_features(serialized), self.image_key, self.label_key)
        if (feature.kind, len(feature.values)) != (self.label_kind, self.num_values):
            raise LabelError(
                f"{self.label_key} holds {_in_words(feature)}, in the first record "
                f"{_in_words_of(self.label_kind, self.num_values)}",
                "All records of a split must hold labels of one kind." + (OR_LISTS if feature.kind == INT64 else ""),
            )
        if self.num_values > 1:
            return self._from_one_hot(feature.values)
        (value,) = feature.values
        return self._from_text(value) if isinstance(value, bytes) else self._from_number(value)

    def _from_number(self, value: float) -> int:
        if not math.isfinite(value) or value != round(value):
            raise LabelError(f"the label under {self.label_key} is {value:g}, no whole number", OTHER_KEY)
        return int(value)

    def _from_one_hot(self, values: tuple[Any, ...]) -> int:
        if not _is_one_hot(values):
            raise LabelError(
                f"{self.label_key} holds {len(values)} numbers ({few([f'{value:g}' for value in values], 5)}), which "
                "are no one-hot list: a single 1 among zeros",
                f"A record must have one class: shares of classes can't be trained on.{OR_LISTS}",
            )
        return values.index(1)

    def _from_text(self, value: bytes) -> int:
        text = value.decode("utf-8", "surrogateescape").strip()
        if NUMBER.fullmatch(text):
            return int(text)
        if self.class_names is None:
            raise LabelError(
                f"the label under {self.label_key} is the text {text!r}, and there is no labels.txt to look it up in",
                "Put a labels.txt beside the shards, a line id:name for each class.",
            )
        numbers = [number for number, name in enumerate(self.class_names) if name == text]
        if len(numbers) != 1:
            found = f"the name of {len(numbers)} classes" if numbers else "the name of no class"
            raise LabelError(
                f"the label under {self.label_key} is the text {text!r}, {found} in labels.txt",
                did_you_mean(text, self.class_names)
                if not numbers and len(self.class_names) <= MOST_NAMES_LISTED
                else OTHER_NAMES,
            )
        return numbers[0]


def find_schema(
    features: Mapping[str, Feature],
    image_key: str,
    label_key: str,
    class_names: tuple[str, ...] | None,
    *,
    has_lists: bool = False,
) -> RecordSchema:
    """How a split's records are read, by the first of them; `has_lists` as of a schema.

    Raises:
        LabelError: No image or no label under these keys, or one that isn't read.
    """
    _check_image(features, image_key)
    label, has_weights = features.get(label_key), _has_weight(features)
    if has_lists:
        return RecordSchema(image_key, label_key, class_names=class_names, has_weights=has_weights, has_lists=True)
    if label is None or not label.values:
        raise _missing_label(features, image_key, label_key)
    if label.kind == BYTES:
        if len(label.values) > 1:
            raise LabelError(f"{label_key} holds {len(label.values)} texts, where one class was expected", OTHER_KEY)
        _refuse_misnumbered(label_key, class_names)
    return RecordSchema(image_key, label_key, label.kind, len(label.values), class_names, has_weights)


def _has_weight(features: Mapping[str, Feature]) -> bool:
    weight = features.get(WEIGHT)
    return weight is not None and (weight.kind, len(weight.values)) == (FLOAT, 1)


def keys_in_words(features: Mapping[str, Feature]) -> str:
    """The keys of a record, with the kind and the number of the values."""
    return few([f"{key} ({_in_words(feature)})" for key, feature in sorted(features.items())], MOST_KEYS_NAMED) or (
        "no keys at all"
    )


def parse_record(serialized: Tensor, schema: RecordSchema) -> ParsedRecord:
    """Parses a serialized tf.train.Example in a TensorFlow graph; a label that is none becomes `UNREADABLE`.

    Args:
        serialized: Scalar string tensor.
        schema: Of the split.

    Raises:
        tf.errors.InvalidArgumentError: When it runs: the bytes are no Example, image or label are missing, or a key
            holds values of another kind or number.
    """
    import tensorflow as tf

    dtype = {INT64: tf.int64, FLOAT: tf.float32, BYTES: tf.string}[schema.label_kind]
    keys = {
        schema.image_key: tf.io.FixedLenFeature([], tf.string),
        schema.label_key: tf.io.FixedLenSequenceFeature([], dtype, allow_missing=True)
        if schema.has_lists
        else tf.io.FixedLenFeature([] if schema.num_values == 1 else [schema.num_values], dtype),
        FILENAME: tf.io.FixedLenFeature([], tf.string, default_value=""),
    }
    if schema.has_weights:
        keys[WEIGHT] = tf.io.FixedLenFeature([], tf.float32, default_value=1.0)
    features = tf.io.parse_single_example(serialized, keys)
    label, weight = _label(features[schema.label_key], schema), features.get(WEIGHT, tf.constant(1.0))
    return ParsedRecord(features[schema.image_key], label, features[FILENAME], weight)


def _label(value: Tensor, schema: RecordSchema) -> Tensor:
    import tensorflow as tf

    unreadable = tf.constant(UNREADABLE, tf.int64)
    if schema.has_lists:
        return value
    if schema.num_values > 1:
        is_one_hot = (tf.math.count_nonzero(value) == 1) & (tf.reduce_max(value) == 1)
        return tf.where(is_one_hot, tf.argmax(value), unreadable)
    if schema.label_kind == FLOAT:
        return tf.where(tf.math.is_finite(value) & (value == tf.round(value)), tf.cast(value, tf.int64), unreadable)
    if schema.label_kind == BYTES:
        text = tf.strings.strip(value)
        is_number = tf.strings.regex_full_match(text, NUMBER.pattern)
        number = tf.strings.to_number(tf.where(is_number, text, "0"), tf.int64)
        return tf.where(is_number, number, _number_of_name(text, schema))
    return value


def _number_of_name(text: Tensor, schema: RecordSchema) -> Tensor:
    import tensorflow as tf

    if schema.class_names is None:
        return tf.constant(UNREADABLE, tf.int64)
    names = [name.encode("utf-8", "surrogateescape") for name in schema.class_names]
    is_name = tf.cast(tf.constant(names) == text, tf.int64)
    return tf.where(tf.reduce_sum(is_name) == 1, tf.argmax(is_name), tf.constant(UNREADABLE, tf.int64))


def _check_image(features: Mapping[str, Feature], image_key: str) -> None:
    image = features.get(image_key)
    if image is None or not image.values:
        raise LabelError(
            f"there is no image under {image_key}; found: {keys_in_words(features)}", _image_mend(features)
        )
    if image.kind != BYTES or len(image.values) > 1:
        raise LabelError(
            f"{image_key} holds {_in_words(image)}, not a JPEG or PNG file's bytes: raw pixels are not read",
            WRITE_FILES,
        )
    (content,) = image.values
    if isinstance(content, bytes) and not content.startswith(tuple(IMAGE_MAGICS)):
        pixels = _as_pixels(features, len(content))
        raise LabelError(
            f"the {len(content)} bytes under {image_key} are no {', '.join(IMAGE_MAGICS.values())} file{pixels}",
            WRITE_FILES if pixels else "Name the key of the image with --image-key, or convert the images again.",
        )


def _as_pixels(features: Mapping[str, Feature], num_bytes: int) -> str:
    """Words on raw pixels, where the number of bytes is that of an image's sides in the record."""
    sides = {}
    for name in ("height", "width"):
        for key in (name, f"image/{name}"):
            value = features[key].values[:1] if key in features else ()
            if value and isinstance(value[0], int) and value[0] > 0:
                sides[name] = value[0]
    if len(sides) < 2 or num_bytes % (sides["height"] * sides["width"]):
        return ""
    return f": raw pixels of {sides['height']} x {sides['width']}, which are not read"


def _refuse_misnumbered(label_key: str, class_names: tuple[str, ...] | None) -> None:
    """A text of digits is a number; a class that is called by another number would make it two classes' label."""
    for number, name in enumerate(class_names or ()):
        if name.isascii() and name.isdecimal() and int(name) != number:
            raise LabelError(
                f"the labels under {label_key} are texts, and labels.txt calls the class {number} {name!r}: a label "
                f"{name!r} may be the class {name} or {number}",
                "Call the class otherwise in labels.txt, or write the labels as int64.",
            )


def _missing_label(features: Mapping[str, Feature], image_key: str, label_key: str) -> LabelError:
    is_empty = features.get(label_key, Feature("", ())).kind == INT64
    return LabelError(
        f"there is no label under {label_key}; found: {keys_in_words(features)}",
        _label_mend(features, image_key) + (OR_LISTS if is_empty else ""),
    )


def _label_mend(features: Mapping[str, Feature], image_key: str) -> str:
    likely = [
        key
        for key, feature in sorted(features.items())
        if key != image_key
        and any(word in key.rpartition("/")[2].lower() for word in LABEL_WORDS)
        and (len(feature.values) == 1 or _is_one_hot(feature.values))
    ]
    if len(likely) == 1:
        return f"If it is the label, give --label-key {likely[0]}."
    return f"Name the key of the label with --label-key{f': {few(likely)}' if likely else ''}."


def _is_one_hot(values: tuple[Any, ...]) -> bool:
    return len(values) > 1 and sorted(values) == [0] * (len(values) - 1) + [1]


def _image_mend(features: Mapping[str, Feature]) -> str:
    images = [
        key
        for key, (kind, values) in sorted(features.items())
        if kind == BYTES and isinstance(values[0] if values else None, bytes)
        if bytes(values[0]).startswith(tuple(IMAGE_MAGICS))  # type: ignore[arg-type]
    ]
    if len(images) == 1:
        return f"Read it with --image-key {images[0]}."
    return "Name the key of the image, a JPEG or PNG file's bytes, with --image-key."


def _in_words(feature: Feature) -> str:
    return _in_words_of(feature.kind, len(feature.values)) if feature.values else "nothing"


def _in_words_of(kind: str, count: int) -> str:
    return f"{count} x {kind}"
