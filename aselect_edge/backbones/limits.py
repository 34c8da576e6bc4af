"""How much a checkpoint may ask for, checked before memory is taken: configurations and headers are only claims."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from aselect_runtime.errors import InputError, IntegrityError

DEPTH = 512
"""Blocks of a transformer: published ones have up to some 60."""
COUNT = 65536
"""Of anything else that is counted."""
Count = Annotated[int, Field(ge=1, le=COUNT)]
Depth = Annotated[int, Field(ge=1, le=DEPTH)]
LARGEST_TABLE = 1 << 28
"""Numbers of a position table, 1 GiB in float32: Stable Diffusion 3.5's has a third of that."""
LARGEST_CONFIG = 64 << 20
"""Bytes of a configuration, generously: an index of shards names each tensor."""


def check_positions(kind: str, sample_size: Any, patch_size: Any, width: int) -> None:
    """Raise InputError where the position table of a configuration would be empty or larger than LARGEST_TABLE."""
    side = int(sample_size) // int(patch_size)
    if side < 1:
        raise InputError(
            f"{kind} config: got sample_size = {sample_size} and patch_size = {patch_size}, expected at least one "
            "patch a side; check config.json"
        )
    if side * side * width > LARGEST_TABLE:
        raise InputError(
            f"{kind} config: got {side}x{side} positions of {width} channels, expected at most "
            f"{LARGEST_TABLE} numbers; check sample_size, patch_size and the width in config.json"
        )


def check_held(file: Path, name: str, tensor: Tensor) -> None:
    """Raise IntegrityError for a tensor of a torch file whose numbers are not all in that file.

    A view with a stride of zero (`expand`) has one number and asks for as many as its shape says when it is copied.
    """
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        kind = f"a {str(tensor.layout).removeprefix('torch.')} tensor on {tensor.device.type}"
        raise IntegrityError(
            f"{file}: got {name} as {kind}, expected a dense one with its numbers in the file; save a state_dict of "
            "dense tensors"
        )
    held = tensor.untyped_storage().nbytes() // max(1, tensor.element_size())
    if tensor.numel() > held:
        raise IntegrityError(
            f"{file}: got {name} of shape {list(tensor.shape)}, for which the file holds {held} numbers, expected "
            f"{tensor.numel()}; save it contiguous"
        )


def check_total(file: Path, shapes: Iterable[tuple[int, ...]]) -> None:
    """Raise IntegrityError where tensors that share their numbers would together need more of them than the file has
    bytes."""
    total, size = sum(map(math.prod, shapes)), file.stat().st_size
    if total > size:
        raise IntegrityError(
            f"{file}: got tensors of {total} numbers in {size} bytes, expected at least a byte for each; save it again "
            "without views of shared tensors"
        )


def check_stored(file: Path) -> None:
    """Raise IntegrityError for a torch file that is a compressed archive: torch writes plain ones, and what unpacks may
    be larger than any memory."""
    try:
        with zipfile.ZipFile(file) as archive:
            packed = next((info for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED), None)
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError):
        return  # torch says what is broken
    if packed is not None:
        raise IntegrityError(
            f"{file}: got the compressed part {packed.filename!a} of {packed.file_size} bytes, expected a torch "
            "checkpoint, which is not compressed; save it again"
        )


def is_count(value: object, most: int, least: int = 1) -> bool:
    """Whether a value of a configuration is a whole number from `least` up to `most`."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def check_counts(where: str, config: Mapping[str, Any], most: Mapping[str, int], least: int = 1) -> None:
    """Raise InputError where a key of `most` is given and is neither a whole number from `least` up to that limit nor a
    list of at most 16 such numbers."""
    for key, limit in most.items():
        value = config.get(key)
        given = list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]
        if len(given) > 16 or not all(is_count(each, limit, least) for each in given):
            shown = repr(value) if len(repr(value)) < 60 else f"{repr(value)[:60]}…"
            raise InputError(f"{where}: got {key} = {shown}, expected {least} to {limit}; check config.json")
