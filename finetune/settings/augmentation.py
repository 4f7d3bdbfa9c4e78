"""How training images are changed at random."""

import dataclasses
from typing import ClassVar

from finetune.errors import UserError
from finetune.settings.choices import AUGMENTATIONS
from finetune.settings.flags import CommandSettings, flag

# Settings that belong to some augmentations only: who names another augmentation leaves them behind.
DETAILS = frozenset({"crop_area", "randaugment"})
# The family of preprocessing whose random windows an augmentation cuts for every network.
WINDOWS_OF = {"inception": "inception", "vgg": "vgg", "randaugment": "inception"}
# Those that cut windows of an area that can be said; the network's own may do so, too.
OF_CROP_AREA = ("inception", "randaugment")
OWN_WINDOWS = ("default", "crop")

DEFAULT_OPERATIONS, DEFAULT_STRENGTH = 2, 9


@dataclasses.dataclass(frozen=True)
class AugmentationSettings(CommandSettings):
    """What training does to each image, at random."""

    title: ClassVar[str] = "Augmentation of training images"

    augmentation: str = flag(
        "default",
        choices=AUGMENTATIONS,
        metavar="NAME",
        help="default: as slim for the network; crop: the same without colours; flip: evaluation's picture, mirrored; "
        "none; inception, vgg: slim's for other networks; keras: as ImageDataGenerator in tutorials; randaugment; "
        "turns: quarter turns and mirrored, for pictures without an up",
    )
    crop_area: tuple[float, ...] = flag(
        (),
        above=0,
        at_most=1,
        metavar="MIN,MAX",
        help="share of the picture's area in the windows of inception and randaugment; not given: 0.1,1, as in slim",
    )
    randaugment: tuple[int, ...] = flag(
        (),
        at_least=1,
        at_most=10,
        metavar="N,M",
        help="so many operations, so strong; not given: "
        f"{DEFAULT_OPERATIONS},{DEFAULT_STRENGTH}; of --augmentation randaugment",
    )
    random_erasing: float = flag(
        0.0,
        at_least=0,
        at_most=1,
        metavar="PROBABILITY",
        help="noise in place of a rectangle of the image, with any augmentation",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.randaugment:
            self._check_randaugment()
        if self.crop_area:
            self._check_crop_area()

    @property
    def num_operations(self) -> int:
        """Of RandAugment, for each image."""
        return self.randaugment[0] if self.randaugment else DEFAULT_OPERATIONS

    @property
    def strength(self) -> int:
        """Of RandAugment's operations, 1 to 10."""
        return self.randaugment[1] if self.randaugment else DEFAULT_STRENGTH

    def _check_randaugment(self) -> None:
        if len(self.randaugment) != 2:
            raise UserError(f"--randaugment takes 2 values, N,M, not {len(self.randaugment)}.")
        if self.augmentation != "randaugment":
            raise UserError(
                f"--randaugment {_in_words(self.randaugment)} would have no effect with --augmentation "
                f"{self.augmentation}.",
                "Give --augmentation randaugment, or leave it out: --randaugment=",
            )

    def _check_crop_area(self) -> None:
        if len(self.crop_area) != 2 or self.crop_area[0] > self.crop_area[1]:
            raise UserError(
                f"--crop-area is {_in_words(self.crop_area)}, but must be two shares, MIN,MAX, the smaller one first."
            )
        if self.augmentation not in (*OF_CROP_AREA, *OWN_WINDOWS):
            raise self.no_windows(f"--augmentation {self.augmentation}")

    def no_windows(self, where: str) -> UserError:
        """The mistake of giving an area for windows where none are cut as inception's are."""
        return UserError(
            f"--crop-area {_in_words(self.crop_area)} would have no effect with {where}: no windows are cut as slim's "
            "inception cuts them.",
            "Give --augmentation inception or randaugment, or leave it out: --crop-area=",
        )


def _in_words(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)
