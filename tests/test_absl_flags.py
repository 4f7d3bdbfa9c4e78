"""absl's flags mean what absl says, for every command: where log lines go, files of flags, flags to overlook."""

import dataclasses
import getpass
import io
import logging
import re
import socket

import pytest
from absl.logging import ABSL_LOGGING_PREFIX_REGEX

from finetune import progress
from finetune.commands.command import run_command
from finetune.commands.network import show_weights_and_plan
from finetune.commands.verbs import VERBS
from finetune.errors import Interrupted, UserError
from finetune.model.scopes import plan_variables
from finetune.settings.command_line import parse_flags
from finetune.settings.flags import CommandSettings, flag

log = logging.getLogger("finetune")

DEBUG, INFO, WARNING, ERROR = LINES = "the settings\n", "an event\n", "a doubt\n", "a failure\n"
ALL = "".join(LINES)


@dataclasses.dataclass(frozen=True)
class WordSettings(CommandSettings):
    """A command with words that are no flags."""

    words: tuple[str, ...] = flag((), help="words", positional=True, metavar="WORD")
    number: int = flag(0, at_least=0, help="a number")
    other_name: str = flag("", help="a name")


@dataclasses.dataclass(frozen=True)
class FlagSettings(CommandSettings):
    """A command of flags alone."""

    number: int = flag(0, at_least=0, help="a number")


def words_as_id(value):
    """Of a test of several words."""
    return (" ".join(value) or "nothing") if isinstance(value, tuple) else None


def talk(settings):
    for say, line in zip((log.debug, log.info, log.warning, log.error), LINES, strict=True):
        say("%s", line.strip())


def run(*argv, function=talk, settings_class=WordSettings):
    return run_command(settings_class, function, prog="finetune talk", description="Talks.", argv=argv)


def parse(*argv, settings_class=WordSettings):
    return parse_flags(settings_class, argv, prog="finetune talk", description="Talks.")


def lines_said(capsys):
    """Those of `talk` on standard error; at level 1 the settings are logged before them."""
    printed = capsys.readouterr()
    assert printed.out == ""
    return re.sub(r"^Settings: .*\n", "", printed.err)


# Where log lines go


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        ((), INFO + WARNING + ERROR),
        (("--verbosity=0",), INFO + WARNING + ERROR),
        (("--verbosity=-1",), WARNING + ERROR),
        (("--verbosity", "-1"), WARNING + ERROR),
        (("-v", "-1"), WARNING + ERROR),
        (("-v=-1",), WARNING + ERROR),
        (("--v=-1",), WARNING + ERROR),
        (("--verbosity=-2",), ERROR),
        (("--verbosity=-3",), ""),
        (("--verbosity=1",), ALL),
        (("--verbosity=3",), ALL),
        (("--verbosity=-1", "--verbosity=0"), INFO + WARNING + ERROR),
        (("--logtostderr",), INFO + WARNING + ERROR),
        (("--nologtostderr", "--alsologtostderr"), INFO + WARNING + ERROR),
        (("--stderrthreshold=error",), INFO + WARNING + ERROR),  # absl: it is of a log file.
    ],
    ids=words_as_id,
)
def test_without_a_log_file_lines_go_to_standard_error_as_bare_messages(words, lines, capsys):
    assert run(*words) == 0
    assert lines_said(capsys) == lines


def test_what_one_command_was_told_is_forgotten_by_the_next(tmp_path, capsys):
    assert run("--verbosity=-1", f"--log-dir={tmp_path}", "--alsologtostderr") == 0
    assert lines_said(capsys) == WARNING + ERROR
    assert run() == 0
    assert lines_said(capsys) == INFO + WARNING + ERROR
    assert len(list(tmp_path.glob("*.log.INFO.*"))) == 1


def read_log(folder):
    """The lines of the only log file, each as the letter of its level and its message."""
    (file,) = folder.glob("*.log.INFO.*")
    lines = file.read_text(encoding="utf-8", errors="surrogateescape").splitlines(keepends=True)
    matches = [re.match(rf"{ABSL_LOGGING_PREFIX_REGEX}\] ", line) for line in lines]
    return [
        (match["severity"], match["filename"], line[match.end() :]) for match, line in zip(matches, lines, strict=True)
    ]


LOGGED = [("I", "test_absl_flags.py", INFO), ("W", "test_absl_flags.py", WARNING), ("E", "test_absl_flags.py", ERROR)]


