"""PRX (Photoroom's text-to-image model): diffusers' own `PRXTransformer2DModel`, tapped.

A block is one attention and a gated MLP (GEGLU). Image tokens attend to themselves and to the prompt's, whose keys and
values every block computes from the same embedded prompt: no block updates it. Queries and keys are normalised head by
head (RMSNorm), and those of the image are turned by their position (RoPE); nothing in the model says what it was
trained on as a size.

Noise: x = (1 - sigma)·x0 + sigma·eps, and the model is fed sigma itself, 0 to 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import PRXTransformer2DModel
from torch import Tensor, nn

from aselect_edge.backbones.family import Condition, expand, of_block
from aselect_edge.backbones.noise import FlowSchedule, Schedule, read_flow_schedule
from aselect_edge.backbones.prompt import prompt_condition
from aselect_edge.backbones.wrapped import Wrapped, check_config, watched
from aselect_runtime.errors import InputError
from aselect_runtime.records import Component, Noise, Tap

_COUNTS = ("in_channels", "patch_size", "context_in_dim", "hidden_size", "num_heads", "depth")
_ALLOWED = {"bottleneck_size": (None,), "resolution_embeds": (False, None)}
"""What the 7B model on pixels has besides; its noise has another scale, which config.json does not hold."""
_SIDES = {16: 64, 32: 16}
"""Channels of the latents -> their side at 512 pixels, for AutoencoderKL (stride 8) and AutoencoderDC (stride 32)."""


@dataclass(frozen=True)
class SigmaSchedule(FlowSchedule):
    """The straight path, with the model fed sigma; timesteps are `steps`·sigma."""

    def levels(self, timesteps: Sequence[float]) -> tuple[Noise, ...]:
        return tuple(noise.model_copy(update={"model_timestep": noise.sigma}) for noise in super().levels(timesteps))

    def describe(self) -> str:
        return "x = (1 - sigma)·x0 + sigma·eps, fed sigma"


class PRX(Wrapped):
    """The reference; its condition is `prompt` (1, L, context_in_dim) and `mask` (1, L), 1 where a token counts."""

    family: ClassVar[str] = "prx"
    trunk: ClassVar[str] = "blocks"
    output: ClassVar[tuple[str, ...]] = ("final_layer",)
    streamed: ClassVar[tuple[str, ...]] = ("model.blocks.",)
    unread: ClassVar[tuple[str, ...]] = (r"final_layer\.",)

    @classmethod
    def from_json(cls, config: dict[str, Any], depth: int | None = None) -> PRX:
        check_config("PRX", config, _COUNTS, _ALLOWED)
        axes = config.get("axes_dim") or (32, 32)
        if len(axes) != 2 or any(type(size) is not int or size < 2 or size % 2 for size in axes):
            raise InputError(
                f"PRX config: got axes_dim = {axes!r}, expected two even numbers that add up to a head's channels; "
                "check config.json"
            )
        return cls(PRXTransformer2DModel, config, depth)

    def __init__(self, kind: Any, config: dict[str, Any], depth: int | None) -> None:
        super().__init__(kind, config, depth)
        self.tokens = nn.Identity()  # so that the patch embedding's output, of a function here, can be hooked

    @property
    def embedding(self) -> nn.Module:
        return self.tokens

    @classmethod
    def schedule(cls, config: dict[str, Any] | None) -> Schedule:
        straight = read_flow_schedule(config, "PRX")
        return SigmaSchedule(straight.config, straight.steps)

    def condition(self, label: int | None = None, folder: Path | None = None) -> Condition:
        condition = prompt_condition(self.family, self.model.config, label, folder)
        self.check_condition(condition)
        return condition

    @property
    def width(self) -> int:
        return int(self.model.hidden_size)

    @property
    def side(self) -> int:
        """That of the 512-pixel models: config.json names none, and RoPE takes any."""
        return _SIDES.get(self.channels, 512)

    def angles(self, grid: tuple[int, int]) -> Tensor:
        """RoPE's angles (T, d/2) of a grid, float64: the row's for the first channels of a head, then the column's."""
        embedder = self.model.pe_embedder
        sizes = zip(grid, embedder.axes_dim, strict=True)
        rows, columns = (_angles(count, size, embedder.theta) for count, size in sizes)
        table = torch.cat([rows[:, None].expand(-1, grid[1], -1), columns.expand(grid[0], -1, -1)], dim=2)
        return table.flatten(0, 1)

    def patch_weight(self) -> Tensor:
        """The patch embedding's weight, of a linear layer there, as of the convolution that it is, (D, C, p, p)."""
        patch = int(self.model.patch_size)
        return self.model.img_in.weight.unflatten(1, (-1, patch, patch))

    def conditioning(self, timestep: Tensor) -> Tensor:
        """What every block's modulation is computed from, (N, D), of sigma (N,)."""
        dtype = self.model.txt_in.weight.dtype
        return self.model._compute_timestep_embedding(timestep, dtype)

    def caption(self, prompt: Tensor) -> Tensor:
        """Prompt embeddings (N, L, C) as every block takes them, (N, L, D)."""
        return self.model.txt_in(prompt)

    def walk(
        self, x: Tensor, timestep: Tensor, condition: Condition, taps: Iterable[Tap] | None = None
    ) -> Iterator[tuple[Tap, Tensor]]:
        wanted = self.wanted(taps)
        grid = self.grid(*x.shape[2:])
        self.check_condition(condition)
        batch = expand(condition, len(x), x.device)
        h = self.tokens(nn.functional.conv2d(x, self.patch_weight(), self.model.img_in.bias, self.model.patch_size))
        h = h.flatten(2).transpose(1, 2)  # (N, T, D)
        rows, columns = torch.meshgrid(*(torch.arange(count, device=x.device) for count in grid), indexing="ij")
        places = torch.stack([rows, columns], dim=2).flatten(0, 1)[None].float()  # (1, T, 2)
        given = {
            "encoder_hidden_states": self.caption(batch["prompt"]),
            "temb": self.conditioning(timestep),
            "image_rotary_emb": self.model.pe_embedder(places),
            "attention_mask": batch["mask"].bool(),
        }
        for index in range(1 + max(tap.block for tap in wanted)):
            with self.held(self.blocks[index]):
                h, read = _watch(self.blocks[index], h, given, of_block(index, wanted))
            yield from ((Tap(block=index, component=component), value) for component, value in read.items())

    def check_condition(self, condition: Condition) -> None:
        prompt = condition.get("prompt")
        length = prompt.shape[1] if prompt is not None and prompt.ndim == 3 else None
        channels = int(self.model.config.context_in_dim)
        self.check(condition, {"prompt": (1, None, channels), "mask": (1, length)})


