"""Paths with a scheme: copies of what lies there, made the same, and a run on a local S3 from images to predictions."""

import dataclasses
import errno
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from moto.server import ThreadedMotoServer
from several_workers import finish, start
from test_commands import write_colour_folders
from test_flag_rules import ALL_FLAGS, COMMANDS
from tiny_runs import write_records, write_run

from finetune import api
from finetune.commands import command, convert, evaluate, export, import_weights, inspect, predict, train
from finetune.commands.copies import copies_of
from finetune.errors import UserError
from finetune.model.checkpoint import Checkpoint
from finetune.model.checkpoint_names import BEST_FILE
from finetune.remote import mirror as mirrors
from finetune.remote import session, store
from finetune.remote.mirror import Mirror
from finetune.remote.notes import NOTES_FILE
from finetune.remote.urls import CACHE_VARIABLE, cache_root, is_url, local_path, named, url_of, with_urls
from finetune.runs.run_folder import DESCRIBING_FILES
from finetune.settings.command_line import parse_flags, words_of
from finetune.settings.evaluate import EvalSettings
from finetune.settings.flags import checked
from finetune.settings.inspect import InspectSettings
from finetune.settings.predict import PredictSettings
from finetune.settings.settings_file import read_toml, to_toml_table
from finetune.settings.train import TrainSettings

BUCKET = "tests"
URL = f"s3://{BUCKET}"
NETWORK = ["--model=lenet", "--image-size=8", "--batch-size=8", "--num-preprocessing-threads=1"]
STEPS = ["--optimizer=adam", "--learning-rate-decay-type=fixed", "--max-to-keep=1", "--eval-every=3"]
PLACE = "memory://box/run"
# Of a path flag something that is a path for it.
WORDS = {"output": "p.csv", "plot": "n.png", "features": "f.npz"}
# Flags that mean nothing by themselves.
WITH = {"nearest_to": ["--nearest=1"], "explain_dir": ["--explain=gradcam"]}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty folder of copies, and nothing in memory."""
    folder = tmp_path / "cache"
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    MemoryFileSystem.store.clear()
    return folder


@pytest.fixture(scope="module")
def server():
    """A service like Amazon's, of this process alone."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3(server, monkeypatch):
    """A bucket there, by s3fs."""
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    files = fsspec.filesystem("s3", use_listings_cache=False)
    files.mkdir(BUCKET)
    yield files
    files.rm(BUCKET, recursive=True)


@pytest.fixture
def memory():
    """The file system of fsspec in this process."""
    return fsspec.filesystem("memory")


def mirror(url=PLACE, **options):
    return Mirror(local_path(url, "--train-dir"), pause=lambda seconds: None, **options)


def put(files, name, content, url=PLACE):
    files.pipe_file(f"{url}/{name}", content)


def write(name, content, url=PLACE):
    path = local_path(url, "--train-dir") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def there(files, url=PLACE):
    prefix = url.partition("://")[2]
    return {name.lstrip("/").removeprefix(f"{prefix}/"): files.cat_file(name) for name in files.find(prefix)}


def here(url=PLACE):
    folder = local_path(url, "--train-dir")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# URLs


def test_a_url_and_its_copy_say_each_other(cache):
    for url in ("s3://bucket/a/b.c", "gs://bucket", "hdfs://host:8020/user/x", "abfs://box@account.dfs/x"):
        copy = local_path(url, "--train-dir")
        assert copy.is_relative_to(cache)
        assert url_of(copy) == named(copy) == url
        assert with_urls(f"see '{copy}/x', {copy}") == f"see '{url}/x', {url}"
    assert local_path("S3://bucket/a/", "-") == local_path("s3://bucket/a", "-")
    assert local_path("file:///data/x", "-") == local_path("file://localhost/data/x", "-") == Path("/data/x")
    assert url_of(cache) is url_of(cache / NOTES_FILE) is url_of(cache.parent / "x") is url_of("x") is None
    assert named("photos/x") == "photos/x"
    assert not any(map(is_url, ("a", "/s3/b", "C:/x", "a:b", "://x", "./s3://x")))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("s3://", "empty part"),
        ("s3:///key", "empty part"),
        ("s3://b//c", "empty part"),
        ("s3://b/../c", "no name of a folder"),
        ("s3://../x", "no name of a folder"),
        ("s3://b/./c", "no name of a folder"),
        ("s3://b/c?versionId=1", "queries"),
        ("s3://b/c#x", "queries"),
        ("s3://user:secret@b/c", "a user or a password"),
        ("s3://user@b/c", "a user or a password"),
        ("abfs://user:secret@b/c", "a user or a password"),
        ("simplecache::s3://b/c", ""),
        ("zip://x::s3://b/c", "several in one"),
        ("https://host/x", "has no folders"),
        ("file://host/x", "names no folder of this machine"),
        ("s3://b/" + 300 * "x", "a name of 300 bytes"),
    ],
)
def test_urls_that_are_refused(url, reason):
    if not is_url(url):  # A path like any other.
        assert TrainSettings(train_dir=url, dataset_dir="d").run.train_dir == Path(url)
        return
    with pytest.raises(UserError, match=f"--train-dir[\\s\\S]*{reason}"):
        TrainSettings(train_dir=url, dataset_dir="d")