@pytest.mark.parametrize(
    ("words", "on_standard_error"),
    [
        ((), ""),
        (("--alsologtostderr",), INFO + WARNING + ERROR),
        (("--alsologtostderr=true",), INFO + WARNING + ERROR),
        (("--alsologtostderr", "--noalsologtostderr"), ""),
        (("--alsologtostderr", "--no-alsologtostderr"), ""),
        (("--alsologtostderr=false",), ""),
        (("--stderrthreshold=error",), ERROR),
        (("--stderrthreshold", "WARNING"), WARNING + ERROR),
        (("--stderrthreshold=2",), ERROR),
        (("--stderrthreshold=error", "--alsologtostderr"), INFO + WARNING + ERROR),
        (("--nologtostderr",), ""),
    ],
    ids=words_as_id,
)
def test_a_log_file_takes_the_lines_and_standard_error_what_the_flags_say(words, on_standard_error, tmp_path, capsys):
    assert run(f"--log_dir={tmp_path / 'new/logs'}", *words) == 0
    assert lines_said(capsys) == on_standard_error
    assert read_log(tmp_path / "new/logs") == LOGGED


def test_the_log_file_keeps_to_the_verbosity_and_is_named_as_absl_names_it(tmp_path):
    assert run("--log-dir", str(tmp_path), "--verbosity=-1") == 0
    assert read_log(tmp_path) == LOGGED[1:]
    link, file = tmp_path / "finetune-talk.INFO", next(tmp_path.glob("*.log.INFO.*"))
    assert link.resolve() == file
    name = rf"finetune-talk\.{re.escape(socket.gethostname())}\.{getpass.getuser()}\.log\.INFO\.\d{{8}}-\d{{6}}\.\d+"
    assert re.fullmatch(name, file.name)


def test_standard_error_alone_wins_over_a_log_file(tmp_path, capsys):
    assert run(f"--log-dir={tmp_path / 'logs'}", "--logtostderr") == 0
    assert lines_said(capsys) == INFO + WARNING + ERROR
    assert not (tmp_path / "logs").exists()


def test_a_log_file_in_a_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run("--log-dir=~/logs") == 0
    assert read_log(tmp_path / "logs") == LOGGED


def test_a_folder_that_can_take_no_log_file_is_refused_before_anything_is_done(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    done = []
    assert run(f"--log-dir={tmp_path}/file/logs", function=done.append) == 2
    message = f"finetune talk: --log-dir: no log file can be written into {tmp_path}/file/logs: Not a directory.\n"
    assert capsys.readouterr().err == message
    assert not done


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (UserError("--number is odd.", "Make it even."), 2, "finetune talk: --number is odd.\n  Make it even.\n"),
        (Interrupted("stopped after step 3", 2), 130, "finetune talk: stopped after step 3\n"),
        (KeyboardInterrupt(), 130, "finetune talk: interrupted\n"),
    ],
    ids=["mistake", "stopped", "Ctrl-C"],
)
def test_the_log_file_says_how_a_command_ended_and_standard_error_once(error, status, told, tmp_path, capsys):
    def end(settings):
        raise error

    assert run(f"--log-dir={tmp_path}", "--alsologtostderr", function=end) == status
    assert capsys.readouterr().err == told
    (file,) = tmp_path.glob("*.log.INFO.*")
    assert file.read_text().endswith(f"] {str(error) or 'KeyboardInterrupt'}\n")
    assert file.read_text().startswith("E")


def test_the_log_file_holds_the_traceback_of_a_fault(tmp_path):
    def fail(settings):
        raise LookupError("out of reach")

    with pytest.raises(LookupError):
        run(f"--log-dir={tmp_path}", function=fail)
    (file,) = tmp_path.glob("*.log.INFO.*")
    assert re.search(r"\] out of reach\nTraceback .*LookupError: out of reach\n$", file.read_text(), re.DOTALL)


def test_names_that_are_no_text_are_logged_as_the_bytes_that_they_are(tmp_path):
    assert run(f"--log-dir={tmp_path}", function=lambda settings: log.info("read %s", "a\udcff.jpg")) == 0
    (file,) = tmp_path.glob("*.log.INFO.*")
    assert file.read_bytes().endswith(b"] read a\xff.jpg\n")


def test_the_logger_is_left_as_it_was_and_others_alone(tmp_path):
    root = logging.getLogger()
    before = root.handlers[:], root.level, log.handlers[:], log.level, log.propagate
    assert run(f"--log-dir={tmp_path}", "--verbosity=-1") == 0
    assert (root.handlers[:], root.level, log.handlers[:], log.level, log.propagate) == before


