"""Read torch's files without running code from them: averaged weights, and the training script's metadata."""

from __future__ import annotations

import re
import zipfile
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aselect_edge.backbones.limits import check_held, check_stored
from aselect_runtime.errors import InputError, IntegrityError

_AVERAGE = re.compile(r"(?i)(?:^|_)(?:ema|swa|avg|averaged?)(?:_?\d+)?(?:$|_)")
"""Keys of averaged weights: ema, model_ema, ema_model, state_dict_ema, model_ema1, ema_state_dict, ..."""
_PLAIN = ("model", "state_dict", "model_state_dict", "module", "net", "network", "generator", "transformer", "params")
_VAE = "vae"
"""Where REPA-E keeps the autoencoder that it trained."""
_NOTES = ("args", "config", "cfg", "hparams", "hyper_parameters", "opt_args")
"""Keys under which training scripts store their arguments."""


class Inert:
    """Replaces an object in a file that is not a weight: accepts any arguments and does nothing."""

    def __init__(self, *_arguments: object, **_named: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass

    def __setitem__(self, _key: object, _value: object) -> None:
        pass


_INERT = {
    "pathlib": ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"),
    "pathlib._local": ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"),
    "datetime": ("datetime", "date", "time", "timedelta", "timezone"),
    "numpy": ("ndarray", "dtype", "generic"),
    "numpy.core.multiarray": ("scalar", "_reconstruct"),
    "numpy._core.multiarray": ("scalar", "_reconstruct"),
    "numpy.core.numeric": ("_frombuffer",),
    "numpy._core.numeric": ("_frombuffer",),
    "numpy.dtypes": (
        *(f"{kind}{bits}DType" for kind in ("Int", "UInt") for bits in (8, 16, 32, 64)),
        *("Float16DType", "Float32DType", "Float64DType", "BoolDType", "StrDType", "BytesDType", "ObjectDType"),
    ),
    "omegaconf.dictconfig": ("DictConfig",),
    "omegaconf.listconfig": ("ListConfig",),
    "omegaconf.base": ("ContainerMetadata", "Metadata"),
    "omegaconf.nodes": ("AnyNode", "IntegerNode", "FloatNode", "StringNode", "BooleanNode"),
    "typing": ("Any",),
    "builtins": ("dict", "list", "int", "float", "str", "bool", "tuple"),
    "zoneinfo": ("ZoneInfo", "ZoneInfo._unpickle"),
}
"""Classes that training scripts store next to the weights, by module. Each is replaced by `Inert`; the real class is
never called. Any other class in a file makes it unreadable."""


def _plain_dict(*_arguments: object) -> dict[Any, Any]:
    """Replaces defaultdict, whose items torch does not set."""
    return {}


class Content(NamedTuple):
    """The parts of a torch file that are used."""

    state: dict[str, Tensor]
    args: dict[str, Any]
    """The training script's metadata; empty if there is none in a known form."""
    taken: str
    """Which of several sets of weights this is, for messages."""


def torch_content(file: Path) -> Content:
    """The weights in a torch file, memory-mapped, and the metadata of its training script.

    Tensors under `vae`, of an autoencoder that was trained together with the model, get the prefix `vae.`.

    Averaged weights if the file has them, else the plain ones; tensors without an average (computed tables, for
    example) come from the plain ones. Raises IntegrityError if the file cannot be read, InputError if it holds no
    tensors by name.
    """
    content = _load(file)
    if not isinstance(content, Mapping):
        raise InputError(f"{file}: got {_kind(content)}, expected tensors by name; save the model's state_dict")
    found = _state(file, content)
    if found is None:
        raise InputError(
            f"{file}: got no state dict ({', '.join(sorted(map(str, content))[:4]) or 'nothing in it'}), expected "
            "tensors by name; save the model's state_dict"
        )
    state, taken = found
    whole = {**state, **_autoencoder(content)}
    for name, tensor in whole.items():
        check_held(file, name, tensor)
    return Content(whole, _arguments(content), taken)


def _load(file: Path) -> Any:
    stand_ins: list[Any] = [(Inert, f"{module}.{name}") for module, names in _INERT.items() for name in names]
    stand_ins += [Namespace, SimpleNamespace]  # plain attributes, which run no code either
    stand_ins.append((_plain_dict, "collections.defaultdict"))
    check_stored(file)
    try:
        with torch.serialization.safe_globals(stand_ins):
            mapped = zipfile.is_zipfile(file)  # torch's format before 1.6 is not a zip file and cannot be mapped
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # torch.load raises many unrelated kinds for files that it did not write
        raise unreadable(file, error, "a torch checkpoint") from error


def _state(file: Path, content: Mapping[Any, Any], depth: int = 3) -> tuple[dict[str, Tensor], str] | None:
    """The weights in a dict, with the key that holds them; None if there are none."""
    if depth == 0:
        return None
    # A tensor under such a name belongs to a flat state dict, whose names are resolved like those of other files.
    averages = [key for key in _text(content) if _AVERAGE.search(key) and not isinstance(content[key], Tensor)]
    plain = _inside(file, content, _PLAIN, depth)
    for key in sorted(averages):
        average = content[key]
        if isinstance(average, Mapping) and (found := _state(file, average, depth - 1)):
            return _completed(found[0], plain[0] if plain else {}), key
        if _holds_tensors(average):
            raise InputError(
                f"{file}: got averaged weights under {key!r} that are not tensors by name, expected a state_dict; "
                "save the average as one"
            )
    if plain is not None:
        return plain
    tensors = {key: content[key] for key in _text(content) if isinstance(content[key], Tensor)}
    return (tensors, "") if tensors else None


def _inside(
    file: Path, content: Mapping[Any, Any], keys: tuple[str, ...], depth: int
) -> tuple[dict[str, Tensor], str] | None:
    for key in keys:
        value = content.get(key)
        if isinstance(value, Mapping) and (found := _state(file, value, depth - 1)):
            return found[0], key
    return None


def _autoencoder(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    part = content.get(_VAE)
    if not isinstance(part, Mapping):
        return {}
    return {f"{_VAE}.{name}": part[name] for name in _text(part) if isinstance(part[name], Tensor)}


def _holds_tensors(value: object) -> bool:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, Tensor):
        return value.ndim > 0
    return isinstance(value, (list, tuple)) and any(map(_holds_tensors, value))


def _completed(average: dict[str, Tensor], plain: dict[str, Tensor]) -> dict[str, Tensor]:
    """An average of the parameters, completed with the buffers of the plain weights; unchanged if names differ."""
    return {**plain, **average} if average.keys() <= plain.keys() else average


def _text(content: Mapping[Any, Any]) -> Iterator[str]:
    return (key for key in content if isinstance(key, str))


def _arguments(content: Mapping[Any, Any]) -> dict[str, Any]:
    for key in _NOTES:
        value = content.get(key)
        if isinstance(value, (Namespace, SimpleNamespace)):
            value = vars(value)
        if isinstance(value, Mapping) and value:
            return {name: value[name] for name in _text(value)}
    return {}


def _kind(content: object) -> str:
    return "a tensor" if isinstance(content, Tensor) else f"a {type(content).__name__}"


def unreadable(file: Path, error: Exception, kind: str) -> IntegrityError:
    """The error for a file that raised `error` while it was read as `kind`."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if other := re.search(r"Unsupported global: GLOBAL (\S+)", str(error)):
        reason = f"it holds a {other[1]}, which is not a tensor and is not loaded"
    return IntegrityError(f"{file}: unreadable ({reason}), expected {kind}; download or save it again")
