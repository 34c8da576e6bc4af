"""torch's answers in half precision, which FP16 graphs are compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from aselect_export.precision import LIMIT
from aselect_export.verify import Answer, Rung, answer_of_torch
from aselect_runtime.frames import Frame
from aselect_runtime.records import Task


def halves_of_torch(model: nn.Module, task: Task, frames: Frame, batch: int) -> dict[Rung, Answer]:
    """The answer of the deployed model in torch's half precision, by rung.

    mixed is autocast, in which only matrix products and convolutions are FP16, except those whose values reach LIMIT,
    as in the mixed graph. fp16 is the whole model in float16; the call leaves the model in float16.
    """
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    with _sparing_large_products(model, pixels), torch.autocast("cpu", torch.float16):
        mixed = answer_of_torch(model, task, frames, batch)
    return {"mixed": mixed, "fp16": answer_of_torch(model.half(), task, frames, batch)}


@contextmanager
def _sparing_large_products(model: nn.Module, pixels: Tensor) -> Iterator[None]:
    """Run the linear layers and convolutions whose values reach LIMIT on these frames outside autocast."""
    large: set[nn.Module] = set()

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not max(float(inputs[0].abs().max()), float(output.abs().max())) < LIMIT:
            large.add(module)

    products = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    hooks = [module.register_forward_hook(look) for module in products]
    with torch.no_grad():
        for frame in pixels:
            model(frame[None])
    for hook in hooks:
        hook.remove()
    for module in large:
        module.forward = _in_float32(module.forward)
    try:
        yield
    finally:
        for module in large:
            del module.forward  # restores the class's method


def _in_float32(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def wide(x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return forward(x.float())

    return wide
