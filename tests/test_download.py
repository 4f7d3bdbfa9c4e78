"""Downloads: what a server can do wrong, what an archive can, and what is kept."""

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from broken_server import serving
from PIL import Image

from finetune.commands.download import download, main
from finetune.errors import UserError
from finetune.files.whole_files import sha256
from finetune.nets import MODELS
from finetune.published import archives, cache, http_download, obtain
from finetune.published.archives import unpack
from finetune.published.cache import fetch
from finetune.published.catalogue import catalogue, get_published
from finetune.published.obtain import find_checkpoint
from finetune.settings.download import DownloadSettings

CONTENT = np.random.RandomState(0).bytes(300_000)
OTHER_CONTENT = CONTENT[::-1]
FILE = "/models/file.bin"
MOBILENET = "/models/mobilenet_v1_2018_02_22/mobilenet_v1_1.0_224.tgz"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(http_download, "FIRST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(cache, "SHA256", {})  # The files here are others than were published.
    with serving() as server:
        server.files[FILE] = CONTENT
        server.etags[FILE] = '"first"'
        yield server


def fetch_plainly(server, path):
    http_download.download(server.url + FILE, path)
    return path.read_bytes()


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def tar_of(**files):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
    return content.getvalue()


def test_broken_off_download_goes_on_where_it_stopped(server, tmp_path):
    server.break_off_after = 120_000
    assert fetch_plainly(server, tmp_path / "file") == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, "bytes=120000-", "bytes=240000-"]
    assert names_in(tmp_path) == ["file"]


def test_download_goes_on_in_another_process(server, tmp_path):
    def interrupt(seconds):
        raise KeyboardInterrupt

    server.break_off_after = 100_000
    with pytest.raises(KeyboardInterrupt):
        http_download.download(server.url + FILE, tmp_path / "file", pause=interrupt)
    assert not (tmp_path / "file").exists()
    server.break_off_after = None
    assert fetch_plainly(server, tmp_path / "file") == CONTENT
    assert server.requests[-1] == (FILE, "bytes=100000-")


@pytest.mark.parametrize("ignores_range", [False, True])
def test_file_that_changes_while_it_is_fetched_is_started_over(server, tmp_path, ignores_range):
    def change():
        if len(server.requests) == 2:
            server.files[FILE], server.etags[FILE] = OTHER_CONTENT, '"second"'
            server.break_off_after = None

    server.on_request = change
    server.break_off_after = 120_000
    server.ignores_range = ignores_range
    assert fetch_plainly(server, tmp_path / "file") == OTHER_CONTENT


def test_without_a_version_nothing_is_pieced_together(server, tmp_path):
    del server.etags[FILE]
    server.break_off_after = 120_000

    def recover():
        if len(server.requests) == 2:
            server.break_off_after = None

    server.on_request = recover
    assert fetch_plainly(server, tmp_path / "file") == CONTENT
    assert server.requests[-1] == (FILE, None)


