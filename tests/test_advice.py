"""What a message advises, followed, mends: every situation is refused, its advice applied, and nothing is left."""

import dataclasses
import itertools
import re
import shlex

import numpy as np
import pytest
import tensorflow as tf
from reference_networks import load_reference, reference_weight
from tiny_runs import write_records, write_run

from finetune.commands import evaluate, inspect, train
from finetune.errors import UserError
from finetune.model.checkpoint import Checkpoint, open_checkpoint, write_checkpoint
from finetune.model.model import Model
from finetune.model.recognise import describe_variables
from finetune.model.scopes import NetworkVariable, Purpose, plan_variables
from finetune.nets import MODELS, get_spec

HEAD = "CifarNet/logits"
STEM = "CifarNet/conv1/weights"
VALUED_FLAGS = ("image-size", "exclude-scopes", "trainable-scopes", "model", "checkpoint-prefix", "grayscale-stem")
PLAIN_FLAGS = ("use-grayscale", "ignore-missing-vars")


def weights_of(model, num_classes=3, **options):
    variables = describe_variables(MODELS[model], num_classes, **options)
    return {variable.name: reference_weight(variable.name, variable.shape) for variable in variables}


def reference_variables(model):
    """A network's variables, of which slim's own figures tell without building it."""
    reference = load_reference(model)
    return [
        NetworkVariable(name, tuple(shape), is_statistic)
        for group, is_statistic in (("trainable", False), ("non_trainable", True))
        for name, shape in reference[group].items()
    ]


def without(values, scope):
    return {name: value for name, value in values.items() if scope not in name}


def ways_of(message):
    """Each way that a message offers, as (flags to give, flags to leave out); sentences are followed together."""
    valued, plain = "|".join(VALUED_FLAGS), "|".join(PLAIN_FLAGS)
    sentences = []
    for sentence in message.partition("\n")[2].strip().split(". "):
        ways = []
        for way in re.split(r"[;,] or ", sentence):
            left_out = re.findall(r"[Ll]eave out (--[a-z-]+)", way)
            given = re.findall(rf"--(?:{valued}) [\w/,]*\w|--(?:{plain})\b", re.sub(r"[Ll]eave out --[a-z-]+", "", way))
            if given or left_out:
                ways.append((given, left_out))
        if ways:
            sentences.append(ways)
    return [
        ([flag for given, _ in chosen for flag in given], [flag for _, left_out in chosen for flag in left_out])
        for chosen in itertools.product(*sentences)
    ]