def test_a_url_that_has_lost_its_slashes():
    with pytest.raises(UserError, match="Write both slashes"):
        TrainSettings(train_dir=Path("s3://b/run"), dataset_dir="d")


# Flags

PATH_FLAGS = [(command, flag) for command, flag in ALL_FLAGS if flag.kind is Path or flag.is_path]


@pytest.mark.parametrize(("command", "flag"), PATH_FLAGS, ids=lambda each: each if isinstance(each, str) else each.name)
def test_every_path_may_be_a_url(command, flag):
    """By each way to say it, and back; what is done there is said by the flag itself."""
    settings_class, _, required = COMMANDS[command]
    assert flag.access in ("read", "restore", "write", "save")
    url = f"s3://b/{WORDS.get(flag.name, 'x')}"
    values = [url] * (flag.num_values or 1)
    value = checked(flag, values if flag.is_list else url)
    assert {url_of(path) for path in (value if flag.is_list else [value])} == {url}
    given = [f"--{name.replace('_', '-')}={value}" for name, value in required.items() if name != flag.name]
    more = {"augment": ["--augment", "--dataset-dir=d"], "output": ["--augment", "--dataset-dir=d"]}
    given += more.get("augment", []) if command == "inspect" and flag.name in ("output", "dataset_dir") else []
    given += WITH.get(flag.name, [])
    given += ["--model=lenet"] if command == "inspect" and flag.name == "plot" else []
    given = [word for word in given if not word.startswith(f"{flag.option}=")] if not flag.positional else given
    given = [] if command == "train" and (flag.positional or flag.name == "images_dir") else given
    words = [*given, *values] if flag.positional else [*given, flag.option, *values]
    settings = parse_flags(settings_class, words, prog="x", description="")
    assert url in words_of(settings)
    assert any(url_of(copy.place) == url for copy in copies_of(settings))


def test_a_config_holds_urls(cache, tmp_path, monkeypatch):
    settings = TrainSettings(dataset_dir="s3://b/records", train_dir="s3://b/run", checkpoint="s3://b/w.ckpt")
    table = to_toml_table(settings)
    assert [table[name] for name in ("dataset_dir", "train_dir", "checkpoint")] == [
        "s3://b/records",
        "s3://b/run",
        "s3://b/w.ckpt",
    ]
    config = tmp_path / "config.toml"
    config.write_text('dataset_dir = "s3://b/records"\n', encoding="utf-8")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "another"))  # Of another machine.
    assert read_toml(TrainSettings, config)["dataset_dir"] == tmp_path / "another" / "s3" / "b" / "records"
    config.write_text('dataset_dir = "s3://b/../../x"\n', encoding="utf-8")
    with pytest.raises(UserError, match="no name of a folder"):
        read_toml(TrainSettings, config)


def test_what_is_copied():
    def copies(settings):
        return {
            (url_of(copy.place), copy.is_written, copy.beside is not None)
            for copy in copies_of(settings)
            if url_of(copy.place)
        }

    begun = TrainSettings(dataset_dir="s3://b/r", train_dir="s3://b/run", checkpoint="s3://b/w")
    assert copies(begun) == {("s3://b/r", False, False), ("s3://b/run", True, False), ("s3://b/w", False, True)}
    assert copies(dataclasses.replace(begun, resume=True)) == {
        ("s3://b/r", False, False),
        ("s3://b/run", True, False),
    }
    other = dataclasses.replace(begun, workers=("a:1", "b:1"), worker_index=1)
    assert ("s3://b/run", False, False) in copies(other)  # The chief sends.
    photographs = TrainSettings(images_dir="s3://b/p/t.csv", train_dir="s3://b/runs/a")
    assert {("s3://b/p", False, False), ("s3://b/runs/records", True, False)} < copies(photographs)
    with pytest.raises(UserError, match="a sweep keeps a database"):
        copies_of(dataclasses.replace(begun, sweep=("learning_rate=0.1|0.2",)))
    scored = EvalSettings(dataset_dir="r", checkpoint=["s3://b/run"])
    assert copies(scored) == {
        ("s3://b/run", False, True),
        ("s3://b/run/eval_validation", True, False),
        ("s3://b/eval_validation", True, False),
    }
    predicted = PredictSettings(checkpoint="c", images=("s3://b/p/*/[ab].jpg",), output="s3://b/o.csv", shard="1/2")
    assert copies(predicted) == {
        ("s3://b/p", False, False),
        ("s3://b/o.csv", True, False),
        ("s3://b/.finetune-shares-o.csv", True, False),
    }


