"""Heads and the whole model: shapes, and the deployed form equals the trained one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from aselect_edge.backbones import load_backbone
from aselect_edge.bundle import TapModel, fused
from aselect_edge.heads import Head, build_head, taps_for
from aselect_runtime.errors import InputError
from aselect_runtime.records import COMPONENTS, HeadKind, HeadSpec, Noise, Tap, Task

KINDS: list[tuple[Task, HeadSpec, int]] = [
    ("seg", HeadSpec(kind="linear", channels=8), 1),
    ("seg", HeadSpec(kind="conv", channels=8), 4),
    ("seg", HeadSpec(kind="edge", channels=8), 4),
    ("cls", HeadSpec(kind="linear", channels=8), 0),
    ("cls", HeadSpec(kind="attention", channels=8), 0),
]
EDGE = HeadSpec(kind="edge", channels=8)


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
    widths = [8, *widths] if spec.kind == "edge" else widths
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


@pytest.mark.parametrize(
    ("task", "kind", "channels", "widths", "told"),
    [
        ("cls", "conv", 8, [4], "got the head 'conv' for classification, expected linear or attention"),
        ("seg", "attention", 8, [4], "got the head 'attention' for segmentation, expected linear or conv or edge"),
        ("seg", "edge", 7, [4, 4], "got 7 channels for the head 'edge', expected at least 8"),
        ("seg", "conv", 3, [4], "got 3 channels for the head 'conv', expected at least 4"),
        ("seg", "edge", 8, [4], "got one tap for the head 'edge', expected a shallow one"),
    ],
)
def test_a_head_that_cannot_be_is_refused(
    task: Task, kind: HeadKind, channels: int, widths: list[int], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        build_head(HeadSpec(kind=kind, channels=channels), task, widths, 2)


@pytest.mark.parametrize(
    ("asked", "read"),
    [
        ("3.query", "0.hidden 3.query"),
        ("3.query 5.hidden", "0.hidden 3.query 5.hidden"),
        ("3.query 0.mlp", "0.mlp 3.query"),
        ("0.hidden 3.query", "0.hidden 3.query"),
        ("0.query 0.mlp", "0.query 0.mlp"),
        ("0.query", "0.hidden 0.query"),
    ],
)
def test_the_edge_head_reads_a_shallow_tap_first_and_the_others_what_they_are_given(asked: str, read: str) -> None:
    taps = tuple(Tap.parse(text) for text in asked.split())
    assert " ".join(map(str, taps_for(EDGE, taps))) == read
    assert taps_for(EDGE, taps_for(EDGE, taps)) == taps_for(EDGE, taps)
    assert taps_for(HeadSpec(kind="conv", channels=8), taps) == taps


def test_the_edge_head_needs_a_tap_beside_the_shallow_one() -> None:
    with pytest.raises(InputError, match=r"got only the tap 0\.hidden .* give the taps 0\.hidden,"):
        taps_for(EDGE, (Tap.parse("0.hidden"),))


def test_the_edge_head_tells_pixels_of_one_token_apart_by_its_shallow_map_alone() -> None:
    torch.manual_seed(0)
    head = random_head("seg", EDGE, [8, 8], 2)
    deep, shallow = torch.randn(1, 3, 3, 8), torch.randn(1, 3, 3, 8)
    before = head((shallow, deep))
    shallow[0, 1, 1] += torch.randn(8)
    changed = (head((shallow, deep)) - before).abs().amax(dim=(0, 1)) > 0
    assert changed[4:8, 4:8].all()
    assert not changed.all(), "a token does not reach across the whole image"


def test_the_edge_head_costs_no_more_than_the_convolutional_one() -> None:
    conv = build_head(HeadSpec(kind="conv", channels=128), "seg", [192], 11)
    edge = build_head(HeadSpec(kind="edge", channels=128), "seg", [192, 192], 11)
    assert sum(p.numel() for p in edge.parameters()) < sum(p.numel() for p in conv.parameters())


def test_the_attention_head_sees_every_token_in_any_order_and_drops_out_in_training_alone() -> None:
    torch.manual_seed(0)
    head = random_head("cls", HeadSpec(kind="attention", channels=64), [8], 3)
    features = torch.randn(1, 3, 4, 8)
    torch.testing.assert_close(head((features.flip(1, 2),)), head((features,)), rtol=1e-4, atol=1e-5)
    for token in range(12):
        other = features.clone()
        other[0, token // 4, token % 4] = torch.randn(8)
        assert not torch.allclose(head((other,)), head((features,)), atol=1e-6)
    assert torch.equal(head((features,)), head((features,)))
    assert not torch.equal(head.train()((features,)), head((features,)))


def test_the_attention_head_learns_what_only_one_token_shows() -> None:
    torch.manual_seed(0)
    head = build_head(HeadSpec(kind="attention", channels=32), "cls", [8], 2)
    optimiser = torch.optim.AdamW(head.parameters(), lr=1e-2)
    for _ in range(60):
        labels = torch.arange(16) % 2
        features = torch.randn(16, 3, 3, 8)
        features[range(16), torch.randint(3, (16,)), torch.randint(3, (16,)), :2] = nn.functional.one_hot(labels) * 8.0
        loss = nn.functional.cross_entropy(head((features,)), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.4


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
    taps = list(taps_for(spec, taps if taps != [Tap.parse("0.hidden")] else [*taps, Tap.parse("1.hidden")]))
    backbone = load_backbone(str(backbone_folder)).model
    noise = Noise(alpha=(1 - sigma**2) ** 0.5, sigma=sigma, model_timestep=sigma * 999)
    head = random_head(task, spec, [32] * len(taps), 5)
    size = grid[0] * 4, grid[1] * 4
    model = TapModel(backbone, head, noise, taps, size, seed).eval().requires_grad_(False)
    pixels = torch.rand(2, 3, *size) * 255
    expected = model(pixels)
    error = (model.deployed()(pixels) - expected).abs().max() / expected.abs().max()
    assert error < 1e-4
