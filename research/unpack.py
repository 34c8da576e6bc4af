"""Unpacking what `research.pack` wrote, checked against its manifest."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aselect_runtime.errors import InputError, WriteError
from aselect_runtime.files import inside
from aselect_runtime.frames import Frame
from research.tiny import SIDE

VERSION = 1
MANIFEST = "manifest.json"
COMPLETE = "complete"
"""The file that is written when everything else is unpacked."""
TILES = 32
"""Images along either side of a mosaic."""


def unpack(path: Path, folder: Path, workers: int = 8) -> Path:
    """Write the pack's data to `folder`, replacing it; raises InputError for a truncated, changed or other file."""
    contents = read_pack(path)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tiny = sorted(name for name in contents if name.startswith("tinyimagenet/mosaic"))
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(partial(_write, folder), contents.items(), chunksize=32))
        mosaics = list(pool.map(_decoded, (contents[name] for name in tiny)))
    if tiny:
        tiles = np.concatenate([_tiles(mosaic) for mosaic in mosaics])
        labels = np.load(folder / "tinyimagenet/labels.npy")
        np.save(folder / "tinyimagenet/images.npy", tiles[: len(labels)])
    (folder / COMPLETE).touch()
    return folder


def read_pack(path: Path) -> dict[str, bytes]:
    """Content by name, checked against the manifest; raises InputError."""
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = json.loads(archive.read(MANIFEST))
            contents = {name: archive.read(name) for name in manifest.get("sha256", {})}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: got an incomplete pack ({error}), expected a complete one; make it again with make gpu-pack"
        ) from error
    if manifest.get("version") != VERSION:
        raise InputError(
            f"{path}: got a pack of version {manifest.get('version')}, expected {VERSION}; make it again with make "
            "gpu-pack"
        )
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != manifest["sha256"][name]:
            raise InputError(
                f"{path}: {name} is damaged, expected the packed contents; make it again with make gpu-pack"
            )
    return contents


def _write(folder: Path, item: tuple[str, bytes]) -> None:
    name, content = item
    path = inside(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".avif"):
        mosaic = name.startswith("tinyimagenet/")
        if not mosaic and not cv2.imwrite(str(path.with_suffix(".bmp")), _decoded(content)):
            raise WriteError(f"{path}: could not write, expected space for the images of the pack; free some")
        return
    path.write_bytes(content)


def _decoded(content: bytes) -> Frame:
    return np.ascontiguousarray(np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))[..., ::-1])


def _tiles(mosaic: Frame) -> NDArray[np.uint8]:
    return mosaic.reshape(TILES, SIDE, TILES, SIDE, 3).transpose(0, 2, 1, 3, 4).reshape(-1, SIDE, SIDE, 3)