def test_nothing_is_loaded_before_there_is_a_url():
    """Nor a folder made."""
    code = (
        "import sys; from finetune.commands import train;"
        "train.main(['--dataset-dir=nowhere', '--train-dir=x', '--worker-index=1']);"
        "sys.exit(any(name in sys.modules for name in ('fsspec', 's3fs', 'sqlite3')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--worker-index" in done.stderr
    assert not cache_root().exists()


# Both sides


def test_both_sides_become_the_same(memory):
    put(memory, "a", b"1")
    put(memory, "sub/b", b"2")
    put(memory, ".hidden", b"-")
    memory.pipe_file("memory://box/running/c", b"-")
    assert mirror().make_same() == []
    assert here() == {"a": b"1", "sub/b": b"2"}
    assert not list((cache_root() / ".partial").iterdir())

    put(memory, "a", b"changed there")
    write("sub/b", b"changed here")
    write("new", b"3")
    write("model.ckpt-1.index.partial", b"-")
    unsent = mirror().make_same()
    assert [path.name for path in unsent] == ["new", "b"]
    assert here()["a"] == b"changed there"
    assert there(memory)["sub/b"] == b"2"
    mirror(is_sent=True).make_same()
    assert there(memory) == {"a": b"changed there", "sub/b": b"changed here", "new": b"3", ".hidden": b"-"}

    (local_path(PLACE, "-") / "a").unlink()  # To free room: it is fetched again.
    memory.rm_file(f"{PLACE}/sub/b")
    mirror(is_sent=True).make_same()
    assert here() == {"a": b"changed there", "new": b"3", "model.ckpt-1.index.partial": b"-"}
    assert not (local_path(PLACE, "-") / "sub").exists()


def test_what_has_changed_on_both_sides_is_left_alone(memory):
    put(memory, "a", b"1")
    put(memory, "b", b"1")
    mirror().make_same()
    put(memory, "a", b"theirs")
    put(memory, "c", b"theirs alone")
    write("a", b"mine")
    memory.rm_file(f"{PLACE}/b")
    write("b", b"mine, too")
    with pytest.raises(UserError, match="2 files have changed there and here") as refused:
        mirror(is_sent=True).make_same()
    assert there(memory) == {"a": b"theirs", "c": b"theirs alone"}
    assert here() == {"a": b"mine", "b": b"mine, too"}
    # The advice, as a terminal shows it, mends.
    (command,) = re.findall(r"rm -r .*", with_urls(str(refused.value)))
    subprocess.run(command, shell=True, check=True)
    mirror(is_sent=True).make_same()
    assert there(memory) == here() == {"a": b"theirs", "c": b"theirs alone"}


@pytest.mark.parametrize("is_noted", [True, False])
def test_what_was_done_before_a_kill_is_no_difference(memory, is_noted):
    """Sent or fetched, and not noted any more: the content tells."""
    put(memory, "a", b"1")
    if is_noted:
        mirror().make_same()
    put(memory, "a", b"the same")
    write("a", b"the same")
    mirror(is_sent=True).make_same()
    put(memory, "a", b"next")
    mirror(is_sent=True).make_same()
    assert here() == {"a": b"next"}


def test_a_checkpoint_by_its_prefix(memory):
    for name in ("model.ckpt-1", "model.ckpt-10"):
        put(memory, f"{name}.index", b"i")
        put(memory, f"{name}.data-00000-of-00001", b"d")
    put(memory, "config.toml", b"c")
    put(memory, "other.json", b"-")
    put(memory, "sub/config.toml", b"-")
    prefix = f"{PLACE}/model.ckpt-1"
    mirror(prefix).make_same()
    assert here() == {}
    mirror(prefix, beside=DESCRIBING_FILES).make_same()
    assert here() == {"model.ckpt-1.index": b"i", "model.ckpt-1.data-00000-of-00001": b"d", "config.toml": b"c"}
    put(memory, "config.toml", b"c2")
    mirror(prefix, beside=DESCRIBING_FILES).make_same()
    assert here()["config.toml"] == b"c2"
    assert BEST_FILE in DESCRIBING_FILES


def test_one_file(memory):
    memory.pipe_file("memory://box/labels.txt", b"0:a")
    memory.pipe_file("memory://box/labels.txt.old", b"-")
    mirror("memory://box/labels.txt").make_same()
    assert [path.name for path in (cache_root() / "memory" / "box").iterdir()] == ["labels.txt"]


@pytest.mark.parametrize("key", ["../../x", "a//b", "sub/./x", "sub/../x"])
def test_hostile_keys(memory, monkeypatch, key):
    listed = {f"/box/run/{key}": {"name": f"/box/run/{key}", "size": 1, "type": "file", "created": 1}}
    monkeypatch.setattr(MemoryFileSystem, "find", lambda *args, **options: listed)
    with pytest.raises(UserError, match="Rename it there"):
        mirror().make_same()
    assert not (cache_root() / "memory").exists()


def test_a_file_that_is_a_folder_too(memory, monkeypatch):
    names = ["/box/run/a", "/box/run/a/b"]
    listed = {name: {"name": name, "size": 1, "type": "file", "created": 1} for name in names}
    monkeypatch.setattr(MemoryFileSystem, "find", lambda *args, **options: listed)
    monkeypatch.setattr(MemoryFileSystem, "get_file", lambda self, key, path, **options: Path(path).write_bytes(b"1"))
    with pytest.raises(UserError, match="is a file and a folder there"):
        mirror().make_same()


def test_only_the_prefix_is_listed(memory, monkeypatch):
    put(memory, "a", b"1")
    listed = []
    for name in ("find", "ls"):
        original = getattr(MemoryFileSystem, name)
        monkeypatch.setattr(
            MemoryFileSystem,
            name,
            lambda self, path, *args, original=original, **options: (
                listed.append(path) or original(self, path, *args, **options)
            ),
        )
    mirror().make_same()
    assert listed
    assert all(path.startswith("/box/run") for path in listed)


def test_what_a_killed_program_left_of_a_file(memory):
    put(memory, "a", b"1")
    partials = cache_root() / ".partial"
    partials.mkdir(parents=True)
    for name, age in (("old", 2 * 86_400), ("new", 60)):
        (partials / name).touch()
        os.utime(partials / name, (time.time() - age,) * 2)
    mirror().make_same()
    assert [path.name for path in partials.iterdir()] == ["new"]


def test_too_little_room(memory, monkeypatch):
    put(memory, "a", b"12345")
    monkeypatch.setattr(mirrors.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 6, 4))
    with pytest.raises(UserError, match=r"room for [\s\S]*FINETUNE_REMOTE_CACHE"):
        mirror().make_same()
    assert here() == {}


