"""What `aselect-train` is asked to do, as one record: the command and the benchmarks fill the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from aselect_edge.backbones import LoadedBackbone
from aselect_edge.backbones.device import CPU
from aselect_edge.heads import check_head
from aselect_edge.training.finetune import Unfreeze
from aselect_edge.training.recipe import Recipe
from aselect_runtime.records import HeadSpec, Selection, Tap, Task


@dataclass(frozen=True)
class TrainRequest:
    """A head, and with `unfreeze` parts of the backbone, to be trained on a labelled folder.

    What is None is the task's own: see `HEADS` and `RECIPES`.
    """

    task: Task
    source: str | LoadedBackbone
    """A backbone, or the name of one, which is then conditioned on the selection's class."""
    selection: Selection
    data: Path
    out: Path
    taps: tuple[Tap, ...] = ()
    """They replace the selection's tap."""
    imgsz: tuple[int, int] | None = None
    """Height and width; None is the backbone's own square."""
    head: HeadSpec | None = None
    recipe: Recipe | None = None
    unfreeze: Unfreeze | None = None
    """What of the backbone learns too; None leaves it frozen."""
    random_backbone: bool = False
    """Keep the architecture and forget the weights: the baseline that says what pretraining buys."""
    noise_draws: int = 1
    """Features are the mean over so many draws of the noise, at as many forward passes."""
    discard: Literal["auto"] | tuple[int, ...] = ()
    """Channels of every tap that are set to zero before the head; auto: those that are massive in images of train."""
    cache: Path | None = None
    """Where the features of a frozen backbone are kept, which runs may share; None is in `workdir`."""
    device: torch.device = CPU

    def __post_init__(self) -> None:
        if self.head is not None:
            check_head(self.head, self.task)

    @property
    def depth(self) -> int | None:
        """How many blocks of the backbone are needed; None is all.

        Fine-tuning keeps the whole model a denoiser; frozen features need no block beyond the taps.
        """
        whole = self.unfreeze is not None or self.random_backbone
        return None if whole else 1 + max(tap.block for tap in self.taps or (self.selection.tap,))

    @property
    def workdir(self) -> Path:
        """Checkpoint, curves and images."""
        return self.out.with_name(self.out.name + ".training")
