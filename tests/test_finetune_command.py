"""`finetune VERB`: the same as the programs of the verbs, one help text for all, and completion in shells."""

import contextlib
import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from finetune.commands import inspect, main
from finetune.commands.completion import completion_script
from finetune.commands.verbs import VERBS
from finetune.nets import MODELS
from finetune.settings.choices import OPTIMIZERS, SHELLS

ROOT = Path(__file__).parents[1]
PROGRAMS = {f"finetune-{name}": verb for name, verb in VERBS.items() if verb.has_program}


def test_each_verb_has_its_program_but_for_those_of_this_one():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert scripts.pop("finetune") == "finetune.commands.main:main"
    assert scripts == {name: f"finetune.commands.{verb.module}:main" for name, verb in PROGRAMS.items()}
    assert set(VERBS) - {name.removeprefix("finetune-") for name in PROGRAMS} == {"completion", "data-service"}


@pytest.mark.parametrize(("words", "status"), [(["--help"], 0), (["-h"], 0), ([], 2)])
def test_the_help_text_has_a_line_for_each_verb(words, status, capsys):
    assert main.main(words) == status
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "usage: finetune VERB [FLAGS]"
    for name, verb in VERBS.items():
        assert [line.split(maxsplit=1)[1] for line in lines if line.startswith(f"  {name} ")] == [verb.summary]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("name", VERBS)
def test_the_help_text_of_a_verb_begins_with_the_same_line_under_either_name(name, capsys):
    words = [
        (VERBS[name].load_main(), ["--help"], f"finetune-{name}"),
        (main.main, [name, "--help"], f"finetune {name}"),
    ]
    if not VERBS[name].has_program:
        del words[0]
    bodies = set()
    for run, argv, prog in words:
        with pytest.raises(SystemExit, match="0"):
            run(argv)
        usage, _, body = capsys.readouterr().out.partition("\n\n")
        assert usage.startswith(f"usage: {prog} ")
        assert " ".join(body.split()).startswith(VERBS[name].summary)
        bodies.add(body)
    assert len(bodies) == 1


