"""Groups at conversion, `--group-by`: what they are known by, and that each is in one split and one fold."""

import json
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from image_files import encode, picture, write_file

from finetune.commands import convert, train
from finetune.commands.convert import convert as convert_images
from finetune.datasets.dataset import usable_records
from finetune.datasets.dataset_search import find_dataset
from finetune.datasets.folds import assign_folds
from finetune.datasets.groups import joined
from finetune.datasets.records import GROUP, Record, encode_record, file_name_of, read_feature
from finetune.datasets.splits import deal, divide_groups
from finetune.datasets.tfrecord import RecordWriter, read_records
from finetune.errors import UserError
from finetune.settings.convert import ConvertSettings
from finetune.settings.group_rule import GroupRule


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    """Two classes, twelve patients with three images of each, and a table of them."""
    root = tmp_path_factory.mktemp("patients")
    lines = ["filename,label,patient"]
    for number in range(72):
        name, patient = "ab"[number % 2], number // 6
        path = f"{name}/p{patient:02d}_{number}.jpg"
        write_file(root / "images" / path, encode(picture(number)))
        lines.append(f"{path},{name},p{patient:02d}")
    write_file(root / "table.csv", "\n".join(lines).encode())
    return root


def run(root, folder, *words, table=False):
    words = (f"--labels-csv={root / 'table.csv'}", *words) if table else words
    return convert.main([f"--images-dir={root / 'images'}", f"--dataset-dir={folder}", "--workers=1", *words])


def records_of(folder):
    """From each file to its split and group."""
    found = {}
    for path in sorted(folder.glob("*.tfrecord")):
        for record in read_records(path):
            group = read_feature(record, GROUP)
            found[file_name_of(record)] = path.name.split("_")[-2], group.values[0].decode() if group else ""
    return found


@pytest.mark.parametrize(
    ("words", "table"),
    [
        (["--group-by=(p[0-9]+)_"], False),
        (["--group-by=regex:p[0-9]+"], False),
        (["--group-by=patient"], True),
        (["--group-by=column:Patient"], True),
    ],
)
def test_a_patient_is_in_one_split(words, table, patients, tmp_path, capsys):
    words += ["--validation-fraction=0.25", "--test-fraction=0.25", "--strict"]
    assert run(patients, tmp_path / "out", *words, table=table) == 0
    splits = defaultdict(set)
    for file, (split, group) in records_of(tmp_path / "out").items():
        assert group == re.search("p[0-9]+", file)[0]
        splits[group].add(split)
    assert Counter(split for (split,) in splits.values()) == {"train": 6, "validation": 3, "test": 3}
    described = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert described["splits"]["validation"]["num_examples_per_class"] == {"a": 9, "b": 9}
    assert described["groups"]["count"] == 12
    assert "validation has 18 images of 18 asked for" in " ".join(capsys.readouterr().out.split())


def test_another_seed_draws_others(patients, tmp_path):
    drawn = set()
    for seed in range(3):
        run(patients, tmp_path / str(seed), "--group-by=p[0-9]+", f"--seed={seed}")
        drawn.add(frozenset(group for split, group in records_of(tmp_path / str(seed)).values() if split != "train"))
    assert len(drawn) > 1


def test_a_group_larger_than_validation_stays_in_train(patients, tmp_path, capsys):
    words = ("--group-by=(p0)|p1.", "--validation-fraction=0.1")
    assert run(patients, tmp_path / "out", *words) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "group has more images than a split was to have (p0: 60)" in text
    assert {split for split, group in records_of(tmp_path / "out").values() if group == "p0"} == {"train"}
    assert run(patients, tmp_path / "strict", *words, "--strict") == 2
    assert not (tmp_path / "strict").exists()


@pytest.mark.parametrize(
    ("word", "table", "message"),
    [
        ("p0[0-9]_", False, r"12 of 72 images have no group: .*a/p10_60.jpg"),
        ("regex:(p0", False, "no regular expression"),
        ("(p0", False, "no regular expression"),
        ("column:patient", False, "there is no table"),
        ("column:pateint", True, r"has no column pateint.\n  Did you mean patient"),
        ("pateint", True, "There is no column pateint in --labels-csv either"),
        ("column:", True, "names nothing"),
        ("regex:", False, "names nothing"),
        ("jpg", False, "all 72 images are in one group"),
    ],
)
def test_what_names_no_groups_is_refused(word, table, message, patients, tmp_path, capsys):
    assert run(patients, tmp_path / "out", f"--group-by={word}", table=table) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_word_that_may_be_either_is_refused(patients, tmp_path, capsys):
    text = (patients / "table.csv").read_text().replace(",patient", ",jpg")
    table = write_file(tmp_path / "table.csv", text.encode())
    words = (f"--labels-csv={table}",)
    assert run(patients, tmp_path / "out", *words, "--group-by=jpg") == 2
    assert "column:jpg or regex:jpg" in capsys.readouterr().err
    assert run(patients, tmp_path / "out", *words, "--group-by=column:jpg") == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [("a/p00_0.jpg,a,", "1 of the 73 rows .* have no patient"), ("a/p00_0.jpg,a,p05", "gives different groups")],
)
def test_tables_that_say_no_group_are_refused(line, message, patients, tmp_path, capsys):
    table = write_file(tmp_path / "table.csv", f"{(patients / 'table.csv').read_text()}\n{line}".encode())
    assert run(patients, tmp_path / "out", f"--labels-csv={table}", "--group-by=column:patient") == 2
    assert re.search(message, capsys.readouterr().err)