def test_notes_that_are_damaged(memory):
    put(memory, "a", b"1")
    mirror().make_same()
    (cache_root() / NOTES_FILE).write_bytes(b"no database at all, but long enough to be one" * 100)
    with pytest.raises(UserError, match="Remove it"):
        mirror()
    (cache_root() / NOTES_FILE).unlink()
    mirror().make_same()
    assert here() == {"a": b"1"}


# Connections


def failing(monkeypatch, name, num_failures, error):
    """Has an operation of the file system in memory fail so often, after some bytes."""
    original, left = getattr(MemoryFileSystem, name), [num_failures]

    def fail(self, *args, **options):
        if left[0]:
            left[0] -= 1
            if name == "get_file":
                Path(args[1]).write_bytes(b"ha")
            raise error
        return original(self, *args, **options)

    monkeypatch.setattr(MemoryFileSystem, name, fail)


@pytest.mark.parametrize("operation", ["find", "get_file", "put_file"])
def test_a_dropped_connection_is_tried_again(memory, monkeypatch, caplog, operation):
    put(memory, "a", b"half")
    write("b", b"mine")
    pauses = []
    failing(monkeypatch, operation, 3, ConnectionResetError("the other end hung up"))
    Mirror(local_path(PLACE, "-"), is_sent=True, pause=pauses.append).make_same()
    assert here() == there(memory) == {"a": b"half", "b": b"mine"}
    assert pauses == [0.5, 1, 2]
    assert caplog.text.count("the other end hung up; trying again") == 3


