"""Norms that are constants at inference, folded into the convolutions before them."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fused(module: nn.Module) -> nn.Module:
    """A copy in eval mode with every BatchNorm folded into the convolution before it."""
    module = copy.deepcopy(module).eval()
    for part in module.modules():
        if isinstance(part, nn.Sequential):
            for index in range(len(part) - 1):
                conv, norm = part[index], part[index + 1]
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    part[index], part[index + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return module
