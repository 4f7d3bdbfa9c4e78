"""Near duplicates at conversion: found among other pictures, told, refused, or kept in one split."""

import csv
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from image_files import encode, write_class_folders, write_file
from PIL import Image

from finetune.commands import convert
from finetune.commands.convert import convert as convert_images
from finetune.datasets import near_duplicates
from finetune.datasets.image_rules import DEFAULT_RULES
from finetune.datasets.near_duplicates import find_near_pairs, similarity_of
from finetune.datasets.picture_prints import MIRRORED, NUM_HASHES, SMALL_PIXELS, WHOLE, take_prints
from finetune.datasets.records import GROUP, file_name_of, read_feature
from finetune.datasets.tfrecord import read_records
from finetune.errors import UserError
from finetune.files.shares import SHARES_FOLDER
from finetune.settings.convert import ConvertSettings

BENCHMARKS = Path(__file__).parents[1] / "scripts" / "benchmarks"
# Of the photographs of fritillaries and pansies, as they look to the eye.
OWN_PAIRS = {("image_0646", "image_0679"), ("image_0671", "image_0693"), ("image_0674", "image_0698")}
NEAR = ("--find-near-duplicates", "--workers=1")


@pytest.fixture
def benchmark(monkeypatch):
    """The script that plants copies."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("near_duplicates")


def detailed(seed):
    """A picture with shapes of all sizes, another for each seed."""
    noise = np.random.RandomState(seed)
    layers = [
        Image.fromarray(noise.randint(0, 256, [cells, cells, 3]).astype(np.uint8)).resize((120, 90))
        for cells in (3, 6, 12, 24, 48)
    ]
    return Image.fromarray(np.mean([np.asarray(layer) for layer in layers], axis=0).astype(np.uint8))


def write_pictures(root, number=12):
    """Two classes of PNG files."""
    for index in range(number):
        write_file(root / "ab"[index % 2] / f"{index:02d}.png", encode(detailed(index), "PNG"))
    return root


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Twelve pictures, four near copies among them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        benchmark = importlib.import_module("near_duplicates")
    root = write_pictures(tmp_path_factory.mktemp("planted") / "images")
    return root, benchmark.plant_copies(root, 4, seed=3)


def run(root, folder, *words):
    return convert.main([f"--images-dir={root}", f"--dataset-dir={folder}", "--dataset-name=set", *words])


def rows_of(folder):
    with (folder / "near_duplicates.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def pairs_of(rows):
    return {tuple(sorted((row["file"], row["other_file"]))) for row in rows}


def records_of(folder):
    """From each file to its split and group."""
    found = {}
    for path in sorted(folder.glob("*.tfrecord")):
        for record in read_records(path):
            group = read_feature(record, GROUP)
            found[file_name_of(record)] = path.name.split("_")[1], group.values[0].decode() if group else ""
    return found


def test_copies_are_told_with_pictures(planted, tmp_path, capsys):
    root, pairs = planted
    assert run(root, tmp_path / "out", *NEAR, "--seed=1") == 0
    rows = rows_of(tmp_path / "out")
    assert pairs_of(rows) == pairs
    split_of = {file: split for file, (split, _) in records_of(tmp_path / "out").items()}
    for row in rows:
        assert (row["split"], row["other_split"]) == (split_of[row["file"]], split_of[row["other_file"]])
        assert row["class"] == row["file"][0]
        assert 0.5 <= float(row["similarity"]) <= 1
    num_apart = sum(row["split"] != row["other_split"] for row in rows)
    assert 0 < num_apart < len(rows)
    assert [row["split"] != row["other_split"] for row in rows] == sorted(
        (row["split"] != row["other_split"] for row in rows), reverse=True
    )
    assert f"Near duplicates: {len(pairs)} pairs in {tmp_path / 'out' / 'near_duplicates.html'}" in (
        " ".join(capsys.readouterr().out.split())
    )
    described = json.loads((tmp_path / "out" / "dataset.json").read_text())["near_duplicates"]
    assert (described["pairs"], described["in_different_splits"]) == (len(pairs), num_apart)
    sheet = (tmp_path / "out" / "near_duplicates.html").read_text()
    assert sheet.count("data:image/jpeg;base64,") == 2 * len(pairs)
    assert sheet.count("different splits</b>") == num_apart


def test_records_are_what_they_are_without_the_look(planted, tmp_path):
    root, _ = planted
    run(root, tmp_path / "told", *NEAR)
    run(root, tmp_path / "not", "--workers=1")
    for path in (tmp_path / "not").glob("*.tfrecord"):
        assert path.read_bytes() == (tmp_path / "told" / path.name).read_bytes()
    assert not (tmp_path / "not" / "near_duplicates.csv").exists()


def test_they_are_kept_in_one_split(planted, tmp_path):
    root, pairs = planted
    for seed in range(3):
        assert run(root, tmp_path / str(seed), *NEAR, "--on-duplicate=same-split", f"--seed={seed}", "--strict") == 0
        found = records_of(tmp_path / str(seed))
        for first, second in pairs:
            assert found[first] == found[second]
            assert found[first][1] == min(first, second)
        assert sum(bool(group) for _, group in found.values()) == 2 * len(pairs)
    assert len({json.dumps(records_of(tmp_path / str(seed))) for seed in range(3)}) > 1


def test_they_are_refused_by_name(planted, tmp_path, capsys):
    root, pairs = planted
    assert run(root, tmp_path / "out", *NEAR, "--on-duplicate=fail", "--seed=1") == 2
    message = capsys.readouterr().err
    assert any(first in message and second in message for first, second in pairs)
    assert "--on-duplicate same-split" in message
    assert not (tmp_path / "out").exists()
    assert run(root, tmp_path / "out", *NEAR, "--on-duplicate=same-split", "--seed=1") == 0


def test_splits_that_are_given_stay_as_they_are(tmp_path, capsys):
    for split in ("train", "validation"):
        for index in range(4):
            seed = index if split == "train" or index == 0 else 10 + index
            options = {"quality": 60} if split == "train" else {"quality": 90}
            write_file(tmp_path / "in" / split / "ab"[index % 2] / f"{index}.jpg", encode(detailed(seed), **options))
    assert run(tmp_path / "in", tmp_path / "out", *NEAR, "--on-duplicate=same-split") == 2
    message = capsys.readouterr().err
    assert "train/a/0.jpg (train) ~ validation/a/0.jpg (validation)" in message
    assert "nothing is moved" in message
    assert not (tmp_path / "out").exists()
    assert run(tmp_path / "in", tmp_path / "out", *NEAR) == 0


def test_copies_alone_need_no_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "imagehash", None)
    root = write_class_folders(tmp_path / "in", a=10, b=10)
    for name in ("000", "001", "002"):
        write_file(root / "a" / f"x{name}.jpg", (root / "a" / f"{name}.jpg").read_bytes())
    assert run(root, tmp_path / "near", *NEAR) == 2
    assert "pip install 'slim-finetune[duplicates]'" in capsys.readouterr().err
    assert not (tmp_path / "near").exists()
    seed = next(
        seed
        for seed in range(9)
        if convert_images(ConvertSettings(dataset_dir=tmp_path / f"{seed}", images_dir=root, seed=seed)).duplicates
    )
    assert run(root, tmp_path / "fail", "--on-duplicate=fail", f"--seed={seed}") == 2
    assert " = " in capsys.readouterr().err
    assert run(root, tmp_path / "out", "--on-duplicate=same-split", f"--seed={seed}", "--strict") == 0
    assert not (tmp_path / "out" / "near_duplicates.csv").exists()


def test_lists_of_an_earlier_conversion_go(planted, tmp_path):
    root, _ = planted
    run(root, tmp_path / "out", *NEAR)
    assert run(root, tmp_path / "out", "--overwrite", "--workers=1") == 0
    assert not list((tmp_path / "out").glob("near_duplicates.*"))


@pytest.mark.parametrize("mode", ["warn", "same-split"])
def test_shares_together_are_one_job(planted, tmp_path, mode):
    root, _ = planted
    words = (*NEAR, f"--on-duplicate={mode}", "--seed=1")
    assert run(root, tmp_path / "one", *words) == 0
    for share in (1, 2):
        assert run(root, tmp_path / "all", *words, f"--shard={share}/2") == 0
    assert run(root, tmp_path / "all", *words, "--merge-shards=2") == 0
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "all").iterdir() if path.name != SHARES_FOLDER)
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "all" / name).read_bytes()


def test_similarity_without_near_duplicates_is_refused(tmp_path):
    with pytest.raises(UserError, match="--find-near-duplicates"):
        ConvertSettings(dataset_dir=tmp_path, duplicate_similarity=0.9)


def small(image):
    return np.asarray(image.convert("L").resize((SMALL_PIXELS, SMALL_PIXELS), Image.Resampling.BOX))


def test_similarity_is_of_crops_and_mirror_images():
    image = detailed(0)
    crops = [image.crop(box) for box in ((0, 0, 120, 90), (10, 2, 118, 88), (3, 8, 119, 90))]
    for crop in (*crops, *(crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for crop in crops)):
        assert similarity_of(small(image), small(crop)) > 0.8
        assert similarity_of(small(crop), small(image)) > 0.8
        assert similarity_of(small(detailed(1)), small(crop)) < 0.4


def test_pictures_without_content_are_no_duplicates(tmp_path):
    for index, grey in enumerate((10, 11, 200, 201)):
        write_file(tmp_path / f"{index}.png", encode(Image.new("L", (50, 40), grey), "PNG"))
    files = [f"{index}.png" for index in range(4)]
    prints = take_prints(files, tmp_path, DEFAULT_RULES, near=True, num_workers=1, on_progress=lambda number: None)
    assert prints.hashes.shape == (4, NUM_HASHES)
    found = find_near_pairs(
        prints.hashes, prints.small, least_similarity=0.1, num_threads=1, on_progress=lambda number: None
    )
    assert len(found.first) == 0


def test_candidates_are_those_of_a_plain_search(monkeypatch):
    """Whatever the blocks."""
    monkeypatch.setattr(near_duplicates, "ROWS", 7)
    monkeypatch.setattr(near_duplicates, "COLUMNS", 11)
    monkeypatch.setattr(near_duplicates, "MOST_BITS", 20)
    random_hashes = np.random.RandomState(0).randint(0, 256, [40, NUM_HASHES, 8]).astype(np.uint8)
    hashes = random_hashes.view(np.uint64)[..., 0]
    has_content = np.arange(40) % 5 != 0
    with near_duplicates.ThreadPoolExecutor(2) as executor:
        found = near_duplicates._find_candidates(hashes, has_content, executor, lambda number: None)

    def distance(first, second):
        return min(
            int(one[window] ^ other[whole]).bit_count()
            for one, other in ((hashes[first], hashes[second]), (hashes[second], hashes[first]))
            for window in range(MIRRORED)
            for whole in (WHOLE, MIRRORED)
        )

    plain = {
        (first, second, distance(first, second))
        for first in range(40)
        for second in range(first + 1, 40)
        if has_content[first] and has_content[second] and distance(first, second) <= 20
    }
    assert len(plain) > 20
    assert {tuple(map(int, row)) for row in found} == plain


def test_each_picture_has_the_nearest_candidates_only(monkeypatch):
    monkeypatch.setattr(near_duplicates, "MOST_CANDIDATES", 3)
    hashes = np.zeros([10, NUM_HASHES], np.uint64)
    hashes[6:] = 1
    with near_duplicates.ThreadPoolExecutor(1) as executor:
        found = near_duplicates._find_candidates(hashes, np.ones(10, bool), executor, lambda number: None)
    assert [second for first, second, _ in found if first == 4] == [5, 6, 7]
    assert max(np.bincount(found[:, 0])) == 3


def test_copies_of_real_photographs_are_found(shared_dir, tmp_path, benchmark):
    """All 720 are the affair of scripts/benchmarks/near_duplicates.py."""
    for name in ("fritillary", "pansy"):
        for path in (shared_dir / "data/flowers12/images" / name).iterdir():
            write_file(tmp_path / name / path.name, path.read_bytes())
    own = benchmark.pairs_in(tmp_path)
    assert {tuple(Path(file).stem for file in pair) for pair in own} == OWN_PAIRS
    planted = benchmark.plant_copies(tmp_path, 20, seed=0)
    pairs = benchmark.pairs_in(tmp_path)
    true = benchmark.joined({}, own | planted)
    assert len(planted & pairs) >= 18
    assert sum(true.get(first, first) != true.get(second, second) for first, second in pairs) <= 2