def test_the_settings_are_logged_where_all_is_wanted(capsys):
    assert run("--verbosity=1", "--number=3", function=lambda settings: None) == 0
    assert capsys.readouterr().err == "Settings: WordSettings(words=(), number=3, other_name='')\n"


# Progress and the plan are log lines, too


class Terminal(io.StringIO):
    """Standard error on a terminal."""

    def isatty(self):
        return True


def show_progress(settings):
    with progress.progress("Reading", 2) as advance:
        advance(1)


@pytest.mark.parametrize(
    ("words", "has_bar"),
    [((), True), (("--verbosity=1",), True), (("--verbosity=-1",), False), (("--stderrthreshold=error",), True)],
    ids=words_as_id,
)
def test_a_bar_is_shown_on_a_terminal_where_log_lines_of_its_level_are(words, has_bar, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    assert run(*words, function=show_progress) == 0
    assert ("Reading" in terminal.getvalue()) == has_bar


@pytest.mark.parametrize("words", [(), ("--alsologtostderr",)], ids=words_as_id)
def test_lines_take_the_place_of_the_bar_where_the_log_goes_into_a_file(words, tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    assert run(f"--log-dir={tmp_path}", *words, function=show_progress) == 0
    ((level, _, line),) = read_log(tmp_path)
    assert level == "I"
    assert line.startswith("Reading: 1/2 images, ")
    assert terminal.getvalue() == (line if words else "")


def test_programs_that_set_no_level_have_their_bars(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(log, "level", logging.NOTSET)
    show_progress(None)
    assert "Reading" in terminal.getvalue()


def show_plan(settings):
    plan = plan_variables([], checkpoint_shapes=None, exclude_scopes=(), trainable_scopes=(), head_scopes=())
    show_weights_and_plan(plan, None)


@pytest.mark.parametrize(("words", "is_shown"), [((), True), (("--verbosity=-1",), False)], ids=words_as_id)
def test_the_plan_of_a_training_goes_by_the_verbosity(words, is_shown, capsys):
    assert run(*words, function=show_plan) == 0
    assert ("Plan of the variables" in capsys.readouterr().err) == is_shown


# On the command line


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_has_a_section_of_them_and_refuses_what_absl_refuses(verb, capsys):
    main = VERBS[verb].load_main()
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    section = capsys.readouterr().out.partition("Logging, and what else absl gives:\n")[2].partition("\n\n")[0]
    names = "verbosity log-dir alsologtostderr stderrthreshold logtostderr flagfile undefok".split()
    assert re.findall(r"^  --(\S+)", section, re.MULTILINE) == names
    assert main(["--verbosity=loud"]) == 2
    assert capsys.readouterr().err.endswith(": --verbosity is 'loud', but must be a whole number.\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--verbosity="], "--verbosity is '', but must be a whole number."),
        (["--verbosity=1.5"], "--verbosity is '1.5', but must be a whole number."),
        (["--stderrthreshold=loud"], "--stderrthreshold is 'loud', but must be debug, info, warning, error or fatal."),
        (["--stderrthreshold=4"], "--stderrthreshold is '4', but must be debug, info, warning, error or fatal."),
        (["--alsologtostderr=maybe"], "--alsologtostderr is 'maybe', but must be true or false."),
    ],
)
def test_what_absl_refuses_is_the_users_mistake(words, message, capsys):
    assert run(*words) == 2
    assert capsys.readouterr().err == f"finetune talk: {message}\n"


def test_a_switch_takes_no_word_that_is_none_of_its_own():
    assert parse("--alsologtostderr", "a.jpg", "--logtostderr", "b.jpg").words == ("a.jpg", "b.jpg")


# Files of flags


