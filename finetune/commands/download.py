"""`finetune-download`: published checkpoints and data sets, by name."""

from collections.abc import Sequence
from pathlib import Path

from finetune.commands.command import run_command, say
from finetune.commands.verbs import VERBS
from finetune.errors import UserError
from finetune.nets.keras_networks.table import APPLICATIONS
from finetune.settings.download import DownloadSettings


def download(settings: DownloadSettings) -> Path:
    """Downloads and unpacks what is published under a name, unless it is there already.

    Returns:
        Prefix of the checkpoint, or the folder of the images.

    Raises:
        UserError: An unknown name, a server that can't be reached, a file that is damaged or not the one it was.
    """
    from finetune.published.obtain import default_folder

    if len(settings.name) != 1:
        raise UserError(f"finetune-download takes one NAME, not {len(settings.name)}.", "See finetune-download --help.")
    return obtain_published(settings.name[0], settings.output_dir or default_folder(), settings.base_url)


def obtain_published(name: str, folder: Path, base_url: str | None = None) -> Path:
    """What is published under a name, in a folder; networks of Keras are got by Keras itself.

    Raises:
        UserError: As `download`.
    """
    if name not in APPLICATIONS:
        from finetune.published.obtain import obtain

        return obtain(name, folder, base_url)
    if base_url is not None:
        raise UserError(f"--base-url: Keras downloads {name} itself, and takes no mirror.", "Leave --base-url out.")
    from finetune.commands.tensorflow_start import start_tensorflow

    start_tensorflow()
    from finetune.foreign_weights.keras_download import obtain_application

    return obtain_application(name, folder)


def main(argv: Sequence[str] | None = None, prog: str = "finetune-download") -> int:
    """The command: prints the checkpoint's prefix, or the folder."""
    return run_command(
        DownloadSettings,
        lambda settings: say(str(download(settings))),
        prog=prog,
        description=f"{VERBS['download'].summary} Prints where they are.",
        argv=argv,
    )