def test_splits_that_divide_a_group_are_refused(tmp_path, capsys):
    for number in range(12):
        split = "train" if number < 8 else "validation"
        write_file(tmp_path / "images" / split / "ab"[number % 2] / f"p{number % 7}.jpg", encode(picture(number)))
    assert run(tmp_path, tmp_path / "out", "--group-by=p[0-9]") == 2
    message = capsys.readouterr().err
    assert "4 of 7 groups are in more than one split" in message
    assert "p1: train, validation" in message
    assert run(tmp_path, tmp_path / "out", "--group-by=[a-z]+/[a-z]/p[0-9]") == 0


def test_groups_and_copies_are_joined(patients, tmp_path):
    root = tmp_path / "images"
    for path in (patients / "images").rglob("*.jpg"):
        write_file(root / path.relative_to(patients / "images"), path.read_bytes())
    write_file(root / "a" / "p11_99.jpg", (root / "a" / "p00_0.jpg").read_bytes())
    words = ("--group-by=p[0-9]+", "--on-duplicate=same-split")
    assert run(tmp_path, tmp_path / "out", *words) == 0
    found = records_of(tmp_path / "out")
    assert {group for file, (_, group) in found.items() if "p00" in file or "p11" in file} == {"p00"}
    assert len({split for split, group in found.values() if group == "p00"}) == 1


def test_shares_together_are_one_job(patients, tmp_path):
    words = ("--group-by=column:patient", "--dataset-name=set")
    run(patients, tmp_path / "one", *words, table=True)
    for share in (2, 1):
        run(patients, tmp_path / "all", *words, f"--shard={share}/2", table=True)
    assert run(patients, tmp_path / "all", "--dataset-name=set", "--merge-shards=2", table=True) == 2
    assert run(patients, tmp_path / "all", *words, "--merge-shards=2", table=True) == 0
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "all" / path.name).read_bytes()


def test_files_are_joined_by_groups_and_pairs():
    groups = {"x": "1", "y": "1", "z": "2", "1": "3"}
    assert joined(groups, [("y", "z"), ("v", "w")]) == {"x": "1", "y": "1", "z": "1", "1": "3", "v": "v", "w": "v"}
    assert joined({}, [("b", "c"), ("a", "c"), ("e", "d")]) == {"a": "a", "b": "a", "c": "a", "d": "d", "e": "d"}


