"""The pages of this repository as tests read them: README, CONTRIBUTING and docs/, their blocks and their commands."""

import re
import shlex
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def blocks(language, text=None):
    """The fenced blocks of a language, in one text or in all pages."""
    texts = PAGES.values() if text is None else [text]
    return [
        block for one in texts for block in re.findall(rf"^```{language}\n(.*?)^```$", one, re.DOTALL | re.MULTILINE)
    ]


def section(page, heading):
    """What stands under a heading of the second level."""
    return re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGES[page], re.DOTALL | re.MULTILINE)[1]


def simple_commands(block):
    """The commands of a block of shell, each a list of words: those in `$(...)`, and all of a pipe."""
    commands = []
    for line in block.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="();|&<>")
        lexer.whitespace_split = True
        commands.append([])
        for word in lexer:
            if set(word) <= set("();|&"):
                commands.append([])
            elif not re.match(r"\w+=", word) or commands[-1]:
                commands[-1].append(word)
    return [words for words in commands if words]
