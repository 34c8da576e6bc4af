"""Heads and the whole model: shapes, and the deployed form equals the trained one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from aselect_edge.backbones import load_backbone
from aselect_edge.errors import InputError
from aselect_edge.heads import Head, build_head
from aselect_edge.perception import Perception, fused
from aselect_edge.records import COMPONENTS, HeadSpec, Noise, Tap, Task

KINDS: list[tuple[Task, HeadSpec, int]] = [
    ("seg", HeadSpec(kind="linear", channels=8), 1),
    ("seg", HeadSpec(kind="conv", channels=8), 4),
    ("cls", HeadSpec(kind="linear", channels=8), 0),
]


def random_head(task: Task, spec: HeadSpec, widths: list[int], classes: int) -> Head:
    """Weights and BatchNorm statistics as training leaves them, not as it finds them."""
    head = build_head(spec, task, widths, classes).eval().requires_grad_(False)
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features)
            module.running_var = torch.rand(module.num_features) + 0.3
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, 0, 0.3)
    return head


@pytest.mark.parametrize(("task", "spec", "scale"), KINDS)
@settings(max_examples=15, deadline=None)
@given(
    grid=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    widths=st.lists(st.sampled_from([4, 12]), min_size=1, max_size=3),
    classes=st.integers(1, 12),
    count=st.integers(1, 3),
)
def test_logits_have_the_shape_of_the_task_and_fusing_changes_nothing(
    task: Task, spec: HeadSpec, scale: int, grid: tuple[int, int], widths: list[int], classes: int, count: int
) -> None:
    head = random_head(task, spec, widths, classes)
    features = tuple(torch.randn(count, *grid, width) for width in widths)
    logits = head(features)
    assert logits.shape == ((count, classes) if scale == 0 else (count, classes, grid[0] * scale, grid[1] * scale))
    deployed = fused(head)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in deployed.modules())
    torch.testing.assert_close(deployed(features), logits, rtol=1e-4, atol=1e-4)


def test_fusing_leaves_the_trained_head_as_it_was() -> None:
    head = random_head("seg", HeadSpec(kind="conv", channels=8), [4], 3).train()
    before = {name: value.clone() for name, value in head.state_dict().items()}
    fused(head)
    assert head.training
    assert all(torch.equal(before[name], value) for name, value in head.state_dict().items())


def test_massive_activations_do_not_pass_the_norm() -> None:
    head = random_head("seg", HeadSpec(kind="linear", channels=1), [8], 3)
    features = torch.randn(1, 2, 2, 8)
    torch.testing.assert_close(head((features * 1e6,)), head((features * 10,)), rtol=1e-4, atol=1e-4)


def test_a_convolutional_head_for_classification_is_refused() -> None:
    with pytest.raises(InputError, match="got the head 'conv' for classification, expected 'linear'"):
        build_head(HeadSpec(kind="conv", channels=8), "cls", [4], 2)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(KINDS),
    taps=st.lists(
        st.builds(Tap, block=st.integers(0, 2), component=st.sampled_from(COMPONENTS)),
        min_size=1,
        max_size=2,
        unique=True,
    ),
    sigma=st.floats(0, 1),
    seed=st.none() | st.integers(0, 9),
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_deployed_equals_trained(
    backbone_folder: Path,
    kind: tuple[Task, HeadSpec, int],
    taps: list[Tap],
    sigma: float,
    seed: int | None,
    grid: tuple[int, int],
) -> None:
    task, spec, _ = kind
    backbone = load_backbone(str(backbone_folder)).model
    noise = Noise(alpha=(1 - sigma**2) ** 0.5, sigma=sigma, model_timestep=sigma * 999)
    head = random_head(task, spec, [32] * len(taps), 5)
    size = grid[0] * 4, grid[1] * 4
    model = Perception(backbone, head, noise, taps, size, seed).eval().requires_grad_(False)
    pixels = torch.rand(2, 3, *size) * 255
    expected = model(pixels)
    error = (model.deployed()(pixels) - expected).abs().max() / expected.abs().max()
    assert error < 1e-4
