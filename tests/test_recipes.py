"""Recipes: defaults below what is given, the same for every network; and what each does, for a few steps."""

import dataclasses
import itertools
import json
from pathlib import Path

import pytest
import tomli_w
from reference_networks import SMALL_SIZES
from tiny_runs import CLASSES, write_records, write_run

from finetune import api
from finetune.commands import published_weights, train
from finetune.commands.stages import settings_of_stage, stages_of
from finetune.errors import UserError
from finetune.model.scopes import in_any_scope
from finetune.nets import MODELS, get_spec
from finetune.runs.stage_record import StagePlace
from finetune.settings.recipes import AUTO_SCOPES, DEFAULT_RECIPE, RECIPES
from finetune.settings.settings_file import read_toml, to_toml_table
from finetune.settings.train import TrainSettings

# The smallest of each family; those that take long are left out of the quick round.
FAMILIES = {
    "lenet": ("head", False),
    "cifarnet": ("all", False),
    "mobilenet_v1_025": ("discriminative", False),
    "alexnet_v2": ("discriminative", True),
    "overfeat": ("head", True),
    "vgg_a": ("probe", True),
    "inception_v1": ("head-then-all", True),
    "inception_v3": ("head", True),
    "resnet_v1_50": ("all", True),
    "mobilenet_v2_035": ("last-blocks", True),
    "mobilenet_v3_small": ("last-blocks", True),
}
# Of the same blocks: that recipes find their groups of layers is tested in test_trainable_from.py. Every recipe was
# tried on each of them by hand, for a step a stage.
LIKE = {
    "inception_v2": "inception_v1",
    "inception_v4": "inception_v3",
    "inception_resnet_v2": "inception_v3",
    "mobilenet_edgetpu": "mobilenet_v3",
    "resnet_v2": "resnet_v1",
}
BY_HAND = ("nasnet", "pnasnet")  # A step of their cells takes most of a minute.


def settings(**values):
    return TrainSettings(**{"dataset_dir": Path("records"), "model": "lenet", **values})


def all_stages(trained, num_images=100):
    """The settings of each stage of a training, one after the other."""
    first_step, told = 0, []
    for index in range(len(stages_of(trained))):
        told.append(settings_of_stage(trained, StagePlace(index, first_step), num_images).stage)
        first_step = told[-1].max_steps
    return told


# Defaults


def test_what_is_given_wins_over_a_recipe():
    plain = settings(recipe="head")
    assert (plain.stage.update.optimizer, plain.stage.trainable_layers) == ("adam", "head")
    assert plain.network.exclude_scopes == AUTO_SCOPES
    given = settings(recipe="head", optimizer="sgd", learning_rate=0.5, exclude_scopes=())
    assert (given.stage.update.optimizer, given.stage.schedule.learning_rate) == ("sgd", 0.5)
    assert given.network.exclude_scopes == ()
    assert given.stage.epochs == plain.stage.epochs


@pytest.mark.parametrize(
    ("values", "left"),
    [
        ({"max_steps": 7}, {"epochs": None, "max_steps": 7, "trainable_layers": "head"}),
        ({"trainable_scopes": ("LeNet/fc3",)}, {"trainable_layers": None, "trainable_scopes": ("LeNet/fc3",)}),
        ({"freeze_until": "conv1"}, {"trainable_layers": None, "freeze_until": "conv1"}),
    ],
)
def test_another_way_of_saying_it_takes_the_place_of_the_recipes(values, left):
    stage = settings(recipe="head", **values).stage
    assert {name: getattr(stage, name) for name in left} == left


def test_a_settings_file_and_flags_lie_above_a_recipe(tmp_path, monkeypatch):
    (tmp_path / "own.toml").write_text("learning_rate = 0.25\nepochs = 3\n", encoding="utf-8")
    trained = []
    monkeypatch.setattr(train, "train_run", lambda settings, *_, **__: trained.append(settings) or result(settings))
    weights = write_run(tmp_path / "weights", "lenet", image_size=8)
    words = ["--dataset-dir=records", "--model=lenet", f"--checkpoint={weights}", "--recipe=head"]
    assert train.main([*words, f"--config={tmp_path / 'own.toml'}", "--epochs=4"]) == 0
    stage = trained[0].stage
    assert (stage.schedule.learning_rate, stage.epochs, stage.update.optimizer) == (0.25, 4, "adam")


