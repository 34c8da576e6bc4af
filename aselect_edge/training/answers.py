"""From logits to answers, and from a torch model to its figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from aselect_edge.backbones.device import CPU
from aselect_edge.bundle.model import upsample
from aselect_edge.data import LabelledData, SegmentationData
from aselect_edge.evaluation import Answers, measure, score_of
from aselect_edge.evaluation.metrics import Figures
from aselect_edge.team import ALONE, Team
from aselect_edge.training.goal import Goal
from aselect_edge.training.views import to_pixels
from aselect_runtime.frames import Frame, resize_label
from aselect_runtime.records import Resize


def answers(logits: Tensor, data: LabelledData, imgsz: tuple[int, int]) -> Answers:
    """Logits of either task in the form that `evaluation` compares: class maps uint8 (N, H, W) or scores (N, C)."""
    if isinstance(data, SegmentationData):
        return upsample(logits, imgsz).argmax(1).to(torch.uint8).cpu().numpy()
    return logits.softmax(1).cpu().numpy()


def answer_frames(
    model: nn.Module, frames: Frame, data: LabelledData, imgsz: tuple[int, int], device: torch.device = CPU
) -> Answers:
    """The answers of a torch model (pixels -> logits) on `device`, in eval mode, to frames uint8 (N, H, W, 3)."""
    with torch.no_grad():
        return answers(model(to_pixels(frames).to(device)), data, imgsz)


def evaluate(
    model: nn.Module,
    data: LabelledData,
    imgsz: tuple[int, int],
    how: Resize,
    batch: int = 8,
    device: torch.device = CPU,
) -> Figures:
    """Figures of a torch model (pixels -> logits) on `device` over a split."""
    model.eval()
    return measure(lambda frames: answer_frames(model, frames, data, imgsz, device), data, imgsz, how, batch)


def figures_of(
    seen: Iterable[tuple[Tensor, Sequence[Any]]], goal: Goal, imgsz: tuple[int, int], how: Resize, team: Team = ALONE
) -> Figures:
    """Figures and mean loss over val from logits (N, …) with the N labels that `goal.val.read` gives.

    Each process of a `team` has seen its own share of val; all get the figures over the whole.
    """
    score, losses = score_of(goal.val, how), []
    for logits, labels in seen:
        for at, (answer, label) in enumerate(zip(answers(logits, goal.val, imgsz), labels, strict=True)):
            score.add(answer, label)
            losses.append(goal.loss(logits[at : at + 1], _target(label, goal.val, imgsz, how).to(logits.device)).item())
    score.together(team)
    total, count = team.sum(torch.tensor([sum(losses), len(losses)], dtype=torch.float64)).tolist()
    return replace(score.figures(), loss=total / count)


def _target(label: Any, data: LabelledData, imgsz: tuple[int, int], how: Resize) -> Tensor:
    """A label as the loss takes it: (1, H, W) at model size, or (1,)."""
    if isinstance(data, SegmentationData):
        label = resize_label(label, imgsz, how, data.ignore_index)
    return torch.as_tensor(label).long()[None]
