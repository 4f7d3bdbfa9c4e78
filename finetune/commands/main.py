"""`finetune VERB`: one command beside those of the verbs, such as `finetune train` beside `finetune-train`.

Only the verb that is called is imported.
"""

import sys
from collections.abc import Sequence

from finetune import __doc__ as finetune_does
from finetune import __version__
from finetune.commands.command import EXIT_DONE, EXIT_USER_ERROR, leave
from finetune.commands.verbs import VERBS
from finetune.errors import UserError, did_you_mean

PROG = "finetune"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a verb and returns its exit status.

    Without a verb it prints the help text, and as with git that is a mistake: status 2.

    Args:
        argv: The verb, and the words of its command line; None: those of this program, which then ends here.
    """
    status = _run(sys.argv[1:] if argv is None else argv)
    if argv is None:
        leave(status)
    return status


def _run(words: Sequence[str]) -> int:
    word, *rest = words or ("",)
    if word in VERBS:
        return VERBS[word].load_main()(rest, prog=f"{PROG} {word}")
    if word in ("", "-h", "--help"):
        print(_help_text())
        return EXIT_DONE if word else EXIT_USER_ERROR
    if word == "--version":
        print(f"{PROG} {__version__}")
        return EXIT_DONE
    print(f"{PROG}: {_mistake(word)}", file=sys.stderr)
    return EXIT_USER_ERROR


def _help_text() -> str:
    verbs = "\n".join(f"  {name:<14}{verb.summary}" for name, verb in VERBS.items())
    return (
        f"usage: {PROG} VERB [FLAGS]\n\n{finetune_does}\n\nVerbs:\n{verbs}\n\n"
        f"{PROG} VERB --help shows the flags of a verb, {PROG} --version the version."
    )


def _mistake(word: str) -> UserError:
    if word.startswith("-"):
        return UserError(f"{word} stands before the verb.", f"Flags come behind it, as in {PROG} train {word}.")
    return UserError(f"There is no verb {word!r}.", did_you_mean(word, VERBS))
