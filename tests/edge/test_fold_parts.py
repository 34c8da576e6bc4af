"""The parts that folded families share, each compared with torch's own function or a formula written down here."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from aselect_edge.fold.algebra import attend, composed
from aselect_edge.fold.parts import RMSNorm, SwiGLU
from aselect_edge.fold.rope import Heads, halves

SEEDS = st.integers(0, 99)


def relative(got: Tensor, expected: Tensor) -> float:
    return ((got - expected).abs().max() / expected.abs().max()).item()


@settings(max_examples=30, deadline=None)
@given(width=st.integers(1, 64), size=st.sampled_from([1e-4, 1.0, 1e3]), eps=st.sampled_from([1e-6, 1e-5]), seed=SEEDS)
def test_rms_norm_is_torchs(width: int, size: float, eps: float, seed: int) -> None:
    torch.manual_seed(seed)
    x, weight = torch.randn(2, 5, width) * size, torch.randn(width)
    with torch.no_grad():
        assert relative(RMSNorm(weight, eps)(x), F.rms_norm(x, (width,), weight, eps)) < 1e-5


def test_rms_norm_of_large_activations_survives_half_precision() -> None:
    """The squares of 3000 are beyond FP16's 65,504."""
    x = torch.linspace(-3000, 3000, 64)[None]
    got = RMSNorm(torch.ones(64), 1e-6).half()(x.half()).detach()
    assert relative(got.float(), F.rms_norm(x, (64,))) < 2e-3


@settings(max_examples=30, deadline=None)
@given(hidden=st.integers(1, 32), seed=SEEDS)
def test_swiglu_is_silu_of_the_first_half_times_the_second(hidden: int, seed: int) -> None:
    torch.manual_seed(seed)
    x = 3 * torch.randn(2, 4, 2 * hidden)
    gate, value = x[..., :hidden], x[..., hidden:]
    assert relative(SwiGLU()(x), gate / (1 + (-gate).exp()) * value) < 1e-5


@settings(max_examples=60, deadline=None)
@given(
    heads=st.integers(1, 4),
    pairs=st.integers(1, 6),
    tokens=st.integers(1, 9),
    asked=st.integers(1, 9),
    kind=st.sampled_from(["none", "rms", "layer"]),
    plain=st.tuples(st.booleans(), st.booleans()),
    seed=SEEDS,
)
def test_attention_with_rope_does_not_mind_the_order_of_channels(
    heads: int, pairs: int, tokens: int, asked: int, kind: str, plain: tuple[bool, bool], seed: int
) -> None:
    """Normalised, turned as complex numbers, and attended to with the scale 1/sqrt(d): whichever of the two is read."""
    torch.manual_seed(seed)
    asked, width = min(asked, tokens), 2 * pairs
    q, k, v = torch.randn(3, 2, tokens, heads * width)
    q, angles = q[:, tokens - asked :], 6 * torch.rand(tokens, pairs)
    norms: list[nn.Module] = [
        nn.Identity() if kind == "none" else nn.RMSNorm(width, 1e-6) if kind == "rms" else nn.LayerNorm(width)
        for _ in range(2)
    ]
    for norm in norms:
        for parameter in norm.parameters():
            nn.init.normal_(parameter, 1.0)

    def turned(x: Tensor, norm: nn.Module, angles: Tensor) -> Tensor:
        x = norm(x.unflatten(2, (heads, width)).transpose(1, 2))
        pairs = torch.view_as_complex(x.double().unflatten(3, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles).to(pairs)).flatten(3)

    queries, keys = turned(q, norms[0], angles[tokens - asked :]), turned(k, norms[1], angles)
    weights = (queries @ keys.transpose(2, 3) / width**0.5).softmax(3)
    expected = (weights @ v.double().unflatten(2, (heads, width)).transpose(1, 2)).transpose(1, 2).flatten(2)

    order = halves(heads, width)
    q, k = (x if as_stored else x[..., order] for x, as_stored in zip((q, k), plain, strict=True))
    query = Heads(norms[0], angles[tokens - asked :], heads, width**-0.5, plain=plain[0])
    key = Heads(norms[1], angles, heads, plain=plain[1])
    with torch.no_grad():
        got = attend(query(q), key(k), v, heads)
    assert relative(got, expected.detach().float()) < 1e-5


@settings(max_examples=20, deadline=None)
@given(patch=st.integers(1, 4), between=st.integers(1, 6), width=st.integers(1, 8), bias=st.booleans(), seed=SEEDS)
def test_two_layers_of_an_embedding_are_one(patch: int, between: int, width: int, bias: bool, seed: int) -> None:
    torch.manual_seed(seed)
    first = nn.Conv2d(3, between, patch, stride=patch, bias=False)
    second = nn.Conv2d(between, width, 1, bias=bias)
    x = torch.randn(2, 3, 2 * patch, 3 * patch)
    with torch.no_grad():
        assert relative(composed(first, second).float()(x), second(first(x))) < 1e-5