def result(settings):
    return train.TrainResult(settings.run.folder, 0, "", None, None)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_comes_back_from_toml_without_its_name(name, tmp_path):
    recipe = settings(recipe=name)
    (tmp_path / "config.toml").write_text(tomli_w.dumps(to_toml_table(recipe)), encoding="utf-8")
    read = TrainSettings(**read_toml(TrainSettings, tmp_path / "config.toml"))
    assert read.course.recipe is None
    assert dataclasses.replace(read, course=dataclasses.replace(read.course, recipe=name)) == recipe


def test_settings_that_are_made_take_no_recipe_any_more():
    """It would take the place of what was given when they were made."""
    with pytest.raises(TypeError, match="not below a whole group: course, devices, network, stage"):
        dataclasses.replace(settings(learning_rate=0.5), recipe="head")


def test_a_run_that_goes_on_follows_no_recipe():
    resumed = settings(recipe="head", resume=True, train_dir=Path("run"))
    assert resumed.stage == settings().stage


def test_photographs_have_the_default_recipe_unless_it_is_said_what_is_trained():
    def of_photographs(**values):
        return TrainSettings(images_dir=Path("photos"), **values).course.recipe

    assert of_photographs() == DEFAULT_RECIPE
    assert of_photographs(seed=3, model="lenet") == DEFAULT_RECIPE
    assert TrainSettings(photographs=("photos",)).course.recipe == DEFAULT_RECIPE
    assert of_photographs(recipe="head") == "head"
    assert of_photographs(recipe="none") == "none"
    assert of_photographs(max_steps=3, learning_rate=0.01) == DEFAULT_RECIPE
    for said in ({"trainable_scopes": ("a",)}, {"exclude_scopes": ()}, {"freeze_until": "a"}, {"stages": ()}):
        assert of_photographs(**said) is None  # Who gives slim's flags gets slim's defaults.
    assert of_photographs(checkpoint=Path("none")) is None
    assert settings().course.recipe is None


def test_a_recipe_that_is_none(capsys):
    assert train.main(["--dataset-dir=records", "--recipe=hed"]) == 2
    assert "--recipe is 'hed', not one of probe, head" in capsys.readouterr().err
    assert settings(recipe="none").stage == settings().stage


def test_without_a_checkpoint_a_recipe_begins_from_the_published_weights(monkeypatch, tmp_path):
    monkeypatch.setattr(published_weights, "obtain_published", lambda name, folder: folder / name)
    for name, expected in (("head", True), ("none", False)):
        found = published_weights.with_published_weights(settings(model="mobilenet_v1", recipe=name))
        assert (found.network.checkpoint is not None) == expected
    with pytest.raises(UserError, match="No weights of lenet were published"):
        published_weights.with_published_weights(settings(recipe="head"))


# By a network's record alone


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("model", MODELS)
def test_what_a_recipe_trains_of_every_network(model, recipe):
    spec = get_spec(model)
    stages = all_stages(settings(model=model, recipe=recipe))
    assert set(stages[0].trainable_scopes) == set(spec.head_scopes)  # A random head is never trained with the rest.
    for before, after in itertools.pairwise(stages):
        assert len(after.trainable_scopes or spec.layer_groups) > 0
        assert after.trainable_scopes == () or set(before.trainable_scopes) <= set(after.trainable_scopes)
    for stage in stages:
        assert stage.trainable_scopes == () or all(in_any_scope(s, stage.trainable_scopes) for s in spec.head_scopes)
    if recipe in ("head-then-all", "all", "discriminative"):
        assert stages[-1].trainable_scopes == ()
    if recipe == "last-blocks":
        assert 0 < len(stages[-1].trainable_scopes) < len([s for group in spec.layer_groups for s in group])


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_stage_has_an_end_and_a_rate_that_falls_to_nothing(recipe):
    for stage in all_stages(settings(recipe=recipe)):
        assert stage.max_steps is not None
        assert stage.probe or (stage.schedule.learning_rate_decay_type, stage.schedule.end_learning_rate) == (
            "cosine",
            0,
        )