def test_wrong_part_is_never_appended(server, tmp_path):
    server.break_off_after = 120_000
    server.lies_about_range = True
    with pytest.raises(UserError, match="not the rest of what it sent before"):
        fetch_plainly(server, tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_length_that_is_never_reached_is_refused(server, tmp_path):
    server.announced_surplus = 50
    with pytest.raises(UserError, match="300,050 bytes were announced, 300,000 are there"):
        fetch_plainly(server, tmp_path / "file")
    assert len(server.requests) < 10
    assert not (tmp_path / "file").exists()


def test_refusals_are_told_in_two_lines_without_a_traceback(server, tmp_path, capsys):
    arguments = ["--output-dir", str(tmp_path)]
    assert main(["mobilenet_v1", "--base-url", server.url, *arguments]) == 2
    assert main(["mobilenet_v1", "--base-url", "http://127.0.0.1:9", *arguments]) == 2
    assert main(["mobilenet_v1", "mobilenet_v2", *arguments]) == 2
    assert main(["mobilenet_v11", *arguments]) == 2
    told = capsys.readouterr().err
    assert "the server answers 404" in told
    assert "127.0.0.1:9 can't be reached: Connection refused" in told
    assert "takes one NAME, not 2" in told
    assert "Did you mean mobilenet_v1" in told
    assert "Traceback" not in told


def test_checkpoint_is_unpacked_once_and_its_prefix_printed(server, tmp_path, capsys):
    server.files[MOBILENET] = tar_of(**{"./net.ckpt.index": b"index", "./net.ckpt.data-00000-of-00001": b"data"})
    arguments = ["mobilenet_v1", f"--base-url={server.url}/", f"--output-dir={tmp_path}"]
    assert main(arguments) == 0
    assert main(arguments) == 0
    assert capsys.readouterr().out == 2 * f"{tmp_path}/mobilenet_v1/net.ckpt\n"
    assert len(server.requests) == 1
    archive = tmp_path / "archives" / "mobilenet_v1_1.0_224.tgz"
    assert archive.with_name(archive.name + ".sha256").read_text() == f"{sha256(archive)}  {archive.name}\n"


def test_changed_file_is_refused_after_the_first_download(server, tmp_path):
    path = fetch(server.url + FILE, tmp_path)
    path.unlink()
    server.files[FILE], server.etags[FILE] = OTHER_CONTENT, '"second"'
    with pytest.raises(UserError, match="another file than at the first download"):
        fetch(server.url + FILE, tmp_path)
    assert names_in(tmp_path) == ["file.bin.sha256"]
    server.files[FILE] = CONTENT
    assert fetch(server.url + FILE, tmp_path).read_bytes() == CONTENT


def test_file_damaged_on_this_machine_is_downloaded_again(server, tmp_path):
    path = fetch(server.url + FILE, tmp_path)
    path.write_bytes(CONTENT[:1000])
    assert fetch(server.url + FILE, tmp_path).read_bytes() == CONTENT


def test_damaged_archive_is_not_kept(server, tmp_path):
    whole = tar_of(**{"net.ckpt.index": CONTENT})
    server.files[MOBILENET] = whole
    server.announced_surplus = -1000
    settings = DownloadSettings(name=("mobilenet_v1",), output_dir=tmp_path, base_url=server.url)
    with pytest.raises(UserError, match="damaged"):
        download(settings)
    assert names_in(tmp_path) == ["archives"]
    assert names_in(tmp_path / "archives") == []
    server.announced_surplus = 0
    assert download(settings) == tmp_path / "mobilenet_v1" / "net.ckpt"


@pytest.mark.parametrize("name", ["../stray", "a/../../stray", "/stray"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_archive_that_leaves_its_folder_is_refused(tmp_path, name, kind):
    archive = tmp_path / f"archive.{kind}"
    if kind == "tar":
        archive.write_bytes(tar_of(**{name: b"stray"}))
    else:
        with zipfile.ZipFile(archive, "w") as zipped:
            zipped.writestr(name, b"stray")
    with pytest.raises(UserError, match="points outside the folder"):
        unpack(archive, tmp_path / "inner" / "folder")
    assert not list(tmp_path.rglob("stray"))


def test_links_in_an_archive_are_not_made(tmp_path):
    archive = tmp_path / "archive.tar"
    with tarfile.open(archive, "w") as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
        member = tarfile.TarInfo("folder/file")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"text"))
    unpack(archive, tmp_path / "unpacked")
    assert names_in(tmp_path / "unpacked") == ["folder"]


def test_mnist_becomes_class_folders(server, tmp_path):
    images = np.arange(3 * 28 * 28).astype(np.uint8).reshape(3, 28, 28)
    for split in ("train", "t10k"):
        folder = f"/cvdf-datasets/mnist/{split}"
        header = struct.pack(">4BIII", 0, 0, 8, 3, 3, 28, 28)
        server.files[f"{folder}-images-idx3-ubyte.gz"] = gzip.compress(header + images.tobytes())
        server.files[f"{folder}-labels-idx1-ubyte.gz"] = gzip.compress(struct.pack(">4BI", 0, 0, 8, 1, 3) + b"\7\0\7")
    folder = download(DownloadSettings(name=("mnist",), output_dir=tmp_path, base_url=server.url))
    assert names_in(folder) == ["test", "train"]
    assert names_in(folder / "train" / "7") == ["00000.png", "00002.png"]
    assert np.array_equal(np.asarray(Image.open(folder / "test" / "0" / "00001.png")), images[1])


def test_cifar10_becomes_class_folders(server, tmp_path):
    image = np.arange(32 * 32 * 3).astype(np.uint8).reshape(32, 32, 3)
    record = b"\1" + image.transpose(2, 0, 1).tobytes()
    batches = {f"cifar-10-batches-bin/data_batch_{number}.bin": record for number in range(1, 6)}
    rest = {"cifar-10-batches-bin/test_batch.bin": record, "cifar-10-batches-bin/batches.meta.txt": b"airplane\ncat\n"}
    server.files["/~kriz/cifar-10-binary.tar.gz"] = tar_of(**batches, **rest)
    folder = download(DownloadSettings(name=("cifar10",), output_dir=tmp_path, base_url=server.url))
    assert names_in(folder) == ["test", "train"]
    assert len(names_in(folder / "train" / "cat")) == 5
    assert np.array_equal(np.asarray(Image.open(folder / "test" / "cat" / "00000.png")), image)


def test_flowers_are_the_class_folders_within_the_archive(server, tmp_path):
    files = {"flower_photos/LICENSE.txt": b"", "flower_photos/roses/1.jpg": b"", "flower_photos/tulips/2.jpg": b""}
    server.files["/example_images/flower_photos.tgz"] = tar_of(**files)
    folder = download(DownloadSettings(name=("flowers",), output_dir=tmp_path, base_url=server.url))
    assert names_in(folder) == ["LICENSE.txt", "roses", "tulips"]


def test_checkpoint_of_the_moving_averages_is_preferred(tmp_path):
    for folder in ("pristine", "ema"):
        (tmp_path / "net" / folder).mkdir(parents=True)
        (tmp_path / "net" / folder / "model-1.index").touch()
    assert find_checkpoint(tmp_path) == tmp_path / "net" / "ema" / "model-1"


def test_single_file_checkpoint_is_found(tmp_path):
    (tmp_path / "inception_v3.ckpt").touch()
    assert find_checkpoint(tmp_path) == tmp_path / "inception_v3.ckpt"


def test_every_published_checkpoint_can_be_had_by_name():
    published = {spec.name: spec.published_file for spec in MODELS.values() if spec.published_file}
    assert {name: get_published(name).urls for name in published} == {name: (url,) for name, url in published.items()}
    archives = [Path(url).name for entry in catalogue().values() for url in entry.urls if entry.name in published]
    assert len(set(archives)) == len(archives)


@pytest.mark.parametrize("names", [("mobilenet_v1", "mobilenet_v1"), ("mobilenet_v1", "mobilenet_v1_slow")])
def test_downloads_at_once_of_one_archive_fetch_it_once(server, tmp_path, monkeypatch, names):
    published = get_published("mobilenet_v1")
    monkeypatch.setattr(obtain, "get_published", lambda name: published)
    server.files[MOBILENET], server.etags[MOBILENET] = tar_of(**{"net.ckpt.index": CONTENT}), '"first"'
    server.break_off_after = 20_000
    with ThreadPoolExecutor(len(names)) as executor:
        made = list(executor.map(lambda name: obtain.obtain(name, tmp_path, server.url), names))
    assert made == [tmp_path / name / "net.ckpt" for name in names]
    assert all(path.with_suffix(".ckpt.index").read_bytes() == CONTENT for path in made)
    assert [wanted for _, wanted in server.requests].count(None) == 1
    assert names_in(tmp_path) == sorted({"archives", *names})
    assert names_in(tmp_path / "archives") == ["mobilenet_v1_1.0_224.tgz", "mobilenet_v1_1.0_224.tgz.sha256"]


@pytest.mark.parametrize(("name", "mend"), [("vgg_a", "from scratch"), ("imagenet", "--images-dir")])
def test_what_can_not_be_downloaded_says_what_to_do(name, mend):
    with pytest.raises(UserError, match=mend):
        get_published(name)


@pytest.mark.parametrize(
    ("length", "message"),
    [
        ("abc", "'abc' bytes, which is no number"),
        ("-5", "no number"),
        (str(2**40), "more than 4 GiB"),
        ("9" * 5000, "4 GiB"),
    ],
)
def test_announced_length_is_not_believed(server, tmp_path, length, message):
    server.announced_length = length
    with pytest.raises(UserError, match=message):
        fetch_plainly(server, tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_download_without_a_length_ends_at_the_limit(server, tmp_path, monkeypatch):
    monkeypatch.setattr(http_download, "MOST_DOWNLOADED_BYTES", 100_000)
    monkeypatch.setattr(http_download, "CHUNK_BYTES", 30_000)
    monkeypatch.setattr(http_download, "_announced_bytes", lambda response: None)
    with pytest.raises(UserError, match=r"file.bin has more than"):
        fetch_plainly(server, tmp_path / "file")
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("address", ["ftp://127.0.0.1/file", "file:///etc/passwd"])
def test_server_can_not_send_on_to_what_is_not_http(server, tmp_path, address):
    server.redirect = address
    with pytest.raises(UserError, match=r"sends on to|302"):
        fetch_plainly(server, tmp_path / "file")


def test_https_is_never_left_for_http():
    request = http_download.urllib.request.Request("https://host/file")
    with pytest.raises(UserError, match="isn't as safe"):
        http_download._Redirects().redirect_request(request, None, 302, "Found", {}, "http://host/file")


def test_file_that_is_not_the_published_one_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "SHA256", {server.url + FILE: "0" * 64})
    with pytest.raises(UserError, match=r"another file than was published: sha256 .*, not 0000"):
        fetch(server.url + FILE, tmp_path)
    assert names_in(tmp_path) == []


def test_data_sets_have_their_hashes_pinned_and_addresses_are_https():
    entries = catalogue().values()
    assert all(url.startswith("https://") for entry in entries for url in entry.urls)
    assert all(len(cache.SHA256[url]) == 64 for entry in entries if entry.is_dataset for url in entry.urls)
    assert set(cache.SHA256) <= {url for entry in entries for url in entry.urls}


def zip_of(**files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, text in files.items():
            zipped.writestr(name, text)
    return content.getvalue()


def wrong_at_the_end(content):
    """A compressed file with another checksum, or with nothing of it."""
    return content[:-8] + b"\0\0\0\0" + content[-4:]


def encrypted(content):
    changed = bytearray(content)
    changed[6] |= 1
    changed[changed.find(b"PK\x01\x02") + 8] |= 1
    return bytes(changed)


def tar_with_name(name, fmt=tarfile.PAX_FORMAT):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=fmt) as tar:
        member = tarfile.TarInfo("plain")
        member.pax_headers = {"path": name}
        tar.addfile(member)
    return content.getvalue()


def tar_claiming(size, kind=tarfile.REGTYPE):
    """The header of a member of that many bytes, of which none is there."""
    member = tarfile.TarInfo("claimed")
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


ARCHIVES = {
    "nothing": (b"", "no archive"),
    "no archive": (b"text" * 500, "no archive"),
    "gzip of a wrong checksum": (wrong_at_the_end(tar_of(a=CONTENT)), "CRC check failed"),
    "gzip cut off": (tar_of(a=CONTENT)[:-4], "end-of-stream"),
    "gzip of nothing": (gzip.compress(b""), "no archive"),
    "gzip of another thing": (gzip.compress(CONTENT), "no archive"),
    "xz cut off": (lzma.compress(gzip.decompress(tar_of(a=CONTENT)))[:-10], "end-of-stream"),
    "bzip2 cut off": (bz2.compress(gzip.decompress(tar_of(a=CONTENT)))[:-10], "end-of-stream"),
    "zip with a password": (encrypted(zip_of(a=b"text")), "password required"),
    "zip cut off": (zip_of(a=CONTENT)[:-30], "no archive"),
    "zip of other bytes": (zip_of(a=b"text" * 99).replace(b"\x2b\x49", b"\x2c\x49", 1), "damaged"),
    "NUL in a name": (tar_with_name("a\0b"), r"the member 'a\\x00b' has a name that is no file's"),
    "escape sequence in a name": (tar_with_name("\x1b[2J"), "a name that is no file's"),
    "nothing of what is claimed": (tar_claiming(1000), "unexpected end of data"),
    "more than fits anywhere": (tar_claiming(2**40), "unpacks to more than 8 GiB"),
    "a long name of gigabytes": (
        tar_claiming(2**33, tarfile.GNUTYPE_LONGNAME) + bytes(2**24 + 4096),
        "unpacks to more than 8 GiB",
    ),
}


@pytest.mark.parametrize(("content", "message"), ARCHIVES.values(), ids=ARCHIVES)
def test_bad_archive_is_refused_in_words(tmp_path, content, message):
    archive = tmp_path / "archive"
    archive.write_bytes(content)
    with pytest.raises(UserError, match=message):
        unpack(archive, tmp_path / "unpacked")


@pytest.mark.parametrize("make", [tar_of, zip_of])
def test_archive_that_unpacks_to_more_than_the_limit_is_refused_before_it_does(tmp_path, monkeypatch, make):
    archive = tmp_path / "bomb"
    archive.write_bytes(make(a=bytes(1_000_000), b=bytes(1_000_000)))
    assert archive.stat().st_size < 10_000
    monkeypatch.setattr(archives, "MOST_UNPACKED_BYTES", 1_500_000)
    with pytest.raises(UserError, match="unpacks to more than"):
        unpack(archive, tmp_path / "unpacked")
    assert names_in(tmp_path / "unpacked") == ["a"]


def test_archive_of_too_many_files_is_refused(tmp_path, monkeypatch):
    (tmp_path / "many").write_bytes(tar_of(a=b"", b=b"", c=b""))
    monkeypatch.setattr(archives, "MOST_FILES", 2)
    with pytest.raises(UserError, match="or 2 files"):
        unpack(tmp_path / "many", tmp_path / "unpacked")


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, bytes])
def test_whole_archives_of_all_kinds_are_unpacked(tmp_path, compress):
    (tmp_path / "archive").write_bytes(compress(gzip.decompress(tar_of(a=CONTENT, b=b"text"))))
    unpack(tmp_path / "archive", tmp_path / "unpacked")
    assert (tmp_path / "unpacked" / "a").read_bytes() == CONTENT
    assert names_in(tmp_path / "unpacked") == ["a", "b"]


def test_archive_of_a_wrong_checksum_leaves_no_trusted_hash(server, tmp_path):
    server.files[MOBILENET] = wrong_at_the_end(tar_of(**{"net.ckpt.index": CONTENT}))
    settings = DownloadSettings(name=("mobilenet_v1",), output_dir=tmp_path, base_url=server.url)
    with pytest.raises(UserError, match="CRC check failed"):
        download(settings)
    assert names_in(tmp_path) == ["archives"]
    assert names_in(tmp_path / "archives") == []
