"""docs/architecture.md is a map of the code: every module once, and imports in its order."""

import re

from pages import PAGES, PROJECT, ROOT, blocks

PAGE = PAGES["docs/architecture.md"]


def modules_of_the_page():
    """Paths of the modules under their headings, with those that are named twice."""
    parts = re.split(r"^## `(finetune/.*)`$", PAGE, flags=re.MULTILINE)
    return [
        folder + name
        for folder, text in zip(parts[1::2], parts[2::2], strict=True)
        for name in re.findall(r"`(\w+\.py)`", text)
    ]


def modules_of_the_code():
    paths = [path.relative_to(ROOT).as_posix() for path in (ROOT / "finetune").rglob("*.py")]
    return [path for path in paths if not path.endswith("__init__.py")]


def test_every_module_is_named_once():
    assert sorted(modules_of_the_page()) == sorted(modules_of_the_code())


def test_packages_have_their_headings():
    folders = {f"{path.rsplit('/', 1)[0]}/" for path in modules_of_the_code()}
    assert sorted(re.findall(r"^## `(finetune/.*)`$", PAGE, re.MULTILINE)) == sorted(folders)


def test_imports_go_the_way_of_the_contract():
    (contract,) = [one for one in PROJECT["tool"]["importlinter"]["contracts"] if one["type"] == "layers"]
    (layers,) = blocks("text", PAGE)
    assert layers.splitlines() == contract["layers"]


def test_every_room_has_its_place_in_the_order():
    rooms = {path.removeprefix("finetune/").split("/")[0].removesuffix(".py") for path in modules_of_the_code()}
    (layers,) = blocks("text", PAGE)
    assert sorted(re.findall(r"\w+", layers)) == sorted(rooms)
