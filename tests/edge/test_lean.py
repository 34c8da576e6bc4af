"""Lean loading: no block is in memory before it is run or folded, and the answers are the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiTTransformer2DModel
from safetensors.torch import save_file

from aselect_edge.backbones import DiT, DiTConfig, load_backbone
from aselect_edge.backbones.building import build
from aselect_edge.backbones.folders import WEIGHTS
from aselect_edge.backbones.store import Stored, WeightStore
from aselect_edge.fold import FoldSpec, fold
from aselect_runtime.records import Noise, Tap

NOISE = Noise(alpha=0.9, sigma=0.436, model_timestep=190)
SMALL = {"num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 3, "patch_size": 4, "sample_size": 16}


@pytest.fixture(scope="module", params=["safetensors", "shards", "torch"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    model = DiTTransformer2DModel(**SMALL, num_layers=4, num_embeds_ada_norm=3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    place = tmp_path_factory.mktemp(request.param)
    shard = "40KB" if request.param == "shards" else "10GB"
    model.save_pretrained(place, max_shard_size=shard, safe_serialization=request.param != "torch")
    assert (len(list(place.iterdir())) > 3) == (request.param == "shards")
    return str(place)


@torch.no_grad()
def test_a_lean_backbone_answers_as_a_whole_one(folder: str) -> None:
    whole, lean = load_backbone(folder), load_backbone(folder, depth=2, lean=True)
    assert lean.model.depth == 2
    assert all(parameter.is_meta for parameter in lean.model.get_submodule("blocks").parameters())
    taps = [Tap.parse("0.mlp"), Tap.parse("1.query")]
    x, t = torch.randn(1, 3, 16, 16), torch.tensor([190.0])
    expected = whole.model.features(x, t, whole.condition, taps)
    for _ in range(2):  # what was held is given back, and can be held again
        got = lean.model.features(x, t, lean.condition, taps)
        for tap in taps:
            torch.testing.assert_close(got[tap], expected[tap])
        assert all(parameter.is_meta for parameter in lean.model.get_submodule("blocks").parameters())
    pixels = torch.rand(1, 3, 16, 16) * 255
    folded = [
        fold(b.model, FoldSpec.of(b.model, NOISE, taps, (16, 16), noise_seed=0, condition=b.condition))(pixels)
        for b in (whole, lean)
    ]
    for one, other in zip(*folded, strict=True):
        torch.testing.assert_close(one, other)


def test_blocks_are_given_back_after_an_error(folder: str) -> None:
    model = load_backbone(folder, lean=True).model
    block: Any = model.get_submodule("blocks.0")

    def fail() -> None:
        with model.held(block):
            assert not block.query.weight.is_meta
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert block.query.weight.is_meta


def test_only_surviving_tensors_are_read(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = WeightStore.read

    def spy(self: WeightStore, names: Any) -> Any:
        wanted = list(names)
        read.extend(self.places[name].name for name in wanted)
        return original(self, wanted)

    monkeypatch.setattr(WeightStore, "read", spy)
    backbone = load_backbone(folder, depth=3, lean=True)
    assert set(read) == {"pos_embed.proj.weight", "pos_embed.proj.bias"}
    fold(backbone.model, FoldSpec.of(backbone.model, NOISE, [Tap.parse("1.hidden")], (16, 16)))
    assert {name.split(".")[1] for name in read if name.startswith("transformer_blocks")} == {"0"}
    assert not [name for name in read if name.startswith("proj_out")]


def test_a_part_of_a_tensor_is_read_alone(tmp_path: Path) -> None:
    whole = torch.arange(24.0).reshape(6, 4).half()
    torch.save({"qkv": whole}, tmp_path / "a.pt")
    save_file({"qkv": whole}, tmp_path / "a.safetensors")
    for name in ("a.pt", "a.safetensors"):
        store = WeightStore([tmp_path / name], {"key": Stored("qkv", 1, 3)})
        assert store.shape("key") == (2, 4)
        ((_, value),) = store.read(["key"])
        assert torch.equal(value, whole[2:4].float())
        assert value.is_contiguous()
        assert value.dtype == torch.float32


MEASURE = """
import json, sys, torch
from aselect_edge.backbones import load_backbone
from aselect_edge.fold import FoldSpec, fold
from aselect_runtime.records import Noise, Tap
import aselect_edge.fold.dit, aselect_edge.backbones.dit
def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) * 1024
torch.set_num_threads(1)
def folded_at(block):
    backbone = load_backbone(sys.argv[1], depth=block + 1, lean=True)
    noise, tap = Noise(alpha=0.9, sigma=0.436, model_timestep=190), Tap(block=block, component="query")
    return fold(backbone.model, FoldSpec.of(backbone.model, noise, [tap], (32, 32), condition=backbone.condition))
folded_at(0)  # the libraries' own memory
before = status("VmHWM")
folded = folded_at(int(sys.argv[2]))
folded_bytes = sum(v.numel() * v.element_size() for v in folded.state_dict().values())
print(json.dumps({"peak": status("VmHWM") - before, "folded": folded_bytes}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_lean_fold_peaks_at_what_it_makes_and_one_block(tmp_path: Path) -> None:
    """Wide and deep enough that blocks, not the interpreter, decide: 8 of 12 blocks of width 512, in shards."""
    config = DiTConfig(8, 64, 3, num_layers=12, sample_size=32, patch_size=4, num_embeds_ada_norm=10).to_json()
    model = build(DiT, config)
    state = model.state_dict()
    shards: dict[str, str] = {}
    for index in range(-1, 12):
        own = [name for name in state if name.split(".")[1] == str(index) or (index < 0 and name.startswith("patch"))]
        own += [name for name in state if name.startswith("final")] if index == 11 else []
        tensors = {model.keys()[name]: torch.rand(state[name].shape) for name in own}
        save_file(tensors, tmp_path / f"{index}.safetensors")
        shards |= dict.fromkeys(tensors, f"{index}.safetensors")
    (tmp_path / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": shards}))
    (tmp_path / "config.json").write_text(json.dumps(config))
    block = 4 * sum(value.numel() for name, value in state.items() if name.split(".")[1] == "0")
    done = subprocess.run([sys.executable, "-c", MEASURE, tmp_path, "8"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    assert got["folded"] > 8 * 12 * 512**2 * 4
    # A quarter for what the allocator keeps between blocks, half a block for the float64 of the fold.
    allowed = 1.25 * got["folded"] + 1.5 * block
    assert got["peak"] < allowed, {name: f"{value / 1e6:.0f} MB" for name, value in {**got, "block": block}.items()}
    assert allowed < 9 * block  # not even the blocks alone, read at once, would fit
