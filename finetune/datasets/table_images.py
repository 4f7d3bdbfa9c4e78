"""The images of a folder, found by what a table calls them."""

import os
from collections import defaultdict
from pathlib import Path

from finetune.datasets.folders import ImageFolder, canonical_name
from finetune.datasets.image_walk import Found, Reason, found_folder, walk_images


class TableImages:
    """The images in a folder, to be found by what a table may call them.

    Attributes:
        items: By the file, relative to the folder.
    """

    def __init__(self, found: ImageFolder, table_folder: Path, skip: str | None) -> None:
        """Looks at all files of the folder, and notes in `found` those that are left out.

        Args:
            found: Whose root the folder is.
            table_folder: That of the table, to which cells may be relative, too.
            skip: A folder that is not looked into.
        """
        self._root = os.path.realpath(found.root)
        self._table_folder = os.path.realpath(table_folder)
        self._by_path: dict[str, list[str]] = defaultdict(list)
        self._by_name: dict[str, list[str]] = defaultdict(list)
        self.items: dict[str, Found] = {}
        for item in walk_images(found_folder(found.root), skip=skip):
            if item.reason is None:
                self._add(found.relative(item.path), item)
            elif item.reason is not Reason.NO_IMAGE or item.path.parent != found.root:  # There the table may lie.
                found.leave_out(item)

    def find(self, cell: str) -> list[str]:
        """The images that a cell may mean, by its path or by its file name alone: one, where all is well."""
        name = _path_in(cell)
        from_table = os.path.relpath(f"{self._table_folder}/{name}", self._root)
        matches = self._by_path.get(name) or self._by_path.get(from_table)
        return matches or (self._by_name.get(name, []) if "/" not in name else [])

    def find_by_end(self, cell: str) -> list[str]:
        """The images that a cell may mean whose path begins elsewhere: those that share most of its end."""
        parts = _path_in(cell).split("/")
        ends = ["/".join(parts[start:]) for start in range(1, len(parts))]
        return next((self._by_path[end] for end in ends if end in self._by_path), self._by_name.get(parts[-1], []))

    def find_alike(self, cell: str) -> str | None:
        """An image whose name differs in its ending or in letter case alone."""
        stem = Path(_path_in(cell)).stem.casefold()
        return next((file for file in self.items if Path(canonical_name(file)).stem.casefold() == stem), None)

    def _add(self, file: str, item: Found) -> None:
        self.items[file] = item
        path = Path(canonical_name(file))
        for spelling in dict.fromkeys((path, path.with_suffix(""))):
            self._by_path[spelling.as_posix()].append(file)
            self._by_name[spelling.name].append(file)


def _path_in(cell: str) -> str:
    return os.path.normpath(canonical_name(cell.replace("\\", "/")))
