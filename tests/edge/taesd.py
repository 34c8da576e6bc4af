"""Encoders of the TAESD project in its own file layout, of shapes that `AutoencoderTiny` does not have.

Two are known: `taef2` (stride 8; its last three blocks add a branch with a GroupNorm over the whole image) and
`taesana` (stride 32). They imitate autoencoders of families that this project does not fold, so they serve to hold
the encoders' fold against real weights, not for deployment.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from aselect_edge.backbones.family import Affine, Encoder
from aselect_edge.backbones.store import Stored, WeightStore, fill
from aselect_edge.fold.encoders import DeployedTiny, deployed_encoder
from aselect_runtime.errors import InputError


class TaesdEncoder(Encoder):
    """RGB in 0..1 -> 32 channels; the latents are x0 as they are."""

    channels, affine = 32, Affine()

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers
        convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
        self.stride = 2 ** sum(layer.stride == (2, 2) for layer in convolutions)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layers(pixels.flip(1) / 255)


@deployed_encoder.register
def _(encoder: TaesdEncoder) -> nn.Module:
    return DeployedTiny(encoder.layers)


class Block(nn.Module):
    """relu(conv(x) + x), where `pool` first adds its branch to x."""

    def __init__(self, width: int, pool: bool) -> None:
        super().__init__()
        self.conv = nn.Sequential(_conv(width, width), nn.ReLU(), _conv(width, width), nn.ReLU(), _conv(width, width))
        hidden = 4 * width
        self.pool = (
            nn.Sequential(
                nn.Conv2d(width, hidden, 1, bias=False),
                nn.GroupNorm(4, hidden),
                nn.ReLU(),
                nn.Conv2d(hidden, width, 1, bias=False),
            )
            if pool
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return nn.functional.relu(self.conv(x) + x)


def load_taesd(path: Path) -> TaesdEncoder:
    """An encoder from the project's safetensors file `taef2_encoder` or `taesana_encoder`; eval mode, float32."""
    first = {"taef2_encoder": _taef2, "taesana_encoder": _taesana}.get(path.stem)
    if first is None:
        raise InputError(f"{path}: got another TAESD encoder, expected taef2_encoder or taesana_encoder; take those")
    encoder = TaesdEncoder(first())
    places = {name: Stored(name.removeprefix("layers.")) for name in encoder.state_dict()}
    fill(encoder, WeightStore([path], places), "autoencoder weights")
    return encoder


def _taef2() -> nn.Sequential:
    stages = [_stage(pool) for pool in (False, False, True)]
    return nn.Sequential(_conv(3, 64), Block(64, False), *(layer for stage in stages for layer in stage), _conv(64, 32))


def _taesana() -> nn.Sequential:
    stem = [_conv(3, 32, stride=2), nn.ReLU(), _conv(32, 64, stride=2), nn.ReLU(), Block(64, False)]
    return nn.Sequential(*stem, *(layer for _ in range(3) for layer in _stage(False)), _conv(64, 32))


def _stage(pool: bool) -> list[nn.Module]:
    return [_conv(64, 64, stride=2, bias=False), *(Block(64, pool) for _ in range(3))]


def _conv(inputs: int, outputs: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)
