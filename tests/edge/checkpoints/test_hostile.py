"""Checkpoints that ask for more than there is, or point elsewhere, are refused in one line, in little memory."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderTiny,
    DiTTransformer2DModel,
    ModelMixin,
    PixArtTransformer2DModel,
    PRXTransformer2DModel,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
)
from safetensors.torch import save_file
from torch import Tensor

from aselect_runtime.files import sha256
from tests.bundles import write_bundle
from tests.edge.checkpoints import references as ref
from tests.edge.prompted_reference import PRX, SANA

Make = Callable[[Path], Path]
HUGE, WIDE = 10**9, 10**12
DIT: dict[str, Any] = {
    **{"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2, "in_channels": 3, "patch_size": 4},
    **{"sample_size": 16, "num_embeds_ada_norm": 3},
}
SD3: dict[str, Any] = {
    **{"sample_size": 16, "patch_size": 2, "in_channels": 3, "out_channels": 3, "num_layers": 2},
    **{"attention_head_dim": 8, "num_attention_heads": 3, "joint_attention_dim": 20, "caption_projection_dim": 24},
    **{"pooled_projection_dim": 12, "pos_embed_max_size": 10},
}
PIXART: dict[str, Any] = {
    **{"num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 3, "out_channels": 6, "num_layers": 2},
    **{"cross_attention_dim": 24, "caption_channels": 20, "sample_size": 16, "patch_size": 2},
}
DC: dict[str, Any] = {
    **{"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8), "attention_head_dim": 8},
    **{"encoder_layers_per_block": (1, 1), "decoder_layers_per_block": (1, 1), "latent_channels": 4},
    **{"encoder_qkv_multiscales": ((), ()), "decoder_qkv_multiscales": ((), ())},
}
KL: dict[str, Any] = {"block_out_channels": (8,), "norm_num_groups": 4}


@dataclass(frozen=True)
class Hostile:
    """How a checkpoint is written, what is to load it, and a pattern of the refusal."""

    name: str
    make: Make
    refusal: str
    loader: str = "backbone"


def torch_file(change: Callable[[dict[str, Tensor]], object], **how: Any) -> Make:
    def make(folder: Path) -> Path:
        torch.save(change(ref.dit_state()), folder / "DiT.pt", **how)
        return folder / "DiT.pt"

    return make


def compressed(method: int) -> Make:
    """A torch file whose archive is packed: its pickle claims gigabytes of zeros."""

    def make(folder: Path) -> Path:
        plain, packed = torch_file(dict)(folder), folder / "DiT-packed.pt"
        with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", method) as target:
            for name in source.namelist():
                with target.open(name, "w") as part:
                    part.write(source.read(name))
                    for _ in range(64 if name.endswith("data.pkl") else 0):
                        part.write(bytes(1 << 20))
        return packed

    return make


def header(length: int, text: bytes = b"{}") -> Make:
    """A safetensors file that claims a header of this length."""

    def make(folder: Path) -> Path:
        (folder / "DiT.safetensors").write_bytes(length.to_bytes(8, "little") + text)
        return folder / "DiT.safetensors"

    return make


def claiming(shape: list[int], end: int) -> Make:
    text = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    return header(len(text), text + bytes(64))


def named(*names: str) -> Make:
    """DiT's layout with more tensors, of these names."""

    def make(folder: Path) -> Path:
        save_file({**ref.dit_state(), **{name: torch.zeros(2) for name in names}}, folder / "DiT.safetensors")
        return folder / "DiT.safetensors"

    return make


def saved(kind: type[ModelMixin], base: dict[str, Any], **config: Any) -> Make:
    """A diffusers folder of a real model, whose config.json is then changed."""

    def make(folder: Path) -> Path:
        kind(**base).save_pretrained(folder)
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
        return folder

    return make


def instead(name: str, place: Callable[[Path], None]) -> Make:
    """A diffusers folder in which `place` puts something else where a file was."""

    def make(folder: Path) -> Path:
        saved(DiTTransformer2DModel, DIT)(folder)
        (folder / name).unlink()
        place(folder / name)
        return folder

    return make