@pytest.fixture
def flagfile(tmp_path, monkeypatch):
    """A function that writes a file of flags in the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(text, name="flags"):
        (tmp_path / name).write_text(text)
        return name

    return write


@pytest.mark.parametrize(
    "words", [("--flagfile=flags",), ("--flagfile", "flags"), ("-flagfile=flags",)], ids=words_as_id
)
def test_the_lines_of_a_file_take_its_place_and_the_later_of_two_values_counts(words, flagfile):
    flagfile("# What all runs share\n\n// and so on\n--number=3\n--other_name=a b\n--verbosity=-1\nword\n")
    assert parse(*words) == WordSettings(("word",), 3, "a b")
    assert parse("--number=1", *words, "x").number == 3
    assert parse(*words, "--number=1", "x") == WordSettings(("word", "x"), 1, "a b")


def test_a_file_may_name_another_and_stand_in_a_home_directory(flagfile, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    flagfile("--number=5\n--other-name\nc d\n", "inner")
    flagfile("--number=3\n--flagfile=inner\n")
    assert parse("--flagfile=~/flags", "--flagfile=flags") == WordSettings((), 5, "c d")


def test_a_settings_file_lies_below_the_command_line_and_its_files_of_flags(flagfile):
    flagfile("number = 7\nother_name = 'toml'\n", "settings.toml")
    flagfile("--config=settings.toml\n--number=3\n")
    assert parse("--flagfile=flags") == WordSettings((), 3, "toml")
    assert parse("--number=3", "--config=settings.toml") == WordSettings((), 3, "toml")


def test_a_file_of_flags_quiets_the_log(flagfile, capsys):
    flagfile("--verbosity=-1\n")
    assert run("--flagfile=flags") == 0
    assert lines_said(capsys) == WARNING + ERROR


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--flagfile=flags\n", r"flags names itself, or a file that names it\.\n  Leave out"),
        ("--flagfile=other\n", r"flags names itself, or a file that names it\.\n  Leave out"),
        ("--flagfile=gone\n", r"gone can't be read: No such file or directory\."),
        ("--flagfile=.\n", r"\. can't be read: Is a directory\."),
        ("--number 3\n", r"the line '--number 3' holds several words\.\n  Put each on a line"),
        ("--other_name=\udcff\n", r"a file is no text in utf-8: invalid start byte\."),
    ],
    ids=["itself", "a circle", "gone", "a folder", "two words", "no text"],
)
def test_mistakes_in_files_of_flags(text, message, flagfile, tmp_path, capsys):
    flagfile("--flagfile=flags\n", "other")
    (tmp_path / "flags").write_bytes(text.encode(errors="surrogateescape"))
    assert run("--flagfile=flags") == 2
    printed = capsys.readouterr().err
    assert re.match(f"finetune talk: --flagfile: {message}", printed)
    assert len(printed.splitlines()) <= 2


def test_a_file_of_flags_without_a_name(capsys):
    assert run("--flagfile") == 2
    assert capsys.readouterr().err == "finetune talk: --flagfile needs the name of a file.\n"


def test_mistakes_in_the_flags_of_a_file_are_those_of_the_command_line(flagfile, capsys):
    flagfile("--nubmer=3\n")
    assert run("--flagfile=flags") == 2
    assert capsys.readouterr().err.startswith("finetune talk: Unknown flag --nubmer.\n  Did you mean --number")


# Flags to overlook


@pytest.mark.parametrize(
    "words",
    [
        ("--undefok=ps_hosts", "--ps_hosts=a"),
        ("--ps-hosts=a", "--undefok=ps_hosts"),
        ("--undefok=ps-hosts,task_id", "--ps_hosts", "--task_id=1"),
        ("--undefok=ps_hosts", "--undefok=task_id", "--ps_hosts", "--task_id"),
        ("--undefok=ps_hosts", "--nops_hosts", "--no-ps-hosts"),
        ("--undefok=ps_hosts", "-ps_hosts=a"),
        ("--undefok=number,no_such_flag",),
    ],
    ids=words_as_id,
)
@pytest.mark.parametrize("settings_class", [WordSettings, FlagSettings])
def test_unknown_flags_that_are_named_are_overlooked_and_known_ones_count(words, settings_class):
    assert parse(*words, "--number=3", settings_class=settings_class).number == 3


def test_a_word_behind_a_flag_that_is_overlooked_is_its_value_unless_the_command_takes_words():
    assert parse("--undefok=task", "--task", "1", "--number=3", settings_class=FlagSettings).number == 3
    assert parse("--undefok=task", "--task", "1", "--number=3").words == ("1",)


@pytest.mark.parametrize(
    ("words", "unknown"),
    [
        (("--undefok=task", "--taks=1"), "--taks"),
        (("--undefok=task", "--task=1", "word"), "word"),
        (("--undefok=task", "--task", "1", "2"), "2"),
        (("--undefok=", "--task=1"), "--task"),
    ],
    ids=words_as_id,
)
def test_others_are_mistakes_all_the_same(words, unknown):
    with pytest.raises(UserError, match=f"^Unknown flag {unknown}\\."):
        parse(*words, settings_class=FlagSettings)
