"""Loads each path of standard input in little memory, and prints what became of it; run as a module of its own."""

from __future__ import annotations

import json
import resource
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from aselect_edge.backbones import load_backbone
from aselect_edge.backbones.encoders import load_encoder
from aselect_edge.backbones.single_file import is_diffusers_file
from aselect_edge.bundle import load_bundle
from aselect_runtime.errors import AselectError

ROOM = 1 << 30
"""Bytes that loading may ask for, beyond what the imports took."""


def bound(room: int) -> None:
    """Limit the address space of this process to `room` bytes more than now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + room
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _backbone(path: str) -> object:
    """The number of heads is an option of files without a configuration alone."""
    own = Path(path).is_file() and not is_diffusers_file(Path(path))
    return load_backbone(path, heads=2 if own else None)


LOADERS: dict[str, Callable[[str], object]] = {
    "backbone": _backbone,
    "autoencoder": load_encoder,
    "bundle": lambda path: load_bundle(Path(path)).deployed(),
}


def outcome(loader: str, path: str) -> tuple[str, str]:
    """`refused` and its message, `loaded`, or the name of any other error."""
    try:
        LOADERS[loader](path)
    except AselectError as error:
        return "refused", str(error)
    except BaseException as error:
        return type(error).__name__, str(error)
    return "loaded", ""


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    from diffusers import AutoencoderKL, AutoencoderTiny, PixArtTransformer2DModel, SD3Transformer2DModel  # noqa: F401

    cases = json.load(sys.stdin)
    bound(ROOM)
    for name, loader, path in cases:
        print(json.dumps([name, *outcome(loader, path)]), flush=True)
