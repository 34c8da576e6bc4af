"""Model repositories on the hub: download the configurations first, then only the weights that are used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from aselect_runtime.errors import InputError

VARIANTS = ("fp16", "bf16", "fp32")
"""Variants of files that are used if there is no file without a suffix."""
_ROOT = "diffusion_pytorch_model"
_RAW = ["*.non_ema.*", "*.non_ema-*"]
"""Weights that were not averaged, stored next to the averaged ones."""
_LEAVE = [*(f"*.{variant}{then}" for variant in VARIANTS for then in (".*", "-*")), *_RAW]
"""Variants of files, whole or in shards, that are skipped if there is a file without a suffix."""


def snapshot(source: str, revision: str | None, parts: Sequence[str], check: Callable[[Path], object]) -> Path:
    """A local copy of these parts of a repository; `check` gets it before weights are downloaded. Raises InputError."""
    # An asterisk would match folders too, so files in the repository's root are named one by one.
    wanted = ["config.json", "model_index.json", "adapter_config.json", f"{_ROOT}.safetensors.index*.json"]
    wanted += [f"{_ROOT}.bin.index*.json"]
    wanted += [f"{part}/*.{suffix}" for part in parts for suffix in ("json", "model", "txt")]
    folder = _fetch(source, revision, wanted, [])
    if not any((folder / name).is_file() for name in wanted[:3]) and not any(folder.glob("*/*.json")):
        raise InputError(
            f"{source}: got a repository without config.json or model_index.json, expected one that diffusers wrote; "
            "for a repository of .pt files, download one and give its path"
        )
    check(folder)
    for suffix, leave, variant in (
        ("safetensors", _LEAVE, ""),
        ("safetensors", _RAW, "*.{}"),
        ("bin", _LEAVE, ""),
        ("bin", _RAW, "*.{}"),
    ):
        lacking = list(_without_weights(folder, parts))
        if not lacking:
            break
        forms = [variant.format(name) for name in VARIANTS] if variant else ["*"]
        patterns = [
            f"{_ROOT if part == '' else part + '/'}{form}{then}.{suffix}"
            for part in lacking
            for form in forms
            for then in (("", "-*") if variant else ("",))
        ]
        folder = _fetch(source, revision, patterns, leave)
    return folder


def _without_weights(folder: Path, parts: Iterable[str]) -> Iterable[str]:
    """The parts that are models and have no weights yet; "" means the repository's root."""
    places = [folder, *(place for part in parts for place in sorted(folder.glob(part)))]
    for place in places:
        if (place / "config.json").is_file() and not [*place.glob("*.safetensors"), *place.glob("*.bin")]:
            yield "" if place == folder else place.name


def _fetch(source: str, revision: str | None, patterns: list[str], leave: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns, ignore_patterns=leave))
    except Exception as error:  # the hub client raises many unrelated kinds: offline, not found, gated, disk full
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{source}: download from the hub failed ({reason}), expected a model id; check the name and the network"
        ) from error
