"""Weights on disk, read tensor by tensor, so that only the tensors in use are in memory."""

from __future__ import annotations

import ctypes
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from aselect_edge.backbones.limits import check_total
from aselect_edge.backbones.naming import MODEL, own_names
from aselect_edge.backbones.torch_files import torch_content, unreadable
from aselect_runtime.errors import InputError, IntegrityError

_FLOATS = ("F64", "F32", "F16", "BF16", "float64", "float32", "float16", "bfloat16")
"""Types that store the weights directly, as named by safetensors and torch."""
_PACKED = re.compile(r"u?int[1-8]$|[IU]8$|q|F[468]_|F4|float[48]_|bits")
"""Types that store quantised numbers, as named by safetensors and torch."""
_QUANTISED = re.compile(
    r"(?:^|[._])(?:SCB|absmax|quant_map|nested_quant_map|quant_state|weight_format|scaled_fp8|comfy_quant|"
    r"scale_weight|scale_input|input_scale|weight_scale(?:_inv|_2)?|weight_zero_point|"
    r"qweight|qzeros|g_idx|wscales|weight\._data|weight\._scale|weight_qtype)(?:$|\.)"
)
"""Names of tensors that scale integers or low-precision numbers into weights."""


class Stored(NamedTuple):
    """A tensor of a checkpoint, or one of several equally large `parts` of it along its first axis."""

    name: str
    part: int = 0
    parts: int = 1
    swapped: bool = False
    """Whether to swap the two halves along the first axis: some files store shift and scale in the other order."""
    flat: bool = False
    """Whether to drop the last two axes, which are 1x1 (a pointwise convolution used as a linear layer)."""
    patch: int = 0
    """Patch size of a convolution that is stored as a linear layer over (channels, rows, columns); 0 if it is not."""


class Held(NamedTuple):
    """Shape and type of a tensor in a file."""

    shape: tuple[int, ...]
    dtype: str