@pytest.mark.parametrize(
    ("error", "num_tries"), [(TimeoutError("too slow"), store.NUM_TRIES), (PermissionError("not you"), 1)]
)
def test_what_stays_broken_is_told(memory, monkeypatch, error, num_tries):
    put(memory, "a", b"1")
    pauses = []
    failing(monkeypatch, "get_file", 100, error)
    with pytest.raises(UserError, match=str(error)):
        Mirror(local_path(PLACE, "-"), pause=pauses.append).make_same()
    assert len(pauses) == num_tries - 1
    assert here() == {}


def test_a_file_that_is_gone_when_it_is_fetched(memory, monkeypatch):
    """As of a run that is trained elsewhere: it is listed anew."""
    put(memory, "old", b"1")
    put(memory, "new", b"2")
    original = MemoryFileSystem.get_file

    def get_file(self, key, *args, **options):
        if key.endswith("old"):
            self.rm_file(key)
        return original(self, key, *args, **options)

    monkeypatch.setattr(MemoryFileSystem, "get_file", get_file)
    mirror().make_same()
    assert here() == {"new": b"2"}


# Sending


@pytest.fixture
def observed(monkeypatch):
    """What lies there after each change of it."""
    states = []
    for name in ("put_file", "rm_file"):
        original = getattr(MemoryFileSystem, name)

        def changed(self, *args, original=original, **options):
            original(self, *args, **options)
            states.append({path.removeprefix("/box/run/") for path in self.find("/box/run")})

        monkeypatch.setattr(MemoryFileSystem, name, changed)
    return states


def checkpoint(step):
    write(f"model.ckpt-{step}.data-00000-of-00001", b"d%d" % step)
    write(f"model.ckpt-{step}.index", b"i%d" % step)
    write("best.json", b'"model.ckpt-%d"' % step)
    write("checkpoint", b"model.ckpt-%d" % step)


def test_a_reader_never_sees_an_index_without_its_data(memory, observed):
    of_run = mirror(is_sent=True, left_out=("features",))
    of_run.make_same()
    checkpoint(1)
    write("features/x", b"-")
    write(".lock", b"-")
    of_run.send_changes(is_end=True)
    checkpoint(2)
    for name in ("model.ckpt-1.index", "model.ckpt-1.data-00000-of-00001"):
        (local_path(PLACE, "-") / name).unlink()
    of_run.send_changes(is_end=True)
    assert len(observed) == 4 + 4 + 2
    for state in observed:
        whole = {name.removesuffix(".index") for name in state if name.endswith(".index")}
        assert {f"{prefix}.data-00000-of-00001" for prefix in whole} <= state
        assert bool(whole) or "best.json" not in state
    assert observed[-1] == {"best.json", "checkpoint", "model.ckpt-2.index", "model.ckpt-2.data-00000-of-00001"}


def test_what_is_just_being_put_in_place_waits(memory, monkeypatch):
    of_run = mirror(is_sent=True)
    of_run.make_same()
    checkpoint(1)
    of_run.send_changes()
    assert set(there(memory)) == {"model.ckpt-1.data-00000-of-00001"}  # Others may be about to appear.
    monkeypatch.setattr(mirrors, "SECONDS_OF_AGE", -1.0)
    of_run.send_changes()
    assert len(there(memory)) == 4
    path = local_path(PLACE, "-") / "best.json"
    content = path.read_bytes()
    path.unlink()  # As when it is replaced.
    of_run.send_changes()
    path.write_bytes(content)
    of_run.send_changes()
    assert len(there(memory)) == 4
    path.unlink()
    of_run.send_changes()
    of_run.send_changes()
    assert "best.json" not in there(memory)


def test_a_copy_that_is_removed_while_a_command_works_is_not_removed_there(memory):
    put(memory, "a", b"1")
    of_run = mirror(is_sent=True)
    of_run.make_same()
    shutil.rmtree(local_path(PLACE, "-"))
    of_run.send_changes()
    of_run.send_changes()
    of_run.send_changes(is_end=True)
    assert there(memory) == {"a": b"1"}


def test_what_another_program_put_there_stays(memory):
    of_run = mirror(is_sent=True)
    of_run.make_same()
    put(memory, "theirs", b"1")
    of_run.send_changes(is_end=True)
    assert there(memory) == {"theirs": b"1"}


def copy_of(**options):
    return session.Copy(local_path(PLACE, "-"), **options)