def _angles(count: int, channels: int, theta: float) -> Tensor:
    """Position times frequency, (count, channels/2)."""
    steps = torch.arange(0, channels, 2, dtype=torch.float64) / channels
    return torch.arange(count, dtype=torch.float64)[:, None] * theta**-steps


def _watch(
    block: nn.Module, x: Tensor, given: dict[str, Tensor], components: frozenset[Component]
) -> tuple[Tensor, dict[Component, Tensor]]:
    """The stream after a `PRXBlock`, and its wanted components (N, T, D)."""
    attention: Any = block.attention
    with watched(
        project=attention.img_qkv_proj,
        attn=attention,
        mlp=block.down_proj,  # type: ignore[arg-type]
        modulation=block.modulation,  # type: ignore[arg-type]
    ) as seen:
        out = block(hidden_states=x, **given)
    (adaln,), projected = seen["project"]
    attended, gate = seen["attn"][1], seen["modulation"][1][0][2]  # (shift, scale, gate) of attention, then of the MLP
    query, key, value = projected.chunk(3, dim=2)
    read: dict[Component, Tensor] = {
        "hidden": x,
        "adaln": adaln,
        "query": query,
        "key": key,
        "value": value,
        "attn": attended,
        "attn_gated": gate * attended,
        "mlp": seen["mlp"][1],
    }
    return out, {component: value for component, value in read.items() if component in components}
