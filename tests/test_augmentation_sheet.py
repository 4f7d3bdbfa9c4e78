"""`finetune-inspect --augment`: that it shows what training is given, of which run and stage, and what it refuses."""

import numpy as np
import pytest
from PIL import Image
from tiny_runs import CLASSES

from finetune.commands import inspect, train
from finetune.commands.augmentation_sheet import draw_sheet, sheet_rows, sheet_training
from finetune.datasets.bad_records import reading
from finetune.datasets.pipeline import training_batches
from finetune.errors import UserError
from finetune.evaluation.contact_sheet import contact_sheet_figure
from finetune.evaluation.plots import LIGHT, render
from finetune.settings.inspect import InspectSettings
from finetune.settings.stage import AugmentationSettings
from finetune.training import image_inputs

NUM_RECORDS = 8
NETWORK = ["--model=cifarnet", "--image-size=16", "--preprocessing=inception", "--cache-features=off", "--seed=5"]


def begin(records, run, *words):
    steps = ["--batch-size=4", "--max-steps=2", "--eval-every=0", "--log-every=9", "--optimizer=sgd"]
    return train.main([f"--dataset-dir={records}", f"--train-dir={run}", *NETWORK, *steps, *words])


@pytest.mark.parametrize("augmentation", ["default", "randaugment", "turns"])
def test_a_sheet_shows_what_a_run_was_given(augmentation, records, tmp_path, monkeypatch):
    """The batches of the run's own pipeline, image by image and epoch by epoch, are those of the sheet to the bit."""
    pipelines, sheets = [], []
    training_examples = image_inputs.training_examples

    def noting(dataset, options, **how):
        pipelines.append((dataset, options, {"batch_size": 4, "seed": how["seed"]}))
        return training_examples(dataset, options, **how)

    def noting_rows(images, *numbers):
        sheets.append((images, sheet_rows(images, *numbers)))
        return sheets[-1][1]

    monkeypatch.setattr(image_inputs, "training_examples", noting)
    monkeypatch.setattr("finetune.commands.augmentation_sheet.sheet_rows", noting_rows)
    monkeypatch.setattr("finetune.preprocessing.steps.to_pixels", lambda images, steps: images)
    run = tmp_path / "run"
    assert begin(records, run, f"--augmentation={augmentation}", "--random-erasing=0.5") == 0
    output = tmp_path / "sheet.png"
    assert inspect.main(["--augment", str(run), f"--output={output}", "--num-examples=3", "--num-draws=3"]) == 0
    dataset, options, how = pipelines[0]
    given = {}
    with reading(dataset):
        for step, (images, _, tellings) in enumerate(training_batches(dataset, options, **how).take(6)):
            for image, (number, *_) in zip(images.numpy(), tellings.numpy(), strict=True):
                given[step * 4 // NUM_RECORDS, int(number)] = image
    assert len(given) == 3 * NUM_RECORDS
    ((_, rows),) = sheets
    assert [row.number for row in rows] == [0, 2, 5]
    for row in rows:
        for epoch, draw in enumerate(row.draws):
            np.testing.assert_array_equal(draw, given[epoch, row.number])
    with Image.open(output) as sheet:
        assert sheet.width > 400


def sheet_of(run, **given):
    training, stage = sheet_training(InspectSettings(augment=True, checkpoints=(str(run),), **given))
    return training, stage.augment


def test_the_original_and_the_class_are_the_records(records, tmp_path, monkeypatch):
    found = []

    def noting_rows(images, *numbers):
        found.extend(sheet_rows(images, *numbers))
        return found

    monkeypatch.setattr("finetune.commands.augmentation_sheet.sheet_rows", noting_rows)
    told = draw_sheet(
        InspectSettings(
            augment=True,
            dataset_dir=records,
            model="lenet",
            use_grayscale=True,
            augmentation="none",
            num_examples=20,
            num_draws=1,
            output=tmp_path / "sheet.png",
        )
    )
    assert told.endswith("sheet.png: 8 images of train, 1 epochs; augmentation none")
    assert [row.class_name for row in found] == [CLASSES[number % 3] for number in range(NUM_RECORDS)]
    for row in found:
        height, width, _ = row.original.shape
        top, left = (height - 28) // 2, (width - 28) // 2
        middle = row.original[top : top + 28, left : left + 28]
        np.testing.assert_allclose(row.draws[0], middle, atol=1e-4)


def test_images_are_mixed_with_those_of_the_next_row(records, tmp_path, monkeypatch):
    found = []

    def noting_rows(*what):
        found.append(sheet_rows(*what))
        return found[-1]

    monkeypatch.setattr("finetune.commands.augmentation_sheet.sheet_rows", noting_rows)
    words = ["--model=lenet", "--use-grayscale", "--augmentation=none", f"--output={tmp_path / 'sheet.png'}"]
    assert inspect.main(["--augment", f"--dataset-dir={records}", *words]) == 0
    assert inspect.main(["--augment", f"--dataset-dir={records}", *words, "--mixup=1"]) == 0
    plain, mixed = found
    shares = []
    for row in range(len(plain)):
        following = (row + 1) % len(plain)
        for own, other, blend in zip(plain[row].draws, plain[following].draws, mixed[row].draws, strict=True):
            shares.append(((blend - other) * (own - other)).sum() / ((own - other) ** 2).sum())
            np.testing.assert_allclose(blend, shares[-1] * own + (1 - shares[-1]) * other, atol=1e-3)
    assert len(set(np.round(shares, 4))) > len(shares) / 2


def test_what_is_given_takes_the_place_of_the_runs_own(records, tmp_path):
    run = tmp_path / "run"
    words = ["--augmentation=randaugment", "--randaugment=3,5", "--crop-area=0.5,1", "--random-erasing=0.25"]
    assert begin(records, run, *words) == 0
    training, augmentation = sheet_of(run)
    own = AugmentationSettings(
        augmentation="randaugment", randaugment=(3, 5), crop_area=(0.5, 1.0), random_erasing=0.25
    )
    assert augmentation == own
    assert (training.network.model, training.network.image_size, training.run.seed) == ("cifarnet", 16, 5)
    training, augmentation = sheet_of(run / "config.toml", augmentation="keras", seed=1, model="lenet")
    assert augmentation == AugmentationSettings(augmentation="keras", random_erasing=0.25)
    assert (training.network.model, training.run.seed) == ("lenet", 1)
    training, augmentation = sheet_of(run, random_erasing=0.0, seed=0)
    assert (augmentation.random_erasing, training.run.seed) == (0, 0)


def test_of_a_run_in_stages_one_is_shown(tmp_path):
    config = tmp_path / "stages.toml"
    config.write_text(
        f"dataset_dir = '{tmp_path}'\naugmentation = 'keras'\nresume = true\n"
        "[[stages]]\ntrainable_layers = 'head'\nsteps = 2\naugmentation = 'turns'\n[[stages]]\nsteps = 2\n",
        encoding="utf-8",
    )
    assert sheet_of(config)[1].augmentation == "keras"
    assert [sheet_of(config, stage=number)[1].augmentation for number in (1, 2)] == ["turns", "keras"]
    with pytest.raises(UserError, match="--stage is 3, but the training has 2"):
        sheet_of(config, stage=3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--augment"], "--augment: there are no images to show.\n  Give records by --dataset-dir"),
        (["--augmentation=keras"], "--augmentation would have no effect without --augment"),
        (["--seed=3", "--num-draws=2"], "--num-draws and --seed would have no effect without --augment"),
        (["--augment", "--json", "--dataset-dir=d"], "--json would have no effect with --augment"),
        (["--augment", "--recipe=head", "--model=lenet"], "--exclude-scopes and --recipe would have no effect with"),
        (["--augment", "a", "b"], "--augment takes one run, not 2"),
        (["--augment", "nowhere"], "--augment: there is no nowhere.\n  Name the folder of a run"),
        (["--augment", "--dataset-dir=RECORDS", "--crop-area=0.2,1", "--model=vgg_16"], "of the preprocessing vgg"),
        (["--augment", "--dataset-dir=RECORDS", "--split=nope"], "There is no nope split"),
        (["--augment", "--dataset-dir=RECORDS", "--augmentation=turn"], "Did you mean turns"),
        (["--augment", "--dataset-dir=RECORDS", "--randaugment=2,9"], "Give --augmentation randaugment"),
    ],
)
def test_what_is_refused(words, message, records, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert inspect.main([word.replace("RECORDS", str(records)) for word in words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_file_brings_no_code(tmp_path, capsys):
    config = tmp_path / "settings.toml"
    config.write_text(f"dataset_dir = '{tmp_path}'\nmodel = 'somewhere.module:SPEC'\n", encoding="utf-8")
    assert inspect.main(["--augment", str(config)]) == 2
    assert "that is code, which would be imported" in capsys.readouterr().err


@pytest.mark.parametrize("channels", [1, 3])
def test_the_drawing_has_each_image_where_it_belongs(channels):
    pictures = [
        [np.full([4 + row, 6, channels], 60 * row + 20 * column + 0.4) for column in range(3)] for row in (0, 1)
    ]
    figure = contact_sheet_figure("$title_", ["$a_", "b"], pictures, LIGHT)
    drawn = [axes.get_images()[0].get_array().data.reshape(-1, 6, channels) for axes in figure.axes]
    for shown, picture in zip(drawn, [*pictures[0], *pictures[1]], strict=True):
        np.testing.assert_array_equal(shown, picture.round())
    assert [axes.get_title() for axes in figure.axes] == ["original", "epoch 1", "epoch 2", "", "", ""]
    assert [axes.get_ylabel() for axes in figure.axes] == ["$a_", "", "", "b", "", ""]
    assert render(figure, "png").startswith(b"\x89PNG")
