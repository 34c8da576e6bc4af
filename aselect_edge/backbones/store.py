"""Weights on disk, read tensor by tensor, so that no more of a checkpoint is in memory than is used."""

from __future__ import annotations

import ctypes
import sys
import zipfile
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from aselect_runtime.errors import IntegrityError


class Stored(NamedTuple):
    """A tensor of a checkpoint, or one of several equal `parts` of it along its first axis."""

    name: str
    part: int = 0
    parts: int = 1


class WeightStore:
    """The tensors of safetensors shards, or of torch files, under a model's own names.

    No file stays open, and no page of one mapped, beyond a `read`: what was read is a copy in float32.
    """

    def __init__(self, files: Sequence[Path], places: Mapping[str, Stored]) -> None:
        self.places = dict(places)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._files: dict[str, Path] = {}
        for file in files:
            for name, shape in shapes_of(file).items():
                self._files[name], self.shapes[name] = file, shape

    def renamed(self, other: Callable[[str], str]) -> WeightStore:
        """The same files, where a tensor that is not there is looked for under its `other` name."""
        for name, stored in self.places.items():
            if stored.name not in self._files:
                self.places[name] = stored._replace(name=other(stored.name))
        return self

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds the tensor that a model calls `name`."""
        return name in self.places and self.places[name].name in self._files

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the tensor that a model calls `name`."""
        stored = self.places[name]
        first, *others = self.shapes[stored.name]
        return (first // stored.parts, *others)

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """(name, float32 copy) of each, file by file."""
        of_file: dict[Path, list[str]] = defaultdict(list)
        for name in names:
            of_file[self._files[self.places[name].name]].append(name)
        for file, wanted in of_file.items():
            yield from _read(file, {name: self.places[name] for name in wanted})


def fill(module: nn.Module, store: WeightStore, what: str, on_disk: tuple[str, ...] = ()) -> None:
    """Give a module its weights, but for those whose names begin with one of `on_disk`; eval mode.

    Checks that all of them are there, of the right shape; raises IntegrityError that begins with `what`.
    """
    own = {name: tuple(value.shape) for name, value in module.state_dict().items() if name in store.places}
    for name, shape in own.items():
        stored = store.places[name].name
        if not store.has(name):
            raise IntegrityError(f"{what}: got no tensor {stored}, expected it to be there; check config.json")
        if store.shape(name) != shape:
            raise IntegrityError(
                f"{what}: got shape {list(store.shape(name))} for {stored}, expected {list(shape)}; check config.json"
            )
    wanted = [name for name in own if not name.startswith(on_disk)] if on_disk else own
    module.load_state_dict(dict(store.read(wanted)), strict=False, assign=True)
    module.eval()


def return_freed_memory() -> None:
    """Give the system back what was freed: glibc keeps it, in holes that the next block does not fit into."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
        if trim is not None:
            trim(0)


def is_torch_file(file: Path) -> bool:
    """Whether a checkpoint is torch's own format, by its suffix."""
    return file.suffix in (".pt", ".pth", ".bin")


def _read(file: Path, wanted: Mapping[str, Stored]) -> Iterator[tuple[str, Tensor]]:
    if is_torch_file(file):
        state = torch_state(file)
        for name, stored in wanted.items():
            yield name, _copy(state[stored.name].tensor_split(stored.parts)[stored.part])
        return
    try:
        for name, stored in wanted.items():
            # Opened for every tensor: the pages that were read stay in memory for as long as the file is mapped.
            with safe_open(file, framework="pt") as tensors:
                whole = tensors.get_slice(stored.name)
                rows = whole.get_shape()[0] // stored.parts if stored.parts > 1 else None
                part = slice(None) if rows is None else slice(stored.part * rows, (stored.part + 1) * rows)
                tensor = _copy(whole[part])
            yield name, tensor
    except (SafetensorError, OSError) as error:
        raise _unreadable(file, error) from error


def shapes_of(file: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor in a checkpoint; raises IntegrityError."""
    if is_torch_file(file):
        return {name: tuple(tensor.shape) for name, tensor in torch_state(file).items()}
    try:
        with safe_open(file, framework="pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _unreadable(file, error) from error


def torch_state(file: Path) -> dict[str, Tensor]:
    """The state dict in a torch file, mapped rather than read; raises IntegrityError.

    Of a training checkpoint it is the averaged weights (`ema`, `model_ema1`), or else the plain ones (`model`,
    `state_dict`).
    """
    try:
        # Training scripts put their arguments beside the weights: a namespace, which runs no code either.
        with torch.serialization.safe_globals([Namespace]):
            mapped = zipfile.is_zipfile(file)  # torch's format before 1.6 was none, and has to be read whole
            content: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # torch.load raises many unrelated kinds on what it did not write
        raise _unreadable(file, error) from error
    for key in ("ema", "model_ema1", "model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise IntegrityError(f"{file}: got no state dict, expected tensors by name; download it again")
    return content


def _copy(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def _unreadable(file: Path, error: Exception) -> IntegrityError:
    kind = "a torch checkpoint" if is_torch_file(file) else "safetensors"
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return IntegrityError(f"{file}: unreadable ({reason}), expected {kind}; download it again")
