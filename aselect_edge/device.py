"""The device that a command was asked to compute on."""

from __future__ import annotations

import torch

from aselect_edge.errors import InputError

CPU = torch.device("cpu")


def find_device(name: str) -> torch.device:
    """The device of a name such as `cpu`, `cuda` or `cuda:1`; raises InputError unless torch can compute on it here."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # not on meta, which computes nothing
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"got --device {name!r} ({reason}), expected cpu or a device that torch finds here") from error
    return device