def test_it_is_sent_while_a_command_works(memory, monkeypatch):
    monkeypatch.setattr(session, "SECONDS_BETWEEN_LOOKS", 0.01)
    with session.at_hand([copy_of(is_written=True)]):
        write("a", b"1")
        for _ in range(500):
            if there(memory):
                break
            session.threading.Event().wait(0.01)
        assert there(memory) == {"a": b"1"}
        write("b", b"2")
    assert there(memory) == {"a": b"1", "b": b"2"}


def test_an_error_does_not_keep_what_is_there_from_being_sent(memory, monkeypatch, caplog):
    with pytest.raises(KeyboardInterrupt), session.at_hand([copy_of(is_written=True)]):
        write("a", b"1")
        raise KeyboardInterrupt
    assert there(memory) == {"a": b"1"}
    failing(monkeypatch, "put_file", 100, PermissionError("not you"))
    with pytest.raises(KeyboardInterrupt), session.at_hand([copy_of(is_written=True)]):
        write("a", b"2")
        raise KeyboardInterrupt
    assert "not you" in caplog.text


def test_what_can_not_be_sent_is_told_and_not_lost(memory, monkeypatch):
    with pytest.raises(UserError, match="not you") as told, session.at_hand([copy_of(is_written=True)]):
        write("a", b"1")
        monkeypatch.setattr(MemoryFileSystem, "put_file", None)
        failing(monkeypatch, "put_file", 100, PermissionError("not you"))
    where = re.search(r"the copy is (\S+),", with_urls(str(told.value)))[1]
    assert (Path(where) / "a").read_bytes() == b"1"
    assert there(memory) == {}
    monkeypatch.undo()
    monkeypatch.setenv(CACHE_VARIABLE, str(Path(where).parents[2]))
    with session.at_hand([copy_of(is_written=True)]):
        assert there(memory) == {"a": b"1"}


def test_a_second_program_takes_the_copy_as_it_is(memory, caplog):
    put(memory, "a", b"1")
    with session.at_hand([copy_of(is_written=True)]):
        write("a", b"2")
        put(memory, "b", b"-")
        with session.at_hand([copy_of(), session.Copy(local_path(f"{PLACE}/sub", "-"), is_written=True)]):
            assert here() == {"a": b"2"}
            write("sub/c", b"3")
    assert caplog.text.count("another program here is at work with it") == 2
    assert there(memory) == {"a": b"2", "b": b"-", "sub/c": b"3"}


# Commands