@pytest.mark.parametrize("seed", range(5))
def test_divisions_are_near_to_what_was_asked_for(seed):
    drawn = np.random.RandomState(seed)
    group_of = {f"{number}": f"g{drawn.randint(60)}" for number in range(600)}
    classes = {name: [] for name in "abc"}
    for file, group in group_of.items():
        likely = [0.7, 0.15, 0.15] if int(group[1:]) % 2 else [0.1, 0.1, 0.8]
        classes["abc"[drawn.choice(3, p=likely)]].append(file)
    wanted = {name: len(files) // 5 for name, files in classes.items()}
    splits = divide_groups(classes, group_of, seed=seed, validation=wanted, test=wanted)
    split_of = {group_of[file]: split for split, of in splits.items() for files in of.values() for file in files}
    assert sum(len(files) for of in splits.values() for files in of.values()) == 600
    for split, of in splits.items():
        assert all(split_of[group_of[file]] == split for files in of.values() for file in files)
    for name, number in wanted.items():
        assert abs(len(splits["validation"][name]) - number) <= 6
        assert abs(len(splits["test"][name]) - number) <= 6
    reversed_classes = {name: files[::-1] for name, files in reversed(classes.items())}
    again = divide_groups(reversed_classes, group_of, seed=seed, validation=wanted, test=wanted)
    assert {split: {name: sorted(of[name]) for name in "abc"} for split, of in again.items()} == {
        split: {name: sorted(of[name]) for name in "abc"} for split, of in splits.items()
    }


def test_images_by_themselves_are_divided_as_asked():
    classes = {"a": [f"a{number}" for number in range(37)], "b": [f"b{number}" for number in range(11)]}
    numbers = {"a": 7, "b": 2}
    splits = divide_groups(classes, {"a0": "g", "a1": "g"}, seed=0, validation=numbers, test=numbers)
    assert {name: len(files) for name, files in splits["validation"].items()} == numbers
    assert {name: len(files) for name, files in splits["test"].items()} == numbers


def test_every_class_keeps_something_to_train_on():
    classes = {"a": ["a0", "a1", "a2"], "b": ["b0", "b1"]}
    groups = {"a0": "x", "a1": "x", "a2": "x", "b0": "x", "b1": "x"}
    splits = divide_groups(classes, groups, seed=0, validation={"a": 2, "b": 1}, test={"a": 0, "b": 0})
    assert splits == {"train": {"a": ["a0", "a1", "a2"], "b": ["b0", "b1"]}}


def test_units_are_dealt_where_most_is_missing():
    units = [Counter(a=1), Counter(a=3), Counter(b=2), Counter(a=2)]
    assert deal(units, [{"a": 3, "b": 1}, {"a": 3, "b": 1}]) == [1, 0, 1, 1]


def write_grouped(folder, order):
    """Records of ten groups of three, and of six images that are in none, in an order."""
    folder.mkdir()
    with RecordWriter(folder / "made_train_00000-of-00001.tfrecord") as writer:
        for number in order:
            group = f"g{number // 3}" if number < 30 else ""
            record = Record(encode(picture(number)), "jpg", number % 2, 32, 40, f"{number:02d}.jpg", None, group)
            writer.write(encode_record(record))
    (folder / "labels.txt").write_text("0:a\n1:b\n")
    return find_dataset(folder, None, "train")


def fold_by_name(dataset, folds):
    names = [file_name_of(stored.data) for shard in dataset.shards for stored in usable_records(shard)]
    return dict(zip(names, folds.of_records(dataset).tolist(), strict=True))


def test_folds_keep_groups_together(tmp_path):
    dataset = write_grouped(tmp_path / "one", range(36))
    folds = assign_folds(dataset, 3, seed=0)
    fold_of = fold_by_name(dataset, folds)
    for group in range(10):
        assert len({fold_of[f"{3 * group + index:02d}.jpg"] for index in range(3)}) == 1
    assert folds.counts.sum(axis=1).tolist() == [12, 12, 12]
    assert np.ptp(folds.counts, axis=0).max() <= 1
    other = write_grouped(tmp_path / "other", np.random.RandomState(0).permutation(36))
    assert fold_by_name(other, assign_folds(other, 3, seed=0)) == fold_of
    assert fold_by_name(dataset, assign_folds(dataset, 3, seed=1)) != fold_of
    with pytest.raises(UserError, match="has 16 groups, or images that are in none"):
        assign_folds(dataset, 17, seed=0)


def test_copies_of_an_image_join_groups_in_folds(tmp_path):
    with RecordWriter(tmp_path / "made_train_00000-of-00001.tfrecord") as writer:
        for number in range(12):
            content = encode(picture(0 if number in (0, 11) else number))
            writer.write(
                encode_record(Record(content, "jpg", number % 2, 32, 40, str(number), None, f"g{number // 3}"))
            )
    (tmp_path / "labels.txt").write_text("0:a\n1:b\n")
    dataset = find_dataset(tmp_path, None, "train")
    fold_of = fold_by_name(dataset, assign_folds(dataset, 2, seed=0))
    assert len({fold_of[str(number)] for number in (0, 1, 2, 9, 10, 11)}) == 1


def test_training_on_photographs_groups_them(patients, tmp_path, monkeypatch, capsys):
    """Up to the records: what is trained on them is the affair of others."""
    made = []

    def convert_only(settings):
        made.append(settings)
        raise UserError("enough")

    monkeypatch.setattr("finetune.commands.photographs.convert", convert_only)
    words = [str(patients / "table.csv"), f"--train-dir={tmp_path / 'run'}", "--model=lenet", "--checkpoint=none"]
    assert train.main([*words, "--group-by=column:patient"]) == 2
    assert [settings.group_by for settings in made] == ["column:patient"]
    assert train.main([f"--dataset-dir={tmp_path}", f"--train-dir={tmp_path}", "--group-by=p"]) == 2
    assert "--group-by is of photographs" in capsys.readouterr().err


def test_rules_say_what_they_are():
    assert GroupRule.of_text("patient", has_table=True) == GroupRule("patient", "patient")
    assert GroupRule.of_text("patient", has_table=False) == GroupRule("", "patient")
    assert GroupRule.of_text("column: patient", has_table=True) == GroupRule("patient", "")
    assert GroupRule.of_text("regex:column:p", has_table=True) == GroupRule("", "column:p")


def test_group_names_survive_from_python(patients, tmp_path):
    settings = ConvertSettings(dataset_dir=tmp_path / "out", images_dir=patients / "images", group_by="p[0-9]+")
    grouping = convert_images(settings).grouping
    assert (grouping.num_groups, grouping.num_images, grouping.wanted["validation"]) == (12, 72, 14)
