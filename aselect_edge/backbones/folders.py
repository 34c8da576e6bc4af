"""Folders in diffusers' format: finding one, and the files in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from aselect_edge.backbones.hub import VARIANTS, snapshot
from aselect_edge.backbones.limits import LARGEST_CONFIG
from aselect_runtime.errors import InputError, IntegrityError
from aselect_runtime.files import inside, read_file

WEIGHTS = "diffusion_pytorch_model.safetensors"
TORCH_WEIGHTS = "diffusion_pytorch_model.bin"
MODEL, PROMPT = ("transformer", "vae", "scheduler"), ("text_encoder*", "tokenizer*")
"""Parts of a pipeline: those that every backbone needs, and those that compute the empty prompt."""


def local_folder(
    source: str,
    revision: str | None = None,
    parts: Sequence[str] = MODEL,
    check: Callable[[Path], object] = lambda folder: None,  # noqa: ARG005 - nothing to check
) -> Path:
    """The folder `source`, or a snapshot with these parts of the hub id `source`; raises InputError.

    `check` gets a hub id's configurations before any weight is downloaded, and may refuse them.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise InputError(
            f"{source}: no such file or folder, expected a diffusers folder or a hub id such as owner/name, "
            "a .pt file or a bundle"
        )
    return snapshot(source, revision, parts, check)


def transformer_of(folder: Path) -> Path:
    """The folder of a pipeline's transformer, or the folder itself; raises InputError that names what it found."""
    transformer = part_of(folder, "transformer")
    if (transformer / "config.json").is_file():
        return transformer
    missing = f"{transformer / 'config.json'}: no such file"
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if "adapter_config.json" in names or "pytorch_lora_weights.safetensors" in names:
        raise InputError(
            f"{missing}: got an adapter (LoRA), expected a whole model; merge it into its model and save that"
        )
    if "unet" in names:
        raise InputError(
            f"{missing}: got a pipeline with a U-Net, expected one with a transformer; choose another model"
        )
    if not names:
        raise InputError(f"{missing}: got an empty folder, expected a diffusers folder; check the path")
    files = [name for name in names if name.lower().endswith((".pt", ".pth", ".ckpt", ".tar", ".gguf", ".safetensors"))]
    if files:
        raise InputError(f"{missing}: got {files[0]} alone, expected a diffusers folder; give the path of that file")
    raise InputError(f"{missing}: got {', '.join(names[:3])}, expected a diffusers folder; check the path")


def part_of(folder: Path, name: str) -> Path:
    """The sub-folder `name` of a pipeline, or the folder itself if it is that part."""
    return folder / name if (folder / name).is_dir() else folder


def sibling_folder(folder: Path, name: str) -> Path | None:
    """The sub-folder `name` of a pipeline, also if `folder` is its `transformer/`; None if there is none."""
    resolved = folder.resolve()
    places = (folder, resolved.parent) if resolved.name == "transformer" else (folder,)
    return next((place / name for place in places if (place / name).is_dir()), None)


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a diffusers model folder: safetensors, one file or shards, else torch's format.

    Files without a variant suffix are preferred to variants in another precision.
    """
    for single in (WEIGHTS, TORCH_WEIGHTS):
        stem, suffix = single.split(".")
        for variant in ("", *(f".{name}" for name in VARIANTS)):
            for index in (folder / f"{single}.index{variant}.json", folder / f"{stem}{variant}.{suffix}.index.json"):
                if index.is_file():
                    return _shards(folder, index)
            file = folder / f"{stem}{variant}.{suffix}"
            if file.is_file():
                return [file]
    raise InputError(f"{folder}: got no {WEIGHTS}, expected safetensors weights; save the weights in that format")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises InputError if there is no such file, IntegrityError if its contents are not an object."""
    try:
        value = json.loads(read_file(path, LARGEST_CONFIG))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file, expected a diffusers configuration; check the folder") from error
    except (OSError, ValueError, RecursionError) as error:
        raise IntegrityError(f"{path}: unreadable ({error}), expected JSON; download it again") from error
    if not isinstance(value, dict):
        raise IntegrityError(f"{path}: got {type(value).__name__}, expected a JSON object; download it again")
    return value


def _shards(folder: Path, index: Path) -> list[Path]:
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise IntegrityError(f"{index}: got no weight_map, expected tensor names with files; download it again")
    files = [inside(folder, name) for name in sorted(set(shards.values()))]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise InputError(
            f"{folder}: got no {missing[0].name}, expected safetensors weights; save the weights in that format"
        )
    return files
