"""Stable Diffusion 3 and 3.5 (MMDiT, arXiv 2403.03206): diffusers' own `SD3Transformer2DModel`, tapped.

Two streams, image and context (the prompt), meet in the joint attention of every block. All components are the image
stream's. In the dual-attention blocks of SD3.5-medium, `adaln`, `query`, `key`, `value`, `attn` and `attn_gated` are
those of the *joint* attention (`attn`); the image-only second attention (`attn2`) is not a named component.

Noise: x = (1 - sigma)·x0 + sigma·eps, and the model is fed num_train_timesteps·sigma. The scheduler's `shift` only
chooses a sampler's sigmas; applied to a given sigma, or to a timestep index, it would give another noise level, and
diffusers' versions apply it differently. It is not applied here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from diffusers import SD3Transformer2DModel
from torch import Tensor, nn

from aselect_edge.backbones.family import Condition, expand, of_block
from aselect_edge.backbones.limits import check_positions
from aselect_edge.backbones.noise import Schedule, read_flow_schedule
from aselect_edge.backbones.prompt import prompt_condition
from aselect_edge.backbones.wrapped import Wrapped, check_config, watched
from aselect_runtime.errors import InputError
from aselect_runtime.records import Component, Tap

_COUNTS = (
    "sample_size",
    "patch_size",
    "in_channels",
    "num_layers",
    "attention_head_dim",
    "num_attention_heads",
    "joint_attention_dim",
    "caption_projection_dim",
    "pooled_projection_dim",
    "pos_embed_max_size",
)


class SD3(Wrapped):
    """The reference; its condition is `prompt` (1, L, joint_attention_dim) and `pooled` (1, pooled_projection_dim)."""

    family: ClassVar[str] = "sd3"

    @classmethod
    def from_json(cls, config: dict[str, Any], depth: int | None = None) -> SD3:
        check_config("SD3", config, _COUNTS, {"qk_norm": (None, "rms_norm")})
        check_positions("SD3", config.get("sample_size", 128), config.get("patch_size", 2), 1)
        backbone = cls(SD3Transformer2DModel, config, depth)
        if backbone.model.config.caption_projection_dim != backbone.width:
            raise InputError(
                f"SD3 config: got caption_projection_dim = {backbone.model.config.caption_projection_dim}, expected "
                f"the width {backbone.width}, the number of heads times their dimension; check config.json"
            )
        return backbone

    @classmethod
    def schedule(cls, config: dict[str, Any] | None) -> Schedule:
        return read_flow_schedule(config, "SD3")

    def condition(self, label: int | None = None, folder: Path | None = None) -> Condition:
        condition = prompt_condition(self.family, self.model.config, label, folder)
        self.check_condition(condition)
        return condition

    def grid(self, height: int, width: int) -> tuple[int, int]:
        rows, columns = super().grid(height, width)
        limit = self.model.config.pos_embed_max_size
        if max(rows, columns) > limit:
            raise InputError(
                f"got an input of {rows}x{columns} tokens, expected at most {limit}x{limit}, which is the size of the "
                "position table of this model; choose a smaller input",
                parameter="imgsz",
            )
        return rows, columns

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Position table (1, T, D) of a grid: the centre crop of the model's table."""
        patch = self.model.config.patch_size
        return self.model.pos_embed.cropped_pos_embed(grid[0] * patch, grid[1] * patch)

    def walk(
        self, x: Tensor, timestep: Tensor, condition: Condition, taps: Iterable[Tap] | None = None
    ) -> Iterator[tuple[Tap, Tensor]]:
        wanted = self.wanted(taps)
        self.grid(*x.shape[2:])
        self.check_condition(condition)
        batch = expand(condition, len(x), x.device)
        h = self.model.pos_embed(x)  # (N, T, D)
        c = self.model.time_text_embed(timestep, batch["pooled"])  # (N, D)
        context = self.model.context_embedder(batch["prompt"])  # (N, L, D)
        for index in range(1 + max(tap.block for tap in wanted)):
            block = self.blocks[index]
            with self.held(block):
                context, h, read = _watch(block, h, context, c, of_block(index, wanted))
            yield from ((Tap(block=index, component=component), value) for component, value in read.items())

    def check_condition(self, condition: Condition) -> None:
        config = self.model.config
        shapes = {"prompt": (1, None, config.joint_attention_dim), "pooled": (1, config.pooled_projection_dim)}
        self.check(condition, shapes)


def _watch(
    block: nn.Module, x: Tensor, context: Tensor, c: Tensor, components: frozenset[Component]
) -> tuple[Tensor, Tensor, dict[Component, Tensor]]:
    """Context and image tokens after a `JointTransformerBlock`, and its wanted components (N, T, D)."""
    parts: Any = block
    attn = parts.attn
    places = {"query": attn.to_q, "key": attn.to_k, "value": attn.to_v}
    with watched(norm1=parts.norm1, attn=attn, mlp=parts.ff, **places) as seen:
        context, out = block(hidden_states=x, encoder_hidden_states=context, temb=c)
    result = {name: result for name, (_, result) in seen.items()}
    adaln, gate = result["norm1"][:2]
    attended = result["attn"][0]  # the context's part follows
    read: dict[Component, Tensor] = {
        "hidden": x,
        "adaln": adaln,
        "query": result["query"],
        "key": result["key"],
        "value": result["value"],
        "attn": attended,
        "attn_gated": gate[:, None] * attended,
        "mlp": result["mlp"],
    }
    return context, out, {component: value for component, value in read.items() if component in components}