def test_a_missing_package(monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    assert inspect.main(["gs://bucket/run"]) == 2
    assert "pip install 'slim-finetune[remote]' gcsfs" in capfd.readouterr().err
    monkeypatch.setitem(sys.modules, "fsspec", None)
    monkeypatch.delitem(sys.modules, "finetune.remote.store")
    monkeypatch.delitem(sys.modules, "finetune.remote.mirror")
    assert inspect.main(["s3://bucket/run"]) == 2
    assert "pip install 'slim-finetune[s3]'" in capfd.readouterr().err


def test_mistakes_on_s3(s3, capfd, monkeypatch):
    assert inspect.main(["s3://nowhere/run"]) == 2
    assert "bucket does not exist" in capfd.readouterr().err
    assert inspect.main([f"{URL}/run"]) == 2
    assert f"there is no checkpoint {URL}/run" in capfd.readouterr().err
    assert train.main(["--dataset-dir=d", "--train-dir=s3://nowhere/run"]) == 2
    assert "Make the bucket first" in capfd.readouterr().err
    assert train.main(["--resume", f"--train-dir={URL}/run"]) == 2
    assert capfd.readouterr().err
    assert train.main(["--dataset-dir=d", f"--train-dir={URL}/run", "--log-dir=s3://b/x"]) == 2
    assert "a folder of this machine" in capfd.readouterr().err
    assert inspect.main(["nosuch://b/x"]) == 2
    assert "nosuch" in capfd.readouterr().err
    assert inspect.main([f"--model={URL}/m.keras"]) == 2
    assert "from this machine alone" in capfd.readouterr().err


def test_a_copy_that_finds_no_room_says_where_it_is(capfd, monkeypatch):
    copy = local_path(f"{PLACE}/a", "-")

    def write(settings):
        raise OSError(errno.ENOSPC, "No space left on device", str(copy))

    run = command.run_command(InspectSettings, write, prog="x", description="", argv=["--models"])
    error = capfd.readouterr().err
    assert run == 2
    assert f"{PLACE}/a can't be written: No space left on device" in error
    assert f"That is the copy on this machine, in {cache_root()};" in error


@pytest.mark.slow
def test_a_training_on_s3(s3, cache, tmp_path, capfd, monkeypatch):
    """By URL alone, on machines that are lost or killed: the weights are those of an unbroken local run."""
    s3.put(str(write_colour_folders(tmp_path / "images")), f"{BUCKET}/images", recursive=True)
    s3.put(str(write_run(tmp_path / "weights", "lenet", image_size=8)), f"{BUCKET}/weights", recursive=True)
    records, run = f"{URL}/records", f"{URL}/runs/a"
    assert convert.main([f"--images-dir={URL}/images", f"--dataset-dir={records}", "--workers=1"]) == 0
    data = [f"--dataset-dir={records}", f"--checkpoint={URL}/weights/model.ckpt-7", "--exclude-scopes=auto"]
    begin = [*data, *NETWORK, *STEPS]
    assert train.main([*begin, f"--train-dir={run}", "--max-steps=3"]) == 0
    assert f"step 3: {run}/model.ckpt-3" in capfd.readouterr().out
    shutil.rmtree(cache)  # Another machine,
    with monkeypatch.context() as killed:  # that is killed before anything is sent,
        killed.setattr(Mirror, "send_changes", lambda self, **options: None)
        assert train.main(["--resume", f"--train-dir={run}", "--max-steps=6"]) == 0
    assert f"{BUCKET}/runs/a/model.ckpt-6.index" not in s3.find(f"{BUCKET}/runs/a")
    assert train.main(["--resume", f"--train-dir={run}", "--max-steps=9"]) == 0  # and comes back.
    shutil.rmtree(cache)
    assert train.main([*begin, f"--train-dir={tmp_path / 'unbroken'}", "--max-steps=9"]) == 0
    s3.get(f"{BUCKET}/runs/a", str(tmp_path / "broken"), recursive=True)
    checkpoints = [Checkpoint(str(tmp_path / name / "model.ckpt-9")) for name in ("unbroken", "broken")]
    assert checkpoints[0].shapes == checkpoints[1].shapes
    for name in checkpoints[0].shapes:
        np.testing.assert_array_equal(*(each.read(name) for each in checkpoints), err_msg=name)
    assert {path.name for path in (tmp_path / "broken").glob("*.index")} == {
        path.name for path in (tmp_path / "unbroken").glob("*.index")
    }
    nothing_of_this_machine(s3, cache)

    shutil.rmtree(cache)
    capfd.readouterr()
    assert evaluate.main([f"--checkpoint={run}", f"--dataset-dir={records}"]) == 0
    assert f"written to {run}/eval_validation/report.html" in capfd.readouterr().out
    assert s3.exists(f"{run}/eval_validation/metrics.json")
    assert evaluate.main(["--compare", run, f"{run}/model.ckpt-9", f"--dataset-dir={records}"]) == 0
    assert train.main(["--resume", "--verify", f"--train-dir={run}"]) == 0
    assert inspect.main([run]) == 0
    assert f"checkpoint: {run}/model.ckpt-" in capfd.readouterr().out
    nothing_of_this_machine(s3, cache)


@pytest.mark.slow
def test_workers_of_two_machines(s3, tmp_path):
    """Each has copies of its own, in which it goes on with a run of one machine; worker 0 alone sends."""
    s3.put(str(write_records(tmp_path / "records", num_images=16, split="train")), f"{BUCKET}/records", recursive=True)
    run = f"--train-dir={URL}/run"
    assert train.main([f"--dataset-dir={URL}/records", run, *NETWORK, *STEPS, "--max-steps=2"]) == 0
    caches = [{CACHE_VARIABLE: str(tmp_path / name)} for name in ("first", "second")]
    words = ["--resume", run, "--global-batch-size=8", "--max-steps=4"]
    for status, out, error in finish(start(words, 2, of_each=caches)):
        assert status == 0, (out, error)
        assert re.search(rf"Fetching \d+ files, 3.8 MB, from {URL}/run\n", error)
        assert "Traceback" not in error
    assert s3.exists(f"{BUCKET}/run/model.ckpt-4.index")
    assert not (tmp_path / "second" / "s3" / BUCKET / "run" / "model.ckpt-4.index").exists()


def test_prediction_and_export_on_s3(s3, cache, tmp_path, capfd):
    s3.put(str(write_run(tmp_path / "run", "lenet", image_size=8)), f"{BUCKET}/run", recursive=True)
    s3.put(str(write_records(tmp_path / "records")), f"{BUCKET}/records", recursive=True)
    words = [f"--checkpoint={URL}/run/model.ckpt-7", f"{URL}/records/images/*0.jpg", f"--output={URL}/out/p.csv"]
    assert predict.main(words) == 0
    rows = s3.cat(f"{BUCKET}/out/p.csv").decode().splitlines()
    assert [row.partition(",")[0] for row in rows[1:]] == [
        f"{URL}/records/images/validation_{number}.jpg" for number in ("00", "10")
    ]
    for share in ("1/2", "2/2"):
        assert predict.main([*words, f"--shard={share}"]) == 0
        shutil.rmtree(cache)  # Each on a machine of its own.
    s3.rm_file(f"{BUCKET}/out/p.csv")
    assert predict.main([*words, "--merge-shards=2"]) == 0
    merged = s3.cat(f"{BUCKET}/out/p.csv").decode().splitlines()
    assert [row.partition(",")[0] for row in merged] == [row.partition(",")[0] for row in rows]
    assert s3.find(f"{BUCKET}/out") == [f"{BUCKET}/out/p.csv"]  # The shares are gone.
    assert export.main([f"--checkpoint={URL}/run", f"--dataset-dir={URL}/records", f"--output-dir={URL}/served"]) == 0
    assert s3.exists(f"{URL}/served/saved_model.pb")
    assert export.main([f"--checkpoint={URL}/run", f"--output-dir={URL}/served"]) == 2
    assert f"{URL}/served" in capfd.readouterr().err
    nothing_of_this_machine(s3, cache)


def nothing_of_this_machine(s3, cache):
    for name in s3.find(BUCKET):
        assert str(cache).encode() not in s3.cat(name), name


def test_weights_are_imported_to_a_url(memory, tmp_path, capfd):
    for path in write_run(tmp_path / "run").iterdir():
        put(memory, path.name, path.read_bytes())
    words = [f"{PLACE}/model.ckpt-7", "--model=cifarnet", "--output=memory://box/new/w.ckpt"]
    assert import_weights.main(words) == 0
    assert "memory://box/new/w.ckpt: " in capfd.readouterr().out
    assert set(there(memory, "memory://box/new")) == {"w.ckpt.index", "w.ckpt.data-00000-of-00001"}
    shutil.rmtree(cache_root())
    assert import_weights.main(words) == 2
    assert "the checkpoint memory://box/new/w.ckpt exists" in capfd.readouterr().err


def test_what_a_run_names_is_fetched(memory, tmp_path, capfd):
    """Its records, for a sheet of what they are made; its own settings, as a file of them."""
    for path in write_run(tmp_path / "run", dataset_dir="memory://box/records", split="validation").iterdir():
        put(memory, path.name, path.read_bytes())
    for path in write_records(tmp_path / "records").glob("*.*"):
        memory.pipe_file(f"memory://box/records/{path.name}", path.read_bytes())
    assert inspect.main(["--augment", PLACE, "--output=memory://box/sheets/a.png"]) == 0
    assert "memory://box/sheets/a.png: 4 images" in capfd.readouterr().out
    assert memory.exists("/box/sheets/a.png")
    shutil.rmtree(cache_root())
    words = [f"--config={PLACE}/config.toml", f"--train-dir={tmp_path / 'new'}", "--max-steps=1", "--batch-size=4"]
    assert train.main([*words, "--eval-every=0", "--eval-split=validation"]) == 0


@pytest.mark.slow
def test_photographs_by_url(memory, tmp_path):
    """Their records lie beside the run there, with which it goes on elsewhere."""
    memory.put(str(write_colour_folders(tmp_path / "photos")), "/box/photos", recursive=True)
    words = ["memory://box/photos", f"--train-dir={PLACE}", *NETWORK, *STEPS, "--checkpoint=none", "--no-report"]
    assert train.main([*words, "--max-steps=2"]) == 0
    records = {Path(name).parent.name for name in memory.find("/box/records")}
    assert len(records) == 1
    shutil.rmtree(cache_root())
    assert train.main(["--resume", f"--train-dir={PLACE}", "--max-steps=3"]) == 0
    assert "model.ckpt-3.index" in there(memory)


def test_from_python(memory, tmp_path):
    run = write_run(tmp_path / "run")
    for path in run.iterdir():
        memory.pipe_file(f"memory://box/run/{path.name}", path.read_bytes())
    data = write_records(tmp_path / "records")
    chosen = {"threshold": "max-f1", "positive_class": "red"}
    result = api.evaluate(api.EvalSettings(checkpoint=[PLACE], dataset_dir=data, report=False, **chosen))
    assert named(result.output_dir) == f"{PLACE}/eval_validation"
    assert "eval_validation/metrics.json" in there(memory)
    assert "decision.json" in there(memory)
