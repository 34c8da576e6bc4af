"""Small random PRX and Sana of diffusers' own classes, and their components by hooks of the tests' own."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import PRXTransformer2DModel, SanaTransformer2DModel
from torch import Tensor, nn

from aselect_edge.backbones.building import build
from aselect_edge.backbones.family import Backbone
from aselect_edge.backbones.registry import family_class
from aselect_runtime.records import Tap

PRX: dict[str, Any] = {
    "in_channels": 3,
    "patch_size": 2,
    "context_in_dim": 20,
    "hidden_size": 24,
    "mlp_ratio": 2.5,
    "num_heads": 2,
    "depth": 3,
    "axes_dim": [8, 4],
}
SANA: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "num_attention_heads": 3,
    "attention_head_dim": 8,
    "num_layers": 3,
    "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 12,
    "cross_attention_dim": 24,
    "caption_channels": 20,
    "sample_size": 8,
    "patch_size": 2,
}
CLASSES: dict[str, type[Any]] = {"prx": PRXTransformer2DModel, "sana": SanaTransformer2DModel}
STYLES: dict[str, tuple[str, dict[str, Any]]] = {
    "prx": ("prx", PRX),
    "prx-patch-1": ("prx", PRX | {"patch_size": 1, "axes_dim": [4, 8], "theta": 500, "time_factor": 100.0}),
    "sana": ("sana", SANA),
    "sana-1.5": ("sana", SANA | {"qk_norm": "rms_norm_across_heads", "attention_bias": True, "patch_size": 1}),
    "sana-positions": ("sana", SANA | {"interpolation_scale": 2}),
}
"""Name -> (family, diffusers' configuration)."""


def layers(style: str) -> int:
    config = STYLES[style][1]
    return int(config.get("depth") or config["num_layers"])


def patch(style: str) -> int:
    return int(STYLES[style][1]["patch_size"])


def random_model(family: str, config: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    model = CLASSES[family](**config).eval()
    for name, parameter in model.named_parameters():
        # Away from the initial values: norms and biases must count, or a wrong fold could pass.
        nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.15)
    return model


def random_condition(valid: int = 1, length: int = 6, channels: int = 20) -> dict[str, Tensor]:
    """A prompt of which the last `valid` tokens count, as a tokenizer leaves it that pads on the left."""
    prompt = torch.randn((1, length, channels), generator=torch.Generator().manual_seed(1))
    return {"prompt": prompt, "mask": (torch.arange(length) >= length - valid).long()[None]}


def filled(family: str, config: dict[str, Any]) -> Backbone:
    """The family's module with the weights of a random model."""
    model = build(family_class(family), config)
    state = random_model(family, config).state_dict()
    model.load_state_dict({ours: state[theirs] for ours, theirs in model.keys().items()}, assign=True)
    return model.eval().requires_grad_(False)


def hooked(model: Any, x: Tensor, timestep: Tensor, condition: dict[str, Tensor]) -> dict[Tap, Tensor]:
    """Every component of every block of diffusers' model, called as its pipeline calls it."""
    seen: dict[str, Any] = {}
    hooks = []

    def keep(name: str, module: nn.Module, before: bool = False) -> None:
        if before:
            hooks.append(
                module.register_forward_pre_hook(
                    lambda _m, args, given: seen.update({name: args[0] if args else given["hidden_states"]}),
                    with_kwargs=True,
                )
            )
        else:
            hooks.append(module.register_forward_hook(lambda _m, _args, out: seen.update({name: out})))

    prx = isinstance(model, PRXTransformer2DModel)
    for i, block in enumerate(model.blocks if prx else model.transformer_blocks):
        keep(f"{i}.hidden", block, before=True)
        if prx:
            keep(f"{i}.adaln", block.attention.img_qkv_proj, before=True)
            keep(f"{i}.qkv", block.attention.img_qkv_proj)
            keep(f"{i}.attn", block.attention.to_out[0])
            keep(f"{i}.mlp", block.down_proj)
            keep(f"{i}.modulation", block.modulation.lin)
        else:
            keep(f"{i}.adaln", block.attn1.to_k, before=True)
            for name in ("query", "key", "value"):
                keep(f"{i}.{name}", getattr(block.attn1, f"to_{name[0]}"))
            keep(f"{i}.attn", block.attn1.to_out[0])
            keep(f"{i}.mlp", block.ff)
            keep("modulation", model.time_embed.linear)
    mask = condition["mask"].repeat(len(x), 1)
    masked = {"attention_mask": mask.bool()} if prx else {"encoder_attention_mask": mask}
    with torch.no_grad():
        model(x, timestep=timestep, encoder_hidden_states=condition["prompt"].repeat(len(x), 1, 1), **masked)
    for hook in hooks:
        hook.remove()
    return {Tap.parse(name): value for name, value in _components(model, seen, prx).items()}


def _components(model: Any, seen: dict[str, Any], prx: bool) -> dict[str, Tensor]:
    found = dict(seen)
    for i in range(len(model.blocks if prx else model.transformer_blocks)):
        if prx:
            projected, width = found.pop(f"{i}.qkv"), model.hidden_size
            for part, name in enumerate(("query", "key", "value")):
                found[f"{i}.{name}"] = projected[..., part * width : (part + 1) * width]
            gate = found.pop(f"{i}.modulation")[:, None, 2 * width : 3 * width]
        else:
            table, width = model.transformer_blocks[i].scale_shift_table, model.caption_norm.weight.numel()
            gate = table[2] + seen["modulation"][:, None, 2 * width : 3 * width]
            found[f"{i}.mlp"] = found[f"{i}.mlp"].flatten(2).transpose(1, 2)
        found[f"{i}.attn_gated"] = (gate * found[f"{i}.attn"]).detach()
    found.pop("modulation", None)
    return found
