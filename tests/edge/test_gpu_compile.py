"""torch.compile beside the folded module, on a GPU."""

from __future__ import annotations

import pytest
import torch

from aselect_edge.backbones.dit import DiT
from aselect_edge.backbones.dit_config import DiTConfig
from aselect_edge.bundle.model import TapModel
from aselect_edge.heads import build_head
from aselect_runtime.records import HeadSpec, Noise, Tap


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a torch that is built for it")
def test_the_folded_module_compiles_and_answers_as_the_unfolded_one() -> None:
    torch.manual_seed(0)
    config = DiTConfig(
        num_attention_heads=4, attention_head_dim=16, in_channels=3, num_layers=3, sample_size=64, patch_size=8
    )
    taps = [Tap(block=0, component="hidden"), Tap(block=2, component="query")]
    head = build_head(HeadSpec(kind="edge", channels=32), "seg", [64, 64], 5)
    model = TapModel(DiT(config), head, Noise(alpha=0.99, sigma=0.14, model_timestep=50), taps, (48, 64), 0).eval()
    pixels = torch.rand(2, 3, 48, 64) * 255
    with torch.no_grad():
        wanted = model(pixels)
        folded = model.deployed().cuda()
        eager = folded(pixels.cuda())
        compiled = torch.compile(folded)(pixels.cuda())
    torch.testing.assert_close(eager.cpu(), wanted, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-3)