# A few steps


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipes") / "records"
    write_records(folder, num_images=6)
    return write_records(folder, num_images=12, split="train")


def image_size(model):
    sizes = (size for family, size in SMALL_SIZES.items() if model.startswith(family))
    small = {"lenet": 28, "cifarnet": 32, "mobilenet_v1_025": 64, "alexnet_v2": 180}
    return small.get(model) or next(sizes, get_spec(model).image_size * 3 // 4)


def shortened(recipe):
    """The recipe's stages, but of one step each where they are of more."""
    trained = settings(recipe=recipe)
    stages = [
        dataclasses.replace(stage, steps=0 if told.probe else 1, own=without_length(stage))
        for stage, told in zip(stages_of(trained), all_stages(trained), strict=True)
    ]
    length = {"stages": tuple(stages)} if trained.course.stages else {"max_steps": stages[0].steps}
    return {"epochs": None, **length}


def without_length(stage):
    return {name: value for name, value in stage.own.items() if name not in ("epochs", "max_steps")}


def run_recipe(recipe, model, data, folder):
    weights = folder / "weights"
    weights.mkdir()
    write_run(weights, model, classes=("other", *CLASSES), image_size=image_size(model))
    return api.train(
        TrainSettings(
            dataset_dir=data,
            train_dir=folder / "run",
            model=model,
            checkpoint=weights,
            image_size=image_size(model),
            batch_size=2,
            recipe=recipe,
            log_every=1,
            **shortened(recipe),
        )
    )


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_for_a_few_steps(recipe, data, tmp_path):
    result = run_recipe(recipe, "lenet", data, tmp_path)
    assert result.best_accuracy is not None
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())["variables"]
    assert all(row["source"] is None for row in plan if "fc4" in row["name"]) == (recipe in ("probe", "head"))
    assert result.step == sum(stage.steps for stage in shortened(recipe).get("stages", ())) + shortened(recipe).get(
        "max_steps", 0
    )


@pytest.mark.parametrize(
    ("model", "recipe"),
    [
        pytest.param(model, recipe, marks=[pytest.mark.slow] if is_slow else [])
        for model, (recipe, is_slow) in FAMILIES.items()
    ],
)
def test_a_recipe_on_every_family_of_networks(model, recipe, data, tmp_path):
    """One each, those that train little for the networks that take long."""
    result = run_recipe(recipe, model, data, tmp_path)
    assert result.best_accuracy is not None


def test_every_family_is_there():
    here = {family_of(get_spec(name)) for name in FAMILIES}
    assert {family_of(spec) for spec in MODELS.values()} == {*here, *LIKE, *BY_HAND}
    assert {family_of(get_spec(name)) for name in FAMILIES} >= set(LIKE.values())


def family_of(spec):
    return spec.function.partition(":")[0].rpartition(".")[2]


def test_stages_of_a_recipe_are_resumed(data, tmp_path):
    """From its probe on, as a program that was killed there would be."""
    run_recipe("all", "lenet", data, tmp_path)
    whole = (tmp_path / "run" / "stages.json").read_bytes()
    assert train.main(["--resume", f"--train-dir={tmp_path / 'run'}", "--verify"]) == 0
    for path in (tmp_path / "run").glob("model.ckpt-1.*"):
        path.unlink()
    assert train.main(["--resume", f"--train-dir={tmp_path / 'run'}"]) == 0
    assert (tmp_path / "run" / "stages.json").read_bytes() == whole
    assert train.main(["--resume", f"--train-dir={tmp_path / 'run'}", "--verify"]) == 0
