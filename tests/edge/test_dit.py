"""Our DiT against the real diffusers class, on random weights saved and loaded through the real code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn

from aselect_edge.backbones import load_backbone
from aselect_edge.backbones.class_conditional import sincos_positions
from aselect_runtime.errors import IntegrityError
from aselect_runtime.records import COMPONENTS, Tap

SMALL = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 3, "in_channels": 3, "patch_size": 4}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> tuple[DiTTransformer2DModel, Path]:
    torch.manual_seed(0)
    model = DiTTransformer2DModel(**SMALL, sample_size=16, num_embeds_ada_norm=5).eval()
    for parameter in model.parameters():  # adaLN-Zero starts at zero, which would hide most mistakes
        nn.init.normal_(parameter, std=0.2)
    folder = tmp_path_factory.mktemp("dit")
    model.save_pretrained(folder / "transformer")
    return model, folder


def test_forward_equals_diffusers(theirs: tuple[DiTTransformer2DModel, Path]) -> None:
    model, folder = theirs
    ours = load_backbone(str(folder)).model
    x, t, y = torch.randn(2, 3, 16, 16), torch.tensor([3, 900]), torch.tensor([1, 5])
    with torch.no_grad():
        torch.testing.assert_close(ours(x, t, y), model(x, t, y).sample, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
def test_taps_equal_hooks_on_diffusers(theirs: tuple[DiTTransformer2DModel, Path], size: tuple[int, int]) -> None:
    model, folder = theirs
    ours = load_backbone(str(folder)).model
    seen: dict[str, Tensor] = {}
    gates: list[Tensor] = []

    def keep(name: str):  # type: ignore[no-untyped-def]
        return lambda _m, _args, out: seen.update({name: out if isinstance(out, Tensor) else out[0]})

    hooks = []
    for i, block in enumerate(model.transformer_blocks):
        places = {"query": block.attn1.to_q, "key": block.attn1.to_k, "value": block.attn1.to_v}
        places |= {"adaln": block.norm1, "attn": block.attn1.to_out[0], "mlp": block.ff}
        hooks += [module.register_forward_hook(keep(f"{i}.{name}")) for name, module in places.items()]
        hooks.append(block.norm1.register_forward_hook(lambda _m, _args, out: gates.append(out[1])))
        hooks.append(block.register_forward_pre_hook(lambda _m, args, i=i: seen.update({f"{i}.hidden": args[0]})))
    x, t, y = torch.randn(2, 3, *size), torch.tensor([50, 50]), torch.tensor([5, 5])
    with torch.no_grad():
        embedded = model.pos_embed(x)
        for block in model.transformer_blocks:  # not model(): its un-patchify only knows squares
            embedded = block(embedded, timestep=t, class_labels=y)
        features = ours.features(x, t, {"label": y})
    for hook in hooks:
        hook.remove()
    for i in range(3):
        seen[f"{i}.attn_gated"] = gates[i][:, None] * seen[f"{i}.attn"]
    assert len(seen) == 3 * len(COMPONENTS)
    for name, value in seen.items():
        torch.testing.assert_close(features[Tap.parse(name)], value, rtol=1e-5, atol=1e-5)
    assert len(features) == 3 * len(COMPONENTS)


def test_positions_equal_diffusers() -> None:
    from diffusers.models.embeddings import get_2d_sincos_pos_embed

    expected = get_2d_sincos_pos_embed(64, (5, 7), base_size=6, output_type="pt").float()
    torch.testing.assert_close(sincos_positions(64, (5, 7), 6), expected)


def test_truncated_weights_are_refused(theirs: tuple[DiTTransformer2DModel, Path], tmp_path: Path) -> None:
    source = theirs[1] / "transformer"
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        (tmp_path / name).write_bytes((source / name).read_bytes()[: None if name.endswith("json") else -100])
    with pytest.raises(IntegrityError, match="expected safetensors"):
        load_backbone(str(tmp_path))
