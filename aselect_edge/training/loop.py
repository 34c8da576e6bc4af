"""The training loop of segmentation."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from aselect_edge.data import SegmentationData
from aselect_edge.denoise import Denoising
from aselect_edge.errors import InputError
from aselect_edge.evaluation import segmentation_confusion
from aselect_edge.frames import Frame
from aselect_edge.metrics import Confusion
from aselect_edge.perception import Perception, upsample
from aselect_edge.records import Resize
from aselect_edge.training.checkpoint import RunState
from aselect_edge.training.loss import class_weights, denoising_loss, segmentation_loss
from aselect_edge.training.recipe import Outcome, Recipe, TellProgress
from aselect_edge.training.views import FrozenViews, Views, to_pixels


def evaluate(model: nn.Module, data: SegmentationData, imgsz: tuple[int, int], how: Resize) -> Confusion:
    """Confusion of a torch model (pixels -> logits) over a split."""
    model.eval()

    @torch.no_grad()
    def predict(frames: Frame) -> Frame:
        return upsample(model(to_pixels(frames)), imgsz).argmax(1).to(torch.uint8).numpy()

    return segmentation_confusion(predict, data, imgsz, how)


def train_segmentation(
    model: Perception,
    train: SegmentationData,
    val: SegmentationData,
    how: Resize,
    recipe: Recipe,
    workdir: Path,
    schedule: dict[str, Any] | None = None,
    finetune: bool = False,
    tell: TellProgress = lambda _what, _share: None,
) -> Outcome:
    """Train `model` in place and return it with its best averaged weights on val.

    Frozen, only the head learns, on features computed once per augmented view. With `finetune`, the backbone
    learns too, jointly with its denoising loss (`schedule` says at which noise). A checkpoint in `workdir`
    resumes an interrupted run of the same recipe.
    """
    torch.manual_seed(recipe.seed)
    if finetune and schedule is None:
        raise InputError("got no noise schedule, expected the backbone's own for fine-tuning; pass schedule=")
    views = Views(train, model.imgsz, how, recipe)
    batches = views if finetune else FrozenViews(views, model.deployed().features, tell)
    optimiser = _optimiser(model, recipe, finetune)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
    denoising = Denoising(schedule or {}, torch.device("cpu")) if finetune and recipe.denoising else None
    weights, steps = class_weights(train), max(1, recipe.samples // recipe.batch)
    every = max(1, steps // recipe.validations)
    task = _task(model, train, how, recipe, finetune)
    state = RunState.resume(workdir, task, model, average, optimiser)
    while state.step < steps:
        rng = np.random.default_rng((recipe.seed, 2, state.step))
        for group in optimiser.param_groups:
            group["lr"] = group["base"] * _rate(state.step, steps, recipe.warmup)
        (model if finetune else model.head).train()
        inputs, labels = batches.batch(rng)
        logits = model(inputs) if finetune else model.head(inputs)
        loss = segmentation_loss(logits, labels, weights, train.ignore_index, recipe.dice)
        state.loss_sum += loss.item()
        if denoising and isinstance(inputs, Tensor) and state.step % recipe.denoising_every == 0:
            loss = loss + recipe.denoising * denoising_loss(denoising, model.backbone, inputs, rng, recipe)
        _step(optimiser, loss)
        average.update_parameters(model)
        state.step += 1
        tell(f"train, loss {loss.item():.3f}, val mIoU {max(state.best, 0):.3f}", state.step / steps)
        if state.step % every == 0 or state.step == steps:
            miou = evaluate(average.module, val, model.imgsz, how).miou()
            state.validated(miou, recipe.batch, average.module.state_dict())
            state.save(workdir, task, model, average, optimiser)
    model.load_state_dict(state.best_weights)
    return Outcome(model.eval(), state.best, tuple(state.curve))


def _optimiser(model: Perception, recipe: Recipe, finetune: bool) -> torch.optim.Optimizer:
    groups = [{"params": list(model.head.parameters()), "lr": recipe.learning_rate, "base": recipe.learning_rate}]
    if finetune:
        groups.append({"params": list(model.backbone.parameters()), "lr": 0.0, "base": recipe.backbone_rate})
    return torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)


def _step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], 1.0)
    optimiser.step()


def _task(model: Perception, data: SegmentationData, how: Resize, recipe: Recipe, finetune: bool) -> str:
    """What is trained, as JSON: a checkpoint is only resumed by the same."""
    digest = hashlib.sha256()
    for tensor in model.backbone.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    content = {
        "recipe": asdict(recipe),
        "finetune": finetune,
        "backbone": digest.hexdigest(),
        "head": str(model.head),
        "taps": [str(tap) for tap in model.taps],
        "noise": model.noise.model_dump(),
        "noise_seed": model.noise_seed,
        "imgsz": model.imgsz,
        "resize": how.model_dump(),
        "classes": [info.name for info in data.classes],
    }
    return json.dumps(content)


def _rate(step: int, steps: int, warmup: int) -> float:
    """Share of the base learning rate: linear warm-up, then a cosine to 1 %."""
    return min(1.0, (step + 1) / warmup) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))
