"""The folders that diffusers writes: where one is found, and what lies in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aselect_runtime.errors import InputError, IntegrityError
from aselect_runtime.files import inside

WEIGHTS = "diffusion_pytorch_model.safetensors"
TORCH_WEIGHTS = "diffusion_pytorch_model.bin"
MODEL, PROMPT = ("transformer", "vae", "scheduler"), ("text_encoder*", "tokenizer*")
"""Parts of a pipeline: what every backbone needs, and what the empty prompt is computed by."""
_LEAVE = [f"*.{variant}{then}" for variant in ("fp16", "bf16", "non_ema") for then in (".*", "-*")]
"""Variants of files, whole or in shards, that are taken in their plain form."""


def local_folder(source: str, revision: str | None = None, parts: Sequence[str] = MODEL) -> Path:
    """The folder `source`, or a snapshot with these parts of the hub id `source`; raises InputError."""
    folder = Path(source)
    if folder.is_dir():
        return folder
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise InputError(
            f"{source}: no such file or folder, expected a diffusers folder or a hub id such as owner/name, "
            "a .pt file or a bundle"
        )
    # An asterisk would match folders too: an autoencoder's own repository is named file by file.
    patterns = ["config.json", "model_index.json", WEIGHTS]
    patterns += [f"{part}/*.{suffix}" for part in parts for suffix in ("json", "safetensors", "model", "txt")]
    folder = _snapshot(source, revision, patterns)
    if not any(folder.rglob("*.safetensors")):  # the first repositories of DiT have torch's own format alone
        folder = _snapshot(source, revision, [*(f"{part}/*.bin" for part in parts), TORCH_WEIGHTS])
    return folder


def _snapshot(source: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns, ignore_patterns=_LEAVE))
    except Exception as error:  # the hub client raises many unrelated kinds: offline, not found, gated, disk full
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{source}: the hub did not deliver it ({reason}), expected a model id; check name and network"
        ) from error


def part_of(folder: Path, name: str) -> Path:
    """The sub-folder `name` of a pipeline, or the folder itself where it is that part."""
    return folder / name if (folder / name).is_dir() else folder


def beside(folder: Path, name: str) -> Path | None:
    """The sub-folder `name` of a pipeline, also where `folder` is its `transformer/`; None where there is none."""
    resolved = folder.resolve()
    places = (folder, resolved.parent) if resolved.name == "transformer" else (folder,)
    return next((place / name for place in places if (place / name).is_dir()), None)


def weight_files(folder: Path) -> list[Path]:
    """The weights of a diffusers model folder: safetensors, one file or shards, or else torch's own format."""
    for single in (WEIGHTS, TORCH_WEIGHTS):
        index = folder / f"{single}.index.json"
        if index.is_file():
            return _shards(folder, index)
        if (folder / single).is_file():
            return [folder / single]
    raise InputError(f"{folder}: got no {WEIGHTS}, expected safetensors weights; save them so")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises InputError where there is no such file, IntegrityError where it is something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
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
        raise InputError(f"{folder}: got no {missing[0].name}, expected safetensors weights; save them so")
    return files
