"""Loading and saving a backbone as the folder that diffusers writes: `transformer/` and `scheduler/`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from aselect_edge.backbones.dit import DiT, DiTConfig, diffusers_keys
from aselect_edge.backbones.noise import DIT_SCHEDULE
from aselect_edge.errors import InputError, IntegrityError
from aselect_edge.files import atomic_write, inside

WEIGHTS = "diffusion_pytorch_model.safetensors"
SHIPPED = Path(__file__).parents[1] / "bundles" / "backbone"
"""The small pixel-space DiT inside the package; its source is written `shipped`."""


@dataclass(frozen=True)
class LoadedBackbone:
    """A backbone ready to be scanned: the whole model, what its timesteps mean and where it came from."""

    model: DiT
    schedule: dict[str, Any]
    source: str
    revision: str | None = None


def load_backbone(
    source: str, revision: str | None = None, warn: Callable[[str], None] = lambda _line: None
) -> LoadedBackbone:
    """Load a diffusers folder (a pipeline, or its `transformer/`), a hub id or `shipped`; float32, eval mode.

    The schedule is the pipeline's own; for a transformer that comes without one it is the published DiT models', and
    `warn` is told. A folder's source is kept as an absolute path, so that records name it from anywhere.
    Raises InputError where the source is not a DiT, IntegrityError where its weights are corrupt or of other shapes.
    """
    folder = _local_folder(source, revision)
    transformer = folder / "transformer" if (folder / "transformer").is_dir() else folder
    config = _read_json(transformer / "config.json")
    if config.get("_class_name") != "DiTTransformer2DModel":
        raise InputError(
            f"{transformer}: got {config.get('_class_name')!r}, expected DiTTransformer2DModel; choose a DiT backbone"
        )
    model = DiT(DiTConfig.from_json(config))
    if model.config.in_channels != 3:
        raise InputError(
            f"{transformer}: got {model.config.in_channels} input channels, expected 3; DiTs on the latents of an "
            "autoencoder are not supported yet, choose one on pixels"
        )
    load_weights(model, weight_files(transformer), diffusers_keys(model.config))
    name = source if source == "shipped" or not Path(source).is_dir() else str(folder.resolve())
    return LoadedBackbone(model.eval(), _schedule(folder, transformer, warn), name, revision)


def load_weights(model: torch.nn.Module, files: Iterable[Path], keys: dict[str, str]) -> None:
    """Fill the parameters of `model` named in `keys` (ours -> the file's), reading only those tensors."""
    found: dict[str, Tensor] = {}
    wanted = {theirs: ours for ours, theirs in keys.items()}
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in wanted.keys() & set(tensors.keys()):
                    found[wanted[name]] = tensors.get_tensor(name).float()
        except (SafetensorError, OSError) as error:
            raise IntegrityError(f"{file}: unreadable ({error}), expected safetensors; download it again") from error
    missing = sorted(keys.keys() - found.keys())
    own = model.state_dict()
    wrong = [name for name, value in found.items() if own[name].shape != value.shape]
    if missing or wrong:
        name = keys[(missing or wrong)[0]]
        fault = "no tensor" if missing else f"shape {list(found[wrong[0]].shape)} for"
        expected = "it to be there" if missing else str(list(own[wrong[0]].shape))
        raise IntegrityError(f"backbone weights: got {fault} {name}, expected {expected}; check config.json")
    model.load_state_dict(found, strict=False)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a diffusers model folder, one or several shards."""
    index = folder / f"{WEIGHTS}.index.json"
    if index.is_file():
        shards = _read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise IntegrityError(f"{index}: got no weight_map, expected tensor names with files; download it again")
        files = [inside(folder, name) for name in sorted(set(shards.values()))]
    else:
        files = [folder / WEIGHTS]
    missing = [file for file in files if not file.is_file()]
    if missing or not files:
        raise InputError(f"{folder}: got no {(missing or [index])[0].name}, expected safetensors weights; save them so")
    return files


def save_backbone(model: DiT, schedule: dict[str, Any], folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write a pipeline folder that diffusers and `load_backbone` read."""
    state = model.state_dict()
    keys = diffusers_keys(model.config)
    tensors = {theirs: state[ours].detach().to("cpu", dtype).clone() for ours, theirs in keys.items()}
    transformer, scheduler = folder / "transformer", folder / "scheduler"
    atomic_write(transformer / "config.json", json.dumps(model.config.to_json(), indent=2) + "\n")
    # Through bytes, because safetensors and torch report a full disk as errors of their own kinds.
    atomic_write(transformer / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    atomic_write(
        scheduler / "scheduler_config.json", json.dumps({"_class_name": "DDPMScheduler", **schedule}, indent=2)
    )


def _schedule(folder: Path, transformer: Path, warn: Callable[[str], None]) -> dict[str, Any]:
    # A pipeline's own transformer/ folder may be named directly: its scheduler is then next to it.
    beside = [transformer.resolve().parent] if transformer.resolve().name == "transformer" else []
    for place in (folder, *beside):
        path = place / "scheduler" / "scheduler_config.json"
        if path.is_file():
            return _read_json(path)
    warn(f"{folder}: no scheduler, taking the published DiT models': {json.dumps(DIT_SCHEDULE)}")
    return DIT_SCHEDULE


def _local_folder(source: str, revision: str | None) -> Path:
    folder = SHIPPED if source == "shipped" else Path(source)
    if folder.is_dir():
        return folder
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise InputError(f"{source}: no such folder, expected a diffusers folder or a hub id such as owner/name")
    from huggingface_hub import snapshot_download

    patterns = ["transformer/*.json", "transformer/*.safetensors", "scheduler/*.json", "config.json", WEIGHTS]
    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    except Exception as error:  # the hub client raises many unrelated kinds: offline, not found, gated, disk full
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{source}: the hub did not deliver it ({reason}), expected a model id; check name and network"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file, expected a diffusers configuration; check the folder") from error
    except (OSError, ValueError, RecursionError) as error:
        raise IntegrityError(f"{path}: unreadable ({error}), expected JSON; download it again") from error
    if not isinstance(value, dict):
        raise IntegrityError(f"{path}: got {type(value).__name__}, expected a JSON object; download it again")
    return value
