"""Makes scripts/fine_tune.ipynb of docs/from_tutorials.md, to be run after a change of the page.

The page's blocks of Python that are ours, ```python, become cells of code; all else, the tutorial's ```py among it, is
text. A notebook is JSON (format 4.5 of Jupyter's), so that nothing else is needed to write one.
"""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "from_tutorials.md"
NOTEBOOK = ROOT / "scripts" / "fine_tune.ipynb"

_OURS = re.compile(r"^```python\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
_LINK_TO_PAGE = re.compile(r"\]\((?=\w+\.md)")


def make_notebook(page: str) -> dict[str, Any]:
    """The notebook of a page, as JSON has it, without outputs."""
    cells: list[dict[str, Any]] = []
    for number, part in enumerate(_OURS.split(page)):  # Text and code by turns.
        is_code = number % 2 == 1
        source = (part if is_code else _LINK_TO_PAGE.sub("](../docs/", part)).strip()
        if source:
            cells.append(_cell(f"cell-{len(cells)}", source, is_code=is_code))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def _cell(name: str, source: str, *, is_code: bool) -> dict[str, Any]:
    only_of_code: dict[str, Any] = {"execution_count": None, "outputs": []} if is_code else {}
    kind = "code" if is_code else "markdown"
    return {"cell_type": kind, "id": name, "metadata": {}, **only_of_code, "source": source.splitlines(keepends=True)}


def notebook_text(page: str) -> str:
    """The notebook's file."""
    return json.dumps(make_notebook(page), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    NOTEBOOK.write_text(notebook_text(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
