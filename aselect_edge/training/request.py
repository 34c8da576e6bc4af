"""The options of `aselect-train` as one record, used by the command and by the benchmarks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from aselect_edge.backbones import LoadedBackbone
from aselect_edge.backbones.device import CPU
from aselect_edge.heads import check_head
from aselect_edge.training.checkpoint import working_folder
from aselect_edge.training.finetune import Unfreeze
from aselect_edge.training.recipe import CleanRecipe, Recipe
from aselect_runtime.errors import InputError
from aselect_runtime.records import HeadSpec, Selection, Tap, Task


@dataclass(frozen=True)
class TrainRequest:
    """A head, and with `unfreeze` parts of the backbone, to be trained on a labelled folder.

    None means the task's default: see `HEADS` and `RECIPES`.
    """

    task: Task
    source: str | LoadedBackbone
    """A backbone, or its name; a named one is then conditioned on the selection's class."""
    selection: Selection
    data: Path
    out: Path
    taps: tuple[Tap, ...] = ()
    """Taps that replace the selection's tap."""
    imgsz: tuple[int, int] | None = None
    """Height and width; None is the backbone's own square."""
    head: HeadSpec | None = None
    recipe: Recipe | None = None
    unfreeze: Unfreeze | None = None
    """The part of the backbone that is trained too; None keeps it frozen."""
    random_backbone: bool = False
    """Replace the backbone's weights by random ones: the baseline that measures the value of pretraining."""
    noise_draws: int = 1
    """Features are the mean over this many draws of the noise, each with one forward pass."""
    discard: Literal["auto"] | tuple[int, ...] = ()
    """Channels of every tap that are set to zero before the head; auto: those that are massive in images of train."""
    clean: CleanRecipe | None = None
    """First train a copy of the backbone to give its features without noise; None keeps the noise."""
    cache: Path | None = None
    """Folder for the features of a frozen backbone, which runs may share; None is in `workdir`."""
    device: torch.device = CPU

    def __post_init__(self) -> None:
        twice = sorted({str(tap) for tap in self.taps if self.taps.count(tap) > 1})
        if twice:
            raise InputError(f"got {', '.join(twice)} twice, expected different taps; give each once", parameter="taps")
        if self.head is not None:
            check_head(self.head, self.task)
        if self.clean is not None and self.unfreeze is not None:
            raise InputError(
                "got clean features and fine-tuning, expected one of them: fine-tuning keeps the backbone a denoiser "
                "of noisy images, clean training gives that up; leave one out",
                parameter=("clean", "finetune"),
            )
        if self.clean is not None and self.noise_draws > 1:
            raise InputError(
                f"got clean features and {self.noise_draws} draws of the noise, expected 1, because no noise is left; "
                "leave one out",
                parameter=("clean", "noise_draws"),
            )

    @property
    def depth(self) -> int | None:
        """Number of blocks of the backbone that are needed; None is all.

        Fine-tuning with the denoising loss needs the whole model; frozen features need no block beyond the taps.
        """
        whole = self.unfreeze is not None or self.random_backbone
        return None if whole else 1 + max(tap.block for tap in self.taps or (self.selection.tap,))

    @property
    def workdir(self) -> Path:
        """Folder of checkpoint, curves and plots."""
        return working_folder(self.out)