def test_a_verb_does_what_its_program_does(capsys):
    assert main.main(["inspect", "--models", "--json"]) == 0
    printed = capsys.readouterr().out
    assert inspect.main(["--models", "--json"]) == 0
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "finetune: There is no verb 'trian'.\n  Did you mean train?"),
        (["evaluate"], "finetune: There is no verb 'evaluate'.\n  Did you mean eval?"),
        (["q"], f"finetune: There is no verb 'q'.\n  Known: {', '.join(VERBS)}."),
        (
            ["--model", "train"],
            "finetune: --model stands before the verb.\n  Flags come behind it, as in finetune train",
        ),
        (["eval"], "finetune eval: finetune eval needs --dataset-dir.\n  See finetune eval --help."),
        (["train"], "finetune train: There is nothing to train on.\n  Give the folder of photographs"),
        (["train", "--dataset-dri=d"], "finetune train: Unknown flag --dataset-dri.\n  Did you mean --dataset-dir"),
        (["inspect"], "finetune inspect: finetune-inspect takes one checkpoint or two"),
        (["completion"], "finetune completion: It takes one SHELL, bash or zsh, not 0."),
        (["completion", "bash", "zsh"], "finetune completion: It takes one SHELL, bash or zsh, not 2."),
        (["completion", "fish"], "finetune completion: SHELL is 'fish', not one of bash, zsh."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_name_the_command_as_it_was_called(words, message, capsys):
    assert main.main(words) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(message)
    assert not printed.out


def test_the_version(capsys):
    assert main.main(["--version"]) == 0
    printed = capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        main.main(["train", "--version"])
    assert capsys.readouterr().out == printed


def test_the_log_file_of_a_verb_is_called_as_that_of_its_program(tmp_path):
    assert main.main(["inspect", "--models", f"--log-dir={tmp_path}"]) == 0
    assert (tmp_path / "finetune-inspect.INFO").is_symlink()


def test_python_runs_the_package():
    done = subprocess.run(
        [sys.executable, "-m", "finetune", "inspect", "--models"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "mobilenet_v2" in done.stdout
    assert done.stderr == ""


def test_help_and_the_library_load_neither_tensorflow_nor_absl_nor_other_verbs():
    script = """
import contextlib, logging, sys
from finetune.commands.main import main
main(["--help"])
with contextlib.suppress(SystemExit):
    main(["download", "--help"])
loaded = {"tensorflow", "absl", "shtab"} & set(sys.modules)
verbs = {name for name in sys.modules if name.startswith("finetune.commands.")}
import finetune.api
print("LOADED", loaded | {"tensorflow", "absl"} & set(sys.modules), sorted(verbs), logging.getLogger().handlers)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    own = ["command", "download", "main", "verbs"]
    assert done.stdout.splitlines()[-1] == f"LOADED set() {[f'finetune.commands.{name}' for name in own]} []"


# Completion in shells

# What is typed, and what it is completed to; a list: what may follow.
CANDIDATES = {
    "finetune ": list(VERBS),
    "finetune tr": ["train"],
    "finetune train --opt": ["--opt-epsilon", "--optimizer"],
    "finetune train --optimizer ": list(OPTIMIZERS),
    "finetune train --ema --batch-size 3 --augm": ["--augmentation"],
    "finetune train --stderrthreshold w": ["warning"],
    "finetune eval --model mobilenet_v1_0": [name for name in MODELS if name.startswith("mobilenet_v1_0")],
    "finetune train --config set": ["settings.toml"],
    "finetune train --dataset-dir rec": ["records"],
    "finetune predict --checkpoint x my": ["my photographs"],
    "finetune download flo": ["flowers"],
    "finetune completion ": list(SHELLS),
    "finetune train --model_n": [],
    "finetune-train --opt": ["--opt-epsilon", "--optimizer"],
    "finetune-export --format tf": ["tflite"],
    "finetune-inspect --models set": ["settings.toml"],
}

ASK_BASH = """
source ./script
while IFS= read -r typed; do
  read -ra COMP_WORDS <<< "$typed"
  [[ $typed == *" " ]] && COMP_WORDS+=("")
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
  [[ $(complete -p "${COMP_WORDS[0]}") =~ -F\\ ([^ ]+) ]]
  COMPREPLY=()
  "${BASH_REMATCH[1]}" "${COMP_WORDS[0]}" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
  (IFS=/; echo "${COMPREPLY[*]}")
done
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with names to complete."""
    monkeypatch.chdir(tmp_path)
    for name in ("records", "my photographs"):
        (tmp_path / name).mkdir()
    (tmp_path / "settings.toml").write_text("")
    return tmp_path


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash, which is not here")
def test_bash_completes_verbs_flags_choices_and_names_of_files(folder, capsys):
    assert main.main(["completion", "bash"]) == 0
    (folder / "script").write_text(capsys.readouterr().out)
    done = subprocess.run(
        ["bash", "--norc", "-c", ASK_BASH],
        input="\n".join(CANDIDATES) + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    answers = dict(zip(CANDIDATES, done.stdout.splitlines(), strict=True))
    assert {typed: sorted(filter(None, answer.split("/"))) for typed, answer in answers.items()} == {
        typed: sorted(candidates) for typed, candidates in CANDIDATES.items()
    }


# zsh completes in its line editor alone: a widget at the first prompt types each line, and notes what becomes of it.
ZSHRC = """
autoload -U compinit
compinit -u -D
eval "$(<script)"
unsetopt auto_list beep
zle-line-init() {
  for BUFFER in "${(@f)$(<typed)}"; do
    CURSOR=$#BUFFER
    zle complete-word
    print -r -- "$BUFFER" >> answers
  done
  BUFFER=exit
  zle accept-line
}
zle -N zle-line-init
"""

# What is typed, and the line that it becomes.
COMPLETED = {
    "finetune tr": "finetune train ",
    "finetune train --opti": "finetune train --optimizer=",
    "finetune train --optimizer adag": "finetune train --optimizer adagrad ",
    "finetune train --optimizer=adag": "finetune train --optimizer=adagrad ",
    "finetune train --ema --batch-size=3 --augm": "finetune train --ema --batch-size=3 --augmentation=",
    "finetune train --stderrthreshold w": "finetune train --stderrthreshold warning ",
    "finetune train --config set": "finetune train --config settings.toml ",
    "finetune train --dataset-dir=rec": "finetune train --dataset-dir=records/",
    "finetune eval --comp": "finetune eval --compare ",
    "finetune predict --checkpoint x my": "finetune predict --checkpoint x my\\ photographs/",
    "finetune completion z": "finetune completion zsh ",
    "finetune train --model_n": "finetune train --model_n",
    "finetune-train --opti": "finetune-train --optimizer=",
    "finetune-export --format tf": "finetune-export --format tflite ",
    "finetune-inspect --models set": "finetune-inspect --models settings.toml ",
}


@pytest.mark.timeout(120)
@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh, which is not here")
def test_zsh_completes_verbs_flags_choices_and_names_of_files(folder, capsys):
    assert main.main(["completion", "zsh"]) == 0
    (folder / "script").write_text(capsys.readouterr().out)
    (folder / ".zshrc").write_text(ZSHRC)
    (folder / "typed").write_text("\n".join(COMPLETED))
    environment = {**os.environ, "ZDOTDIR": str(folder), "TERM": "dumb"}
    terminal, end = pty.openpty()
    shell = subprocess.Popen(
        ["zsh", "-d", "-i"], stdin=end, stdout=end, stderr=end, env=environment, start_new_session=True
    )
    os.close(end)
    with contextlib.closing(os.fdopen(terminal, "rb", buffering=0)) as screen:
        while shell.poll() is None:  # What is shown is taken from the terminal, which would be full.
            if select.select([screen], [], [], 0.1)[0]:
                with contextlib.suppress(OSError):
                    screen.read(4096)
    answers = (folder / "answers").read_text().splitlines()
    assert dict(zip(COMPLETED, answers, strict=True)) == COMPLETED


@pytest.fixture(scope="module")
def bash_script():
    """What bash reads."""
    return completion_script("bash")


@pytest.mark.parametrize("name", VERBS)
def test_what_is_completed_are_the_flags_that_help_shows(name, bash_script, capsys):
    with pytest.raises(SystemExit):
        main.main([name, "--help"])
    sections = capsys.readouterr().out.partition("TF-Slim's flags")[0]
    shown = re.findall(r"^  (?:-h, )?(--[\w-]+)", sections, re.MULTILINE)
    (options,) = re.findall(
        rf"^_shtab_finetune_{name.replace('-', '_')}_option_strings=\((.*)\)$", bash_script, re.MULTILINE
    )
    assert sorted(shlex.split(options)) == sorted(["-h", *shown])
