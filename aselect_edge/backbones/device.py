"""The device that a command computes on, and the precision of training on it."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import torch

from aselect_runtime.errors import InputError

CPU = torch.device("cpu")


def find_device(name: str) -> torch.device:
    """The device of a name such as `cpu`, `cuda` or `cuda:1`; raises InputError unless torch can compute on it here.

    Of the processes that torchrun starts on a machine, each gets the GPU of its number for `cuda`.
    """
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # not on meta, which computes nothing
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"got the device {name!r} ({reason}), expected cpu or a device that torch finds here", parameter="device"
        ) from error
    return device


def reduced(device: torch.device) -> AbstractContextManager[object]:
    """Context in which a training forward pass runs in bfloat16 on CUDA. Weights and losses stay in float32."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()
