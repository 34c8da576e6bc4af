"""The models of the graph benchmark, as built by diffusers and by the fold. Weights except the shipped model's are
random: they affect neither time nor memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aselect_edge.backbones import load_backbone
from aselect_edge.backbones.family import PIXELS, Affine
from aselect_edge.backbones.loading import SHIPPED
from aselect_edge.backbones.prompt import CONDITION, load_condition, save_condition
from aselect_edge.fold import FoldSpec, fixed_noise, fold
from aselect_runtime.records import Noise, Tap
from benchmarks import shapes

NOISE = Noise(alpha=0.99, sigma=0.1, model_timestep=50.0)


@dataclass(frozen=True)
class Shape:
    """One model at one size."""

    title: str
    name: str | None
    """Name in benchmarks.shapes; None for the shipped model."""
    values: tuple[int, int, int]
    """Channels, height and width of the backbone's input."""
    taps: tuple[Tap, ...]
    hooks: tuple[str, ...]
    """diffusers' modules whose outputs are the taps."""
    autoencoder: dict[str, Any] | None = None


_KL = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
_KL_16 = _KL | {
    "latent_channels": 16,
    "sample_size": 1024,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
_QUERY = (Tap.parse("9.query"),)
PRX = {"depth": 4}
"""Of PRX-1.2B's 16 blocks the first four; all else is as published, which are diffusers' defaults."""
SHAPES = {
    # Square, because diffusers' DiT un-patchifies as one.
    "shipped": Shape(
        "shipped, 168x168",
        None,
        (3, 168, 168),
        (Tap.parse("0.hidden"), Tap.parse("2.mlp")),
        ("pos_embed", "transformer_blocks.2.ff"),
    ),
    "xl": Shape(
        "DiT-XL/2, 256x256",
        "DiT-XL/2, 256x256",
        (4, 32, 32),
        _QUERY,
        ("transformer_blocks.9.attn1.to_q",),
        _KL | {"latent_channels": 4, "sample_size": 256},
    ),
    "sd3": Shape(
        "SD3-medium, 512x512",
        "SD3-medium, 512x512",
        (16, 64, 64),
        _QUERY,
        ("transformer_blocks.9.attn.to_q",),
        _KL_16,
    ),
    "prx": Shape(
        "PRX-1.2B, 4 of 16 blocks, 512x512",
        "prx",
        (16, 64, 64),
        (Tap.parse("2.attn"),),
        ("blocks.2.attention",),
        _KL_16,
    ),
}


def make(key: str, folder: Path) -> None:
    """Write a model with random weights as the folder that diffusers and aselect-edge read; float16."""
    from diffusers import AutoencoderKL, DiTTransformer2DModel, PRXTransformer2DModel, SD3Transformer2DModel

    shape = SHAPES[key]
    if shape.name is None:
        return
    config = PRX if key == "prx" else shapes.SHAPES[shape.name][1]
    kind = {"sd3": SD3Transformer2DModel, "prx": PRXTransformer2DModel}.get(key, DiTTransformer2DModel)
    _random(kind, config).save_pretrained(folder / "transformer")
    _random(AutoencoderKL, shape.autoencoder or {}).save_pretrained(folder / "vae")
    if key == "sd3":
        condition = {"prompt": torch.randn(1, shapes.PROMPT, 4096), "pooled": torch.randn(1, 2048)}
        save_condition(condition, folder / CONDITION)
    if key == "prx":
        mask = (torch.arange(256) == 255).long()[None]  # the empty prompt: one token, padded on the left
        save_condition({"prompt": torch.randn(1, 256, 2304), "mask": mask}, folder / CONDITION)


def _random(kind: Any, config: dict[str, Any]) -> Any:
    return randomised(kind.from_config({key: value for key, value in config.items() if not key.startswith("_")}).half())


def randomised(model: Any) -> Any:
    """The model with random weights of a size that keeps its features in range."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(std=parameter[0].numel() ** -0.5)
        else:
            parameter.data.normal_(mean=float("norm" in name and name.endswith("weight")), std=0.02)
    return model


def values(key: str) -> Tensor:
    """The same clean input (1, C, h, w) in every process: latents, or for the shipped model pixels of 0..255."""
    channels, height, width = SHAPES[key].values
    generator = torch.Generator().manual_seed(1)
    if key == "shipped":
        return torch.rand(1, channels, height, width, generator=generator) * 255
    return torch.randn(1, channels, height, width, generator=generator)


def noisy(key: str) -> Tensor:
    """The input of diffusers' model for `values`."""
    x0 = values(key)
    if key == "shipped":
        x0 = x0.flip(1) / 127.5 - 1
    return NOISE.alpha * x0 + NOISE.sigma * fixed_noise(SHAPES[key].values, 0)


def whole(key: str, folder: Path) -> tuple[Any, dict[str, Tensor]]:
    """diffusers' own model in float32, and its arguments other than the input."""
    from diffusers import DiTTransformer2DModel, PRXTransformer2DModel, SD3Transformer2DModel

    timestep = torch.tensor([NOISE.model_timestep])
    if key == "sd3":
        model = SD3Transformer2DModel.from_pretrained(folder / "transformer", torch_dtype=torch.float32)
        condition = load_condition(folder / CONDITION)
        extra = {"encoder_hidden_states": condition["prompt"], "pooled_projections": condition["pooled"]}
        return model.eval(), {"timestep": timestep, **extra}
    if key == "prx":
        model = PRXTransformer2DModel.from_pretrained(folder / "transformer", torch_dtype=torch.float32)
        condition = load_condition(folder / CONDITION)
        extra = {"encoder_hidden_states": condition["prompt"], "attention_mask": condition["mask"].bool()}
        return model.eval(), {"timestep": timestep, **extra}
    place = SHIPPED if key == "shipped" else folder
    model = DiTTransformer2DModel.from_pretrained(place / "transformer", torch_dtype=torch.float32)
    return model.eval(), {"timestep": timestep, "class_labels": torch.tensor([model.config.num_embeds_ada_norm])}


class Truncated(nn.Module):
    """diffusers' modules up to the tap, unfolded: (x, timestep) -> the tapped tensors. A manual export."""

    def __init__(self, key: str, model: Any, arguments: dict[str, Tensor]) -> None:
        super().__init__()
        self.model = model
        self.key, self.extra = key, {name: value for name, value in arguments.items() if name != "timestep"}
        deepest = max(tap.block for tap in SHAPES[key].taps)
        trunk = "blocks" if key == "prx" else "transformer_blocks"
        setattr(self.model, trunk, getattr(self.model, trunk)[: deepest + 1])
        for unused in ("final_layer", "proj_out_1", "proj_out_2", "norm_out", "proj_out"):
            if hasattr(self.model, unused):
                delattr(self.model, unused)

    def forward(self, x: Tensor, timestep: Tensor) -> tuple[Tensor, ...]:
        run = {"sd3": self._sd3, "prx": self._prx}.get(self.key, self._dit)
        return run(x, timestep)

    def _prx(self, x: Tensor, timestep: Tensor) -> tuple[Tensor, ...]:
        from diffusers.models.transformers.transformer_prx import get_image_ids, img2seq

        *blocks, last = self.model.blocks
        patch = self.model.patch_size
        h = self.model.img_in(img2seq(x, patch))
        c = self.model._compute_timestep_embedding(timestep, dtype=h.dtype)
        text, mask = self.model.txt_in(self.extra["encoder_hidden_states"]), self.extra["attention_mask"]
        turns = self.model.pe_embedder(get_image_ids(1, x.shape[2], x.shape[3], patch, x.device))
        for block in blocks:
            h = block(h, text, c, turns, mask)
        (shift, scale, _), _ = last.modulation(c)
        return (last.attention((1 + scale) * last.img_pre_norm(h) + shift, text, mask, turns),)

    def _sd3(self, x: Tensor, timestep: Tensor) -> tuple[Tensor, ...]:
        *blocks, last = self.model.transformer_blocks
        h = self.model.pos_embed(x)
        temb = self.model.time_text_embed(timestep, self.extra["pooled_projections"])
        context = self.model.context_embedder(self.extra["encoder_hidden_states"])
        for block in blocks:
            context, h = block(hidden_states=h, encoder_hidden_states=context, temb=temb)
        return (last.attn.to_q(last.norm1(h, emb=temb)[0]),)

    def _dit(self, x: Tensor, timestep: Tensor) -> tuple[Tensor, ...]:
        *blocks, last = self.model.transformer_blocks
        first = h = self.model.pos_embed(x)
        given = {"timestep": timestep, "class_labels": self.extra["class_labels"]}
        for block in blocks:
            h = block(h, **given)
        n, gate, shift, scale, _ = last.norm1(h, *given.values(), hidden_dtype=h.dtype)
        if self.key == "xl":
            return (last.attn1.to_q(n),)
        h = h + gate.unsqueeze(1) * last.attn1(n)
        return first, last.ff(last.norm3(h) * (1 + scale[:, None]) + shift[:, None])


class Features(nn.Module):
    """Only the folded backbone, from `values` to its taps (1, T, D)."""

    def __init__(self, key: str, folder: Path) -> None:
        super().__init__()
        shape = SHAPES[key]
        depth = 1 + max(tap.block for tap in shape.taps)
        loaded = load_backbone("shipped" if key == "shipped" else str(folder), depth=depth, lean=True)
        affine = PIXELS if key == "shipped" else Affine()
        self.backbone = fold(
            loaded.model,
            FoldSpec.of(
                loaded.model,
                NOISE,
                shape.taps,
                shape.values[1:],
                noise_seed=0,
                condition=loaded.condition,
                affine=affine,
            ),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(feature.flatten(1, 2) for feature in self.backbone(x))


def hooked(model: nn.Module, hooks: tuple[str, ...]) -> Callable[[], list[Tensor]]:
    """Register hooks on the named modules; the returned function gives their last outputs."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def look(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            seen[name] = output

        return look

    for name in hooks:
        model.get_submodule(name).register_forward_hook(keep(name))
    return lambda: [seen[name] for name in hooks]