def shards(name: str) -> Make:
    """A folder whose index says that a tensor is in the file `name`."""

    def make(folder: Path) -> Path:
        saved(DiTTransformer2DModel, DIT)(folder)
        (folder / "diffusion_pytorch_model.safetensors").unlink()
        index = folder / "diffusion_pytorch_model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {"pos_embed.proj.weight": name}}))
        return folder

    return make


def bundle(change: Callable[[dict[str, Any]], None]) -> Make:
    """A bundle whose record is changed, with right hashes of its files."""

    def make(folder: Path) -> Path:
        path = write_bundle(folder / "bundle") / "bundle.json"
        record = json.loads(path.read_text())
        change(record)
        path.write_text(json.dumps(record))
        return path.parent

    return make


def bundle_weights(change: Callable[[Path], object]) -> Make:
    def make(folder: Path) -> Path:
        path = write_bundle(folder / "bundle")
        change(path / "backbone.safetensors")
        record = json.loads((path / "bundle.json").read_text())
        record["files"]["backbone.safetensors"] = sha256(path / "backbone.safetensors")
        (path / "bundle.json").write_text(json.dumps(record))
        return path

    return make


def _config(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda record: record["backbone"]["config"].update(values)


def _expanded(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "blocks.0.mlp.fc1.weight": torch.zeros(1).expand(80_000, 80_000)}


def _shared(state: dict[str, Tensor]) -> dict[str, Tensor]:
    whole = torch.zeros(1 << 20)
    return {**state, **{f"blocks.{i}.mlp.fc1.weight": whole[: 1 << 19] for i in range(60)}}


def _sparse(state: dict[str, Tensor]) -> dict[str, Tensor]:
    with torch.sparse.check_sparse_tensor_invariants(True):
        return {**state, "x": torch.sparse_coo_tensor(torch.zeros(1, 0), torch.zeros(0), (WIDE,))}


_DEPTHS: dict[Any, str] = {SanaTransformer2DModel: "num_layers", PRXTransformer2DModel: "depth"}
CASES = (
    Hostile("zero-strides", torch_file(_expanded), r"mlp\.fc1\.weight of shape \[80000, 80000\].* holds 1 numbers"),
    Hostile("zero-strides-nested", torch_file(lambda s: {"ema": _expanded(s)}), r"holds 1 numbers"),
    Hostile("zero-strides-old", torch_file(_expanded, _use_new_zipfile_serialization=False), r"holds 1 numbers"),
    Hostile("shared", torch_file(_shared), r"tensors of \d+ numbers in \d+ bytes"),
    Hostile("sparse", torch_file(_sparse), "sparse_coo|unreadable"),
    Hostile("meta", torch_file(lambda s: {**s, "x": torch.empty(WIDE, device="meta")}), r"x as a strided .*on meta"),
    Hostile("deflated", compressed(zipfile.ZIP_DEFLATED), r"compressed part 'DiT/data.pkl' of 6\d{7} bytes"),
    Hostile("bzip2", compressed(zipfile.ZIP_BZIP2), "compressed part"),
    Hostile("lzma", compressed(zipfile.ZIP_LZMA), "compressed part"),
    Hostile("scalar", named("pos_embed.x"), "not understood"),
    Hostile("header-2^63", header(2**63 - 1), "unreadable"),
    Hostile("header-90M", header(90 << 20), "unreadable"),
    Hostile("header-0", header(0), "unreadable"),
    Hostile("claims-4TB", claiming([WIDE], 4 * WIDE), "unreadable"),
    Hostile("claims-too-many", claiming([WIDE], 64), "unreadable"),
    Hostile("claims-overflow", claiming([2**40, 2**40], 64), "unreadable"),
    Hostile("block-10^9", named("blocks.1000000000.attn.proj.weight"), "not understood"),
    Hostile("block-9999", named("blocks.9999.attn.proj.weight"), "num_layers|not understood|no tensor"),
    Hostile("block-digits", named(f"blocks.{'9' * 5000}.attn.proj.weight"), "not understood"),
    *(
        Hostile(f"{kind.__name__}-{key}-{value}", saved(kind, base, **{key: value}), rf"got {key} = ")
        for kind, base in (
            (DiTTransformer2DModel, DIT),
            (SD3Transformer2DModel, SD3),
            (PixArtTransformer2DModel, PIXART),
        )
        for key, value in (
            *(("num_layers", HUGE), ("num_layers", 65536), ("attention_head_dim", WIDE), ("patch_size", 0)),
            *(("patch_size", -2), ("num_attention_heads", -1), ("in_channels", 10**30), ("sample_size", WIDE)),
        )
    ),
    *(
        Hostile(
            f"{kind.__name__}-many-layers",
            saved(kind, base, num_layers=300),
            "got (no tensor|shape) .*check config.json",
        )
        for kind, base in (
            (DiTTransformer2DModel, DIT),
            (SD3Transformer2DModel, SD3),
            (PixArtTransformer2DModel, PIXART),
        )
    ),
    Hostile(
        "dit-positions", saved(DiTTransformer2DModel, DIT, sample_size=65536, patch_size=1), "positions of 32 chan"
    ),
    Hostile("pixart-positions", saved(PixArtTransformer2DModel, PIXART, sample_size=65536), "positions of 24 chan"),
    Hostile("dit-no-patch", saved(DiTTransformer2DModel, DIT, sample_size=2), "at least one patch"),
    Hostile("dit-wide", saved(DiTTransformer2DModel, DIT, attention_head_dim=65536), "got shape"),
    Hostile("sd3-wide", saved(SD3Transformer2DModel, SD3, joint_attention_dim=65536), "got shape"),
    Hostile("sd3-table", saved(SD3Transformer2DModel, SD3, pos_embed_max_size=65536), "got shape"),
    Hostile("pixart-wide", saved(PixArtTransformer2DModel, PIXART, caption_channels=WIDE), "got shape|not understood"),
    Hostile("config-etc", instead("config.json", lambda p: p.symlink_to("/etc/passwd")), "expected JSON"),
    Hostile("config-zero", instead("config.json", lambda p: p.symlink_to("/dev/zero")), "no such file"),
    Hostile("config-pipe", instead("config.json", os.mkfifo), "not a regular file|no such file"),
    Hostile("config-large", instead("config.json", lambda p: os.truncate(_made(p), 1 << 40)), "bytes, more than"),
    Hostile(
        "weights-etc",
        instead("diffusion_pytorch_model.safetensors", lambda p: p.symlink_to("/etc/passwd")),
        "expected safetensors",
    ),
    Hostile(
        "weights-zero",
        instead("diffusion_pytorch_model.safetensors", lambda p: p.symlink_to("/dev/zero")),
        "expected safetensors",
    ),
    Hostile("shard-up", shards("../../secret.safetensors"), "expected a relative path inside"),
    Hostile("shard-root", shards("/etc/passwd"), "expected a relative path inside"),
    *(
        Hostile(f"{kind.__name__}-{key}", saved(kind, base, **{key: value}), rf"got {key} = ")
        for kind, base in ((SanaTransformer2DModel, SANA), (PRXTransformer2DModel, PRX))
        for key, value in ((_DEPTHS[kind], 65536), ("patch_size", 0), ("in_channels", 10**30))
    ),
    Hostile("sana-positions", saved(SanaTransformer2DModel, SANA, sample_size=65536), "positions of"),
    Hostile("dc-layers", saved(AutoencoderDC, DC, encoder_layers_per_block=[HUGE] * 2), "layers_per", "autoencoder"),
    Hostile("dc-wide", saved(AutoencoderDC, DC, encoder_block_out_channels=[WIDE] * 2), "block_out", "autoencoder"),
    Hostile("vae-layers", saved(AutoencoderKL, KL, layers_per_block=HUGE), "layers_per_block", "autoencoder"),
    Hostile("vae-wide", saved(AutoencoderKL, KL, block_out_channels=[WIDE]), "block_out_channels", "autoencoder"),
    Hostile("vae-wide-meta", saved(AutoencoderKL, KL, block_out_channels=[65536]), "got shape", "autoencoder"),
    Hostile(
        "vae-levels",
        saved(AutoencoderKL, KL, block_out_channels=[8] * 999, down_block_types=["DownEncoderBlock2D"] * 999),
        "block_out_channels",
        "autoencoder",
    ),
    Hostile("vae-negative", saved(AutoencoderKL, KL, latent_channels=-4), "latent_channels", "autoencoder"),
    Hostile("vae-no-groups", saved(AutoencoderKL, KL, norm_num_groups=0), "norm_num_groups", "autoencoder"),
    Hostile("tiny-blocks", saved(AutoencoderTiny, {}, num_encoder_blocks=[HUGE] * 4), "num_encoder", "autoencoder"),
    Hostile("tiny-decoder", saved(AutoencoderTiny, {}, num_decoder_blocks=[HUGE] * 4), "num_decoder", "autoencoder"),
    Hostile(
        "vae-strides",
        torch_file(lambda _: {"encoder.conv_in.weight": torch.zeros(1).expand(80_000, 80_000)}),
        "holds 1 numbers",
        "autoencoder",
    ),
    Hostile("bundle-layers", bundle(_config(num_layers=HUGE)), "num_layers", "bundle"),
    Hostile("bundle-wide", bundle(_config(attention_head_dim=65536)), "got shape", "bundle"),
    Hostile(
        "bundle-tap", bundle(lambda r: r.update(taps=[{"block": WIDE, "component": "query"}])), "tap|block", "bundle"
    ),
    Hostile("bundle-patch", bundle(_config(patch_size=0)), "patch_size", "bundle"),
    Hostile("bundle-size", bundle(lambda r: r.update(imgsz=[8192, 8192], noise_draws=64)), "numbers|patches", "bundle"),
    Hostile("bundle-up", bundle(lambda r: r["backbone"].update(file="../x.safetensors")), "hash|relative", "bundle"),
    Hostile("bundle-header", bundle_weights(lambda p: p.write_bytes(b"\xff" * 7 + b"\x7f{}")), "unreadable", "bundle"),
)


def _made(path: Path) -> Path:
    path.touch()
    return path


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """What became of each, in one process of little memory; a checkpoint that makes it hang or crash ends the list."""
    root = tmp_path_factory.mktemp("hostile")
    asked = []
    for number, case in enumerate(CASES):
        folder = root / str(number)
        folder.mkdir()
        torch.manual_seed(0)
        asked.append((case.name, case.loader, str(case.make(folder))))
    run = subprocess.run(
        [sys.executable, "-m", "tests.edge.checkpoints.hostile"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    found = {name: (what, message) for name, what, message in map(json.loads, run.stdout.splitlines())}
    count = {what: sum(got == what for got, _ in found.values()) for what in ("refused", "loaded")}
    other = len(CASES) - sum(count.values())
    print(
        f"\nhostile checkpoints: tried {len(CASES)}, refused {count['refused']}, loaded {count['loaded']}, else {other}"
    )
    assert len(found) == len(CASES), (run.returncode, run.stderr[-2000:], list(found)[-1:])
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_refused_by_name(case: Hostile, outcomes: dict[str, tuple[str, str]]) -> None:
    what, message = outcomes[case.name]
    assert what == "refused", (what, message)
    assert re.search(case.refusal, message), message
    assert "expected" in message
    assert ";" in message
    assert "\n" not in message
    assert len(message) < 1000


def test_tied_and_strided_tensors_still_load(tmp_path: Path) -> None:
    """A transposed tensor and two names of one tensor are sound: their numbers are all there."""
    from aselect_edge.backbones import load_backbone

    state = ref.dit_state()
    turned = {**state, "blocks.0.mlp.fc1.weight": state["blocks.0.mlp.fc1.weight"].T.contiguous().T}
    turned["blocks.1.mlp.fc1.weight"] = turned["blocks.0.mlp.fc1.weight"]
    AutoencoderKL(**KL).save_pretrained(tmp_path / "vae")
    torch.save(turned, tmp_path / "DiT.pt")
    loaded = load_backbone(str(tmp_path / "DiT.pt"), heads=ref.HEADS, vae=str(tmp_path / "vae"))
    got = loaded.model.state_dict()
    for block in (0, 1):
        torch.testing.assert_close(got[f"blocks.{block}.mlp_in.weight"], state["blocks.0.mlp.fc1.weight"])