class WeightStore:
    """The tensors of safetensors shards, or of torch files, by a model's own names.

    No file stays open or mapped after a `read`, which returns copies in float32. Raises InputError for quantised
    weights, which cannot be used without dequantisation.
    """

    def __init__(self, files: Sequence[Path], places: Mapping[str, Stored], prefixes: tuple[str, ...] = MODEL) -> None:
        self.places = dict(places)
        held: dict[str, tuple[Path, Held]] = {}
        for file in files:
            own = tensors_of(file)
            check_total(file, (of_file.shape for of_file in own.values()))
            held |= {name: (file, of_file) for name, of_file in own.items()}
        self._names = own_names(held, prefixes)
        self._files = {name: held[raw][0] for name, raw in self._names.items()}
        self.held = {name: held[raw][1] for name, raw in self._names.items()}
        """Shape and type of every tensor of the model, by its name without prefixes."""
        _check_values(self._files, self.held)

    def renamed(self, other: Callable[[str], str]) -> WeightStore:
        """The same files; a tensor that is missing is looked up under its `other` name."""
        for name, stored in self.places.items():
            if stored.name not in self._files:
                self.places[name] = stored._replace(name=other(stored.name))
        return self

    def relabelled(self, names: Mapping[str, str]) -> WeightStore:
        """The same files with some tensors under other names: name now -> name then."""

        def moved(values: dict[str, Any]) -> dict[str, Any]:
            return {names.get(name, name): value for name, value in values.items()}

        self._names, self._files, self.held = moved(self._names), moved(self._files), moved(self.held)
        return self

    def placed(self, places: Mapping[str, Stored]) -> WeightStore:
        """The same files for a model whose tensors are stored at these `places`."""
        self.places = dict(places)
        return self

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds the tensor that the model calls `name`."""
        return name in self.places and self.places[name].name in self._files

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the tensor that the model calls `name`."""
        stored = self.places[name]
        shape = self.held[stored.name].shape
        if not shape:  # a number alone
            return shape
        first, *others = shape
        if stored.flat and others[-2:] == [1, 1]:
            del others[-2:]
        if stored.patch and len(others) == 1:
            others = [others[0] // stored.patch**2, stored.patch, stored.patch]
        return (first // stored.parts, *others)

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, float32 copy) of each, file by file."""
        of_file: dict[Path, list[str]] = defaultdict(list)
        for name in names:
            of_file[self._files[self.places[name].name]].append(name)
        for file, wanted in of_file.items():
            raw = {name: self.places[name]._replace(name=self._names[self.places[name].name]) for name in wanted}
            yield from _read(file, raw)

    def tensor(self, name: str) -> Tensor:
        """float32 copy of the tensor that the checkpoint itself calls `name`, without prefixes."""
        ((_, tensor),) = _read(self._files[name], {name: Stored(self._names[name])})
        return tensor


def fill(module: nn.Module, store: WeightStore, what: str, on_disk: tuple[str, ...] = ()) -> None:
    """Load a module's weights, except those whose names begin with one of `on_disk`; sets eval mode.

    Checks that all are present with the right shape; raises IntegrityError whose message begins with `what`.
    """
    own = {name: tuple(value.shape) for name, value in module.state_dict().items() if name in store.places}
    for name, shape in own.items():
        stored = store.places[name].name
        if not store.has(name):
            raise IntegrityError(f"{what}: got no tensor {stored}, expected it in the checkpoint; check config.json")
        if store.shape(name) != shape:
            raise IntegrityError(
                f"{what}: got shape {list(store.shape(name))} for {stored}, expected {list(shape)}; check config.json"
            )
        if store.held[stored].dtype not in _FLOATS:
            raise _quantised(what, stored, store.held[stored])
    wanted = [name for name in own if not name.startswith(on_disk)] if on_disk else own
    module.load_state_dict(dict(store.read(wanted)), strict=False, assign=True)
    module.eval()


def return_freed_memory() -> None:
    """Return freed memory to the system: glibc keeps it in fragments that are too small for the next block."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only in glibc
        if trim is not None:
            trim(0)


def is_torch_file(file: Path) -> bool:
    """Whether a checkpoint is in torch's format: by its first bytes, or by its suffix if these do not decide.

    Raises InputError for a GGUF file.
    """
    try:
        with file.open("rb") as opened:
            head = opened.read(9)
    except OSError as error:
        raise unreadable(file, error, "a checkpoint") from error
    if head.startswith(b"GGUF"):
        raise InputError(
            f"{file}: got a GGUF file, whose weights are quantised, expected safetensors or a torch file of floats; "
            "give the checkpoint that it was made from"
        )
    if head.startswith((b"PK", b"\x80")):
        return True
    return head[8:9] != b"{" and file.suffix != ".safetensors"


def tensors_of(file: Path) -> dict[str, Held]:
    """Shape and type of every tensor in a checkpoint, by its name in the file; raises IntegrityError."""
    if is_torch_file(file):
        state = torch_content(file).state
        return {
            name: Held(tuple(value.shape), str(value.dtype).removeprefix("torch.")) for name, value in state.items()
        }
    try:
        with safe_open(file, framework="pt") as tensors:
            slices = ((name, tensors.get_slice(name)) for name in tensors.keys())  # noqa: SIM118
            return {name: Held(tuple(part.get_shape()), part.get_dtype()) for name, part in slices}
    except (SafetensorError, OSError) as error:
        raise unreadable(file, error, "safetensors") from error


def notes_of(file: Path) -> tuple[dict[str, Any], str]:
    """The training script's metadata stored with the weights, and the key of the weights; empty for safetensors."""
    if not is_torch_file(file):
        return {}, ""
    content = torch_content(file)
    return content.args, content.taken


def _check_values(files: Mapping[str, Path], held: Mapping[str, Held]) -> None:
    for name, of_file in held.items():
        if _PACKED.match(of_file.dtype) or _QUANTISED.search(name):
            raise _quantised(str(files[name]), name, of_file)


def _quantised(what: str, name: str, held: Held) -> InputError:
    return InputError(
        f"{what}: got quantised weights ({name}, {held.dtype}), expected float32, float16 or bfloat16; "
        "save it dequantised"
    )


def _read(file: Path, wanted: Mapping[str, Stored]) -> Iterator[tuple[str, Tensor]]:
    if is_torch_file(file):
        state = torch_content(file).state
        for name, stored in wanted.items():
            yield name, _arranged(_copy(state[stored.name].tensor_split(stored.parts)[stored.part]), stored)
        return
    try:
        for name, stored in wanted.items():
            # Opened for every tensor: pages that were read stay in memory while the file is mapped.
            with safe_open(file, framework="pt") as tensors:
                whole = tensors.get_slice(stored.name)
                rows = whole.get_shape()[0] // stored.parts if stored.parts > 1 else None
                part = slice(None) if rows is None else slice(stored.part * rows, (stored.part + 1) * rows)
                tensor = _copy(whole[part])
            yield name, _arranged(tensor, stored)
    except (SafetensorError, OSError) as error:
        raise unreadable(file, error, "safetensors") from error


def _copy(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def _arranged(tensor: Tensor, stored: Stored) -> Tensor:
    if stored.swapped:
        tensor = torch.cat(tensor.chunk(2)[::-1])
    if stored.patch and tensor.ndim == 2:
        tensor = tensor.unflatten(1, (-1, stored.patch, stored.patch))
    return tensor.flatten(-3) if stored.flat and tensor.ndim == 4 else tensor
