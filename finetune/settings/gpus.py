"""Which GPUs a command may use, and how much of their memory: settings of a machine, which no run keeps."""

import dataclasses
from typing import ClassVar, Literal

from finetune.errors import UserError
from finetune.settings.flags import CommandSettings, flag

MOST_MEMORY_MIB = 2**24  # 16 TiB, beyond any GPU.


@dataclasses.dataclass(frozen=True, kw_only=True)
class GpuSettings(CommandSettings):
    """Of this machine and this command: a run that goes on elsewhere doesn't know them."""

    title: ClassVar[str] = "GPUs"

    gpu: tuple[int, ...] | Literal["none"] | None = flag(
        None,
        at_least=0,
        metavar="N,...|none",
        help="use these alone, by CUDA's numbers, from 0, of those that CUDA_VISIBLE_DEVICES leaves; none: "
        "the processor; not given: any",
        is_recorded=False,
    )
    gpu_memory_growth: bool | None = flag(
        None,
        help="take a GPU's memory as it is needed; false: all of it at the start; not given: true, but with a limit",
        is_recorded=False,
    )
    gpu_memory_limit: int | None = flag(
        None,
        above=0,
        at_most=MOST_MEMORY_MIB,
        metavar="MIB",
        help="take so much of each GPU's memory, at the start, and no more",
        is_recorded=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gpu == ():
            raise UserError("--gpu names nothing.", "Give numbers of GPUs, or none, or leave it out.")
        if isinstance(self.gpu, tuple) and len(set(self.gpu)) < len(self.gpu):
            raise UserError(f"--gpu {','.join(map(str, self.gpu))} names a GPU twice.", "Give each number once.")
        if self.gpu == "none" and self.about_memory:
            raise UserError(f"{self.about_memory} would have no effect with --gpu none.", "Leave one of them out.")
        if self.gpu_memory_limit is not None and self.gpu_memory_growth:
            raise UserError(
                "--gpu-memory-growth and --gpu-memory-limit don't go together: the memory of a limit is taken at once.",
                "Leave one of them out.",
            )

    @property
    def about_memory(self) -> str:
        """The flags that are given about memory; empty: none."""
        given = {
            "--gpu-memory-growth": self.gpu_memory_growth is not None,
            "--gpu-memory-limit": self.gpu_memory_limit is not None,
        }
        return " and ".join(option for option, is_given in given.items() if is_given)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PassSettings(GpuSettings):
    """Devices that run the same network side by side, each on batches of its own."""

    num_clones: int = flag(
        1, above=0, metavar="N", help="devices that compute side by side; the result doesn't depend on it"
    )
