"""From logits to answers, and from a torch model to its figures."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aselect_edge.backbones.device import CPU
from aselect_edge.bundle.model import upsample
from aselect_edge.data import SegmentationData
from aselect_edge.evaluation import Answers, Data, measure
from aselect_edge.evaluation.metrics import Figures
from aselect_edge.team import ALONE, Team
from aselect_edge.training.views import to_pixels
from aselect_runtime.frames import Frame
from aselect_runtime.records import Resize


def answers(logits: Tensor, data: Data, imgsz: tuple[int, int]) -> Answers:
    """Logits of either task in the form that `evaluation` compares: class maps uint8 (N, H, W) or scores (N, C)."""
    if isinstance(data, SegmentationData):
        return upsample(logits, imgsz).argmax(1).to(torch.uint8).cpu().numpy()
    return logits.softmax(1).cpu().numpy()


def answer_frames(
    model: nn.Module, frames: Frame, data: Data, imgsz: tuple[int, int], device: torch.device = CPU
) -> Answers:
    """The answers of a torch model (pixels -> logits) on `device`, in eval mode, to frames uint8 (N, H, W, 3)."""
    with torch.no_grad():
        return answers(model(to_pixels(frames).to(device)), data, imgsz)


def evaluate(
    model: nn.Module,
    data: Data,
    imgsz: tuple[int, int],
    how: Resize,
    batch: int = 8,
    device: torch.device = CPU,
    team: Team = ALONE,
) -> Figures:
    """Figures of a torch model (pixels -> logits) on `device` over a split, which a `team` shares."""
    model.eval()
    return measure(lambda frames: answer_frames(model, frames, data, imgsz, device), data, imgsz, how, batch, team=team)
