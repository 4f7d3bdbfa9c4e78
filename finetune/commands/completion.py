"""`finetune completion`: prints a script by which a shell completes verbs, flags, choices and names of files.

shtab writes it from the parsers of the verbs, since its script is all that a shell needs, while argcomplete's starts
Python at every press of the key.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import shtab

from finetune import __doc__ as finetune_does
from finetune import nets
from finetune.commands.command import run_command
from finetune.commands.verbs import VERBS, Verb
from finetune.errors import UserError
from finetune.settings import CompletionSettings, flags_of
from finetune.settings.absl_flags import LOG_FLAGS
from finetune.settings.choices import PUBLISHED_DATASETS, SHELLS
from finetune.settings.command_line import build_parser

DESCRIPTION = f"""{VERBS["completion"].summary}

Verbs, flags, their choices and names of files are completed, for
finetune VERB and for finetune-VERB alike. In ~/.bashrc:

  eval "$(finetune completion bash)"

In ~/.zshrc, behind compinit:

  eval "$(finetune completion zsh)"

bash completes the value of a flag behind a blank, zsh behind = too."""

# Names that may be meant where others are allowed, too.
NAMES = {"--model": nets.NAMES, "NAME": (*nets.MODELS, *PUBLISHED_DATASETS)}
# Flags of all verbs whose values are paths, beside those of the settings.
PATHS = ("--config", "--flagfile", "--log-dir")

# `finetune-train ...` is completed as what it stands for, `finetune train ...`.
PROGRAMS = {
    "bash": """
_finetune_program() {
  local COMP_WORDS=(finetune "${1##*finetune-}" "${COMP_WORDS[@]:1}") COMP_CWORD=$((COMP_CWORD + 1))
  _shtab_finetune
}
complete -o bashdefault -F _finetune_program""",
    "zsh": """
_finetune_program() {
  words=(finetune "${service#finetune-}" "${(@)words[2,-1]}")
  (( CURRENT += 1 ))
  _shtab_finetune
}
compdef _finetune_program""",
}


def completion_script(shell: str) -> str:
    """What a shell reads to complete the words of `finetune` and of the programs of single verbs.

    Args:
        shell: One of `SHELLS`.
    """
    parser = argparse.ArgumentParser(prog="finetune", description=finetune_does)
    parser.add_argument("--version", action="version", version="", help="the program's version")
    verbs = parser.add_subparsers()
    for name, verb in VERBS.items():
        verbs.add_parser(
            name, parents=[_shown_parser(verb, shell)], add_help=False, description=verb.summary, help=verb.summary
        )
    programs = " ".join(f"finetune-{name}" for name, verb in VERBS.items() if verb.has_program)
    return f"{shtab.complete(parser, shell)}\n{PROGRAMS[shell]} {programs}"


def _shown_parser(verb: Verb, shell: str) -> argparse.ArgumentParser:
    """A verb's parser with the names of flags that its `--help` shows, and what completes their values."""
    settings = verb.load_settings()
    parser = build_parser(settings, "", "")
    flags = flags_of(settings)
    choices = {flag.option: flag.choices for flag in (*flags, *LOG_FLAGS)} | NAMES
    paths = {flag.option for flag in flags if flag.is_path or flag.kind is Path}.union(PATHS)
    for action in parser._actions:
        option = action.option_strings[0] if action.option_strings else action.metavar
        action.choices = choices.get(option)
        if option in paths:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        if action.const is True:  # A switch, though it takes a value.
            action.nargs = 0
        if action.dest != "help":
            ends = "=" if shell == "zsh" and action.nargs is None else ""
            action.option_strings = [f"{name}{ends}" for name in action.option_strings[:1]]
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "finetune completion") -> int:
    """The command."""
    return run_command(CompletionSettings, _print_script, prog=prog, description=DESCRIPTION, argv=argv)


def _print_script(settings: CompletionSettings) -> None:
    if len(settings.shell) != 1:
        raise UserError(f"It takes one SHELL, {' or '.join(SHELLS)}, not {len(settings.shell)}.")
    print(completion_script(settings.shell[0]))