def follow(words, given, left_out):
    """The command line with flags given in place of earlier ones, and others left out."""
    replaced = {flag.split(" ")[0] for flag in given} | set(left_out)
    kept = [word for word in words if word.split("=")[0] not in replaced]
    return kept + [flag.replace(" ", "=") for flag in given]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Checkpoints of all kinds, by name."""
    folder = tmp_path_factory.mktemp("checkpoints")
    cifar = weights_of("cifarnet")
    five = weights_of("cifarnet", 5)
    contents = {
        "cifarnet": cifar,
        "five": five,
        "lacks": without(cifar, "conv2"),
        "lacks_biases": without(cifar, "conv2/biases"),
        "five_lacks": without(five, "conv2"),
        "grey": weights_of("cifarnet", channels=1),
        "prefixed": {f"module/{name}": value for name, value in cifar.items()},
        "twice": {f"a/b/{name}": value for name, value in cifar.items()},
        "averages": {f"{name}/ExponentialMovingAverage": value for name, value in cifar.items()},
        "prefixed_averages": {f"m/{name}/ExponentialMovingAverage": value for name, value in cifar.items()},
        "lenet": weights_of("lenet"),
        "lenet_small": weights_of("lenet", image_size=20),
        "small": weights_of("cifarnet", image_size=20),
        "narrow": weights_of("mobilenet_v1_025"),
    }
    for name, values in contents.items():
        write_checkpoint(folder / name, values)
    return folder


SITUATIONS = [
    ("five", [], 1),
    ("five", [f"--trainable-scopes={HEAD}"], 1),
    ("five", ["--trainable-scopes=CifarNet/fc4"], 1),
    ("lacks", [], 2),
    ("lacks_biases", [], 2),
    ("lacks", [f"--trainable-scopes={HEAD}"], 1),
    ("lacks", [f"--exclude-scopes={HEAD}", f"--trainable-scopes={HEAD}"], 1),
    ("five_lacks", [], 1),
    ("five_lacks", [f"--trainable-scopes={HEAD}", "--exclude-scopes=CifarNet/fc3"], 1),
    ("five_lacks", ["--ignore-missing-vars"], 1),
    ("lacks", ["--ignore-missing-vars", f"--trainable-scopes={HEAD}"], 1),
    ("cifarnet", [f"--exclude-scopes={HEAD}", "--trainable-scopes=CifarNet/fc4"], 2),
    ("cifarnet", [f"--exclude-scopes={HEAD},CifarNet/fc3", f"--trainable-scopes={HEAD}"], 2),
    ("cifarnet", ["--use-grayscale"], 2),
    ("five", ["--use-grayscale"], 2),
    ("five", ["--use-grayscale", f"--trainable-scopes={HEAD}"], 2),
    ("grey", [], 1),
    ("cifarnet", ["--grayscale-stem=sum"], 1),
    ("prefixed", [], 1),
    ("twice", [], 1),
    ("twice", ["--checkpoint-prefix=a"], 1),
    ("prefixed", ["--ignore-missing-vars"], 1),
    ("prefixed", ["--checkpoint-prefix=mod"], 1),
    ("cifarnet", ["--checkpoint-prefix=module"], 1),
    ("averages", ["--no-ema"], 1),
    ("prefixed_averages", [], 1),
    ("lenet", [], 1),
    ("cifarnet", ["--image-size=24"], 1),
    ("five", ["--image-size=24"], 1),
    ("small", [], 1),
    ("small", ["--use-grayscale", f"--trainable-scopes={HEAD}"], 2),
    ("lenet_small", ["--model=lenet"], 1),
    pytest.param("narrow", ["--model=mobilenet_v1"], 1, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "words", "num_ways"), SITUATIONS)
def test_every_way_that_a_refused_plan_offers_leads_to_one(checkpoints, capsys, name, words, num_ways):
    words = [str(checkpoints / name), "--model=cifarnet", "--num-classes=3", *words]
    if words[-1].startswith("--model="):
        words.remove("--model=cifarnet")
    assert inspect.main(words) == 2
    message = capsys.readouterr().err
    ways = ways_of(message)
    assert len(ways) == num_ways, message
    for way in ways:
        assert inspect.main(follow(words, *way)) == 0, (message, way, capsys.readouterr().err)


def test_advice_without_a_checkpoint(capsys):
    words = ["--model=cifarnet", f"--trainable-scopes={HEAD}"]
    assert inspect.main(words) == 2
    given, left_out = ways_of(capsys.readouterr().err)[-1]
    assert inspect.main(follow(words, given, left_out)) == 0


def test_an_auxiliary_head_that_is_missing_is_one_scope():
    variables = reference_variables("inception_v3")
    shapes = {variable.name: variable.shape for variable in variables if "AuxLogits" not in variable.name}
    options = {"checkpoint_shapes": shapes, "head_scopes": MODELS["inception_v3"].head_scopes}
    with pytest.raises(UserError, match=r"lacks 10 .*\n.*--exclude-scopes InceptionV3/AuxLogits, or") as caught:
        plan_variables(variables, **options)
    (given, _), _ = ways_of(str(caught.value))
    assert plan_variables(variables, exclude_scopes=[given[0].split(" ")[1]], **options)
    head = ["InceptionV3/Logits"]
    with pytest.raises(UserError, match="lacks 10") as caught:
        plan_variables(variables, exclude_scopes=head, trainable_scopes=head, **options)
    both = "InceptionV3/AuxLogits,InceptionV3/Logits"
    assert ways_of(str(caught.value)) == [([f"--exclude-scopes {both}", f"--trainable-scopes {both}"], [])]
    with pytest.raises(UserError, match="Give the --model"):
        plan_variables(variables, purpose=Purpose(command="evaluate"), **options)


NEW_RUN = ["--model=cifarnet", "--batch-size=4", "--max-steps=1", "--learning-rate=0.001"]


def test_resuming_with_other_classes_advises_what_a_resumed_run_heeds(tmp_path, records, capsys):
    run, five = tmp_path / "the run", tmp_path / "five"
    write_records(five, classes=tuple("abcde"), num_images=10, split="train")
    weights = write_run(tmp_path / "weights")
    words = [f"--dataset-dir={records}", f"--train-dir={run}", f"--checkpoint={weights}", *NEW_RUN]
    assert train.main([*words, f"--trainable-scopes={HEAD}"]) == 0
    before = sorted(path.name for path in run.iterdir())
    resume = [f"--train-dir={run}", "--resume", "--max-steps=2"]
    assert train.main([*resume, f"--dataset-dir={five}", "--eval-split=train"]) == 2
    error = capsys.readouterr().err
    assert all(f"{name}\n" in error for name in "abcde")
    assert "Resume with the run's own --dataset-dir" in error
    assert sorted(path.name for path in run.iterdir()) == before
    assert train.main(resume) == 0
    assert open_checkpoint(run / "model.ckpt-2").step() == 2
    (run / "labels.txt").unlink()  # Then only the shapes tell.
    assert train.main([*resume, f"--dataset-dir={five}", "--eval-split=train"]) == 2
    of_shapes = capsys.readouterr().err
    assert "--resume: CifarNet/logits/weights is [192, 3] in the checkpoint and [192, 5] in the network" in of_shapes
    advised, advised_by_shapes = (
        shlex.split(
            text.rpartition("without --resume: ")[2].partition(";")[0].replace("OTHER", str(tmp_path / "other"))
        )
        for text in (error, of_shapes)
    )
    assert advised == advised_by_shapes
    assert train.main([*advised, f"--dataset-dir={five}", "--eval-split=train"]) == 0
    assert open_checkpoint(tmp_path / "other").shapes["CifarNet/logits/biases"] == (5,)


def test_excluding_scopes_without_a_checkpoint_is_said_to_do_nothing(tmp_path, records, checkpoints, capsys):
    line = "--exclude-scopes does nothing without a checkpoint: all variables are initialised.\n"
    words = ["--model=cifarnet", f"--exclude-scopes={HEAD}"]
    assert inspect.main(words) == 0
    assert capsys.readouterr().err == line
    run = [f"--dataset-dir={records}", f"--train-dir={tmp_path / 'run'}", *NEW_RUN, f"--exclude-scopes={HEAD}"]
    assert train.main(run) == 0
    assert capsys.readouterr().err.count(line) == 1
    assert inspect.main([str(checkpoints / "five"), "--num-classes=3", *words]) == 0
    assert train.main([*run, "--resume", "--max-steps=2"]) == 0
    assert line not in capsys.readouterr().err


def test_a_resumed_run_says_which_flags_on_restoring_it_does_not_follow(tmp_path, records, capsys):
    run, weights = tmp_path / "run", write_run(tmp_path / "weights")
    words = [f"--dataset-dir={records}", f"--train-dir={run}", f"--checkpoint={weights}", *NEW_RUN]
    assert train.main([*words, f"--exclude-scopes={HEAD}"]) == 0
    first = (run / "config.toml").read_text(encoding="utf-8")
    capsys.readouterr()
    assert train.main([*words, f"--exclude-scopes={HEAD}", "--resume", "--max-steps=2"]) == 0
    assert "not followed" not in capsys.readouterr().err
    other = [f"--checkpoint={tmp_path / 'other'}", "--exclude-scopes=CifarNet/fc3", "--grayscale-stem=sum"]
    assert train.main([f"--train-dir={run}", *other, "--resume", "--max-steps=3"]) == 0
    error = capsys.readouterr().err
    assert "--resume: all values come from the run; not followed: --checkpoint, --exclude-scopes, --grayscale-" in error
    assert (run / "config.toml").read_text(encoding="utf-8") == first.replace("max_steps = 1", "max_steps = 3")


def test_evaluating_advises_flags_that_finetune_eval_has(tmp_path, records, checkpoints, capsys):
    words = [f"--dataset-dir={records}", f"--output-dir={tmp_path / 'e'}", "--no-report"]
    for name, given, advised in (
        ("cifarnet", ["--model=cifarnet", "--use-grayscale"], ([], ["--use-grayscale"])),
        ("grey", ["--model=cifarnet"], (["--use-grayscale"], [])),
        ("small", ["--model=cifarnet"], (["--image-size 20"], [])),
        ("lenet", ["--model=cifarnet"], (["--model lenet"], [])),
        ("prefixed", ["--model=cifarnet"], (["--checkpoint-prefix module"], [])),
    ):
        command = [*words, f"--checkpoint={checkpoints / name}", *given]
        assert evaluate.main(command) == 2
        error = capsys.readouterr().err
        assert "scopes" not in error
        assert ways_of(error) == [advised]
        assert evaluate.main(follow(command, *advised)) == 0


# Colour weights for grey images.


def logits_of(model, images):
    return tf.function(lambda x: model(x, is_training=False).logits, autograph=False)(tf.constant(images)).numpy()


def test_a_kernel_summed_over_its_colours_sees_a_grey_image_as_the_colour_network_does(checkpoints):
    checkpoint = Checkpoint(str(checkpoints / "cifarnet"))
    grey, colour = (Model(get_spec("cifarnet"), 3, channels=channels) for channels in (1, 3))
    plans = [
        plan_variables(model.network_variables(), checkpoint_shapes=checkpoint.shapes, sum_colours=model is grey)
        for model in (grey, colour)
    ]
    assert [variable.name for variable in plans[0].variables if variable.sums_colours] == [STEM]
    for model, plan in zip((grey, colour), plans, strict=True):
        model.restore(checkpoint, plan)
    np.testing.assert_array_equal(
        grey.model_variables[STEM].numpy()[:, :, 0], checkpoint.read(STEM).sum(axis=2, dtype=np.float32)
    )
    images = np.random.default_rng(0).uniform(-1, 1, [4, 32, 32, 1]).astype(np.float32)
    expected = logits_of(colour, images.repeat(3, axis=3))
    np.testing.assert_allclose(logits_of(grey, images), expected, atol=1e-5 * np.abs(expected).max())


def test_a_separable_stem_has_no_sum():
    colour = reference_variables("inception_v2")
    stem = "InceptionV2/Conv2d_1a_7x7"
    grey_shapes = {f"{stem}/depthwise_weights": (7, 7, 1, 8), f"{stem}/pointwise_weights": (1, 1, 8, 64)}
    grey = [dataclasses.replace(v, shape=grey_shapes.get(v.name, v.shape)) for v in colour]
    for sum_colours in (False, True):
        with pytest.raises(UserError, match="leave out --use-grayscale") as caught:
            plan_variables(
                grey,
                checkpoint_shapes={variable.name: variable.shape for variable in colour},
                sum_colours=sum_colours,
                purpose=Purpose(is_grayscale=True),
            )
        assert "(and 1 more)" in str(caught.value)
        assert "grayscale-stem" not in str(caught.value)


def test_a_run_on_a_summed_kernel_is_resumed_and_evaluated_as_it_is(tmp_path, records, capsys):
    colour = write_run(tmp_path / "colour")
    run = tmp_path / "grey"
    words = [f"--dataset-dir={records}", f"--train-dir={run}", f"--checkpoint={colour}", *NEW_RUN]
    frozen = ["--use-grayscale", f"--trainable-scopes={HEAD}"]
    assert train.main([*words, *frozen, "--grayscale-stem=sum"]) == 0
    assert f"{STEM} is summed over the colours" in " ".join(capsys.readouterr().err.split())
    summed = open_checkpoint(run).read(STEM)
    np.testing.assert_allclose(summed[:, :, 0], open_checkpoint(colour).read(STEM).sum(axis=2), rtol=1e-6, atol=1e-7)
    assert train.main([f"--train-dir={run}", "--resume", "--max-steps=2"]) == 0
    np.testing.assert_array_equal(open_checkpoint(run / "model.ckpt-2").read(STEM), summed)
    evaluation = [f"--dataset-dir={records}", f"--checkpoint={run}", "--no-report"]
    assert evaluate.main(evaluation) == 0
