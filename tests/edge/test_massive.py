"""Massive channels: a planted one is found and reported, and what is discarded is the same as features set to zero."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aselect_edge import api
from aselect_edge.backbones import LoadedBackbone, load_backbone
from aselect_edge.backbones.family import Backbone
from aselect_edge.backbones.jit import JiT
from aselect_edge.backbones.prompt import CONDITION, save_condition
from aselect_edge.bundle import load_bundle
from aselect_edge.bundle.discard import massive_channels
from aselect_edge.bundle.model import TapModel
from aselect_edge.commands.train import train
from aselect_edge.heads import build_head
from aselect_runtime.errors import InputError, RecordError
from aselect_runtime.records import COMPONENTS, Bundle, Component, HeadSpec, Noise, Selection, Tap
from tests.edge.prompted_reference import STYLES, random_condition
from tests.edge.prompted_reference import random_model as random_prompted
from tests.edge.test_fold import random_model
from tests.edge.test_rotary import random_model as random_rotary
from tests.export.test_families import bundle_of
from tests.log_lines import heard

PLANTED = 5
"""The channel that is made massive: a bias of the patch embedding, which the residual stream carries on."""
SIZE = (16, 24)

pytestmark = pytest.mark.usefixtures("undrawn")


def planted(folder: str, height: float = 300.0) -> LoadedBackbone:
    loaded = load_backbone(folder)
    model: Any = loaded.model
    model.patch_embed.bias.data[PLANTED] = height
    return loaded


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 2.0, 3.0, 201.0, 1.5], (3,)),  # the median is 2
        ([1.0, 2.0, 3.0, 200.0, 1.5], ()),
        ([500.0, 2.0, 900.0, 2.0, 2.0, 1.0], (0, 2)),
        ([4.0, 4.0, 4.0], ()),
    ],
)
def test_massive_is_above_a_hundred_times_the_median(values: list[float], expected: tuple[int, ...]) -> None:
    assert massive_channels(torch.tensor(values, dtype=torch.float64)) == expected


def test_a_planted_channel_is_reported_of_the_taps_that_have_it(
    backbone_folder: Path, street_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "selection.json"
    options: dict[str, Any] = {"strategy": "hfr", "timesteps": (50,), "images": 2, "imgsz": (32, 32)}
    chosen = api.select(planted(str(backbone_folder)), street_data, out=out, **options)
    by_tap = {str(each.tap): each for each in chosen.massive}
    assert {"0.hidden", "1.hidden"} <= by_tap.keys()
    assert by_tap["0.hidden"].channels == (PLANTED,)
    assert by_tap["0.hidden"].ratio > 100
    assert not any(tap.endswith(("query", "mlp")) for tap in by_tap), "a norm comes before these"
    assert Selection.load(out).massive == chosen.massive
    assert len(json.loads(out.read_text())["massive"]) == len(chosen.massive)
    plain = api.select(str(backbone_folder), street_data, **options)
    assert plain.massive == ()
    assert plain.cost is not None
    assert plain.cost.forward_passes == 2, "the search's own"
    assert api.select(str(backbone_folder), strategy="smallest-sigma").massive == ()


MODELS: dict[str, Callable[[], Backbone]] = {
    "dit": lambda: random_model(qk_norm=True, sample_size=16),
    "jit": lambda: random_rotary(JiT),
}


def of_channels(name: str, taps: tuple[Tap, ...], discarded: tuple[tuple[int, ...], ...], draws: int) -> TapModel:
    model: Backbone = MODELS[name]()
    torch.manual_seed(1)
    head = build_head(HeadSpec(kind="linear", channels=1), "seg", [model.width] * len(taps), 3).eval()
    noise = Noise(alpha=0.9, sigma=0.3, model_timestep=0.5)
    tapped = TapModel(model, head, noise, taps, SIZE, 0, noise_draws=draws, discarded=discarded)
    return tapped.eval().requires_grad_(False)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["dit", "jit"]),
    taps=st.lists(
        st.builds(Tap, block=st.integers(0, 2), component=st.sampled_from(COMPONENTS)),
        min_size=1,
        max_size=4,
        unique=True,
    ),
    draws=st.integers(1, 2),
    data=st.data(),
)
def test_discarded_is_zero_and_the_fold_computes_the_same(
    name: str, taps: list[Tap], draws: int, data: st.DataObject
) -> None:
    channels = st.lists(st.integers(0, 15), max_size=3, unique=True).map(lambda each: tuple(sorted(each)))
    discarded = tuple(data.draw(channels) for _ in taps)
    plain, masked = (of_channels(name, tuple(taps), each, draws) for each in ((), discarded))
    pixels = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(3)) * 255
    zeroed = []
    for feature, each in zip(plain.features(pixels), discarded, strict=True):
        feature = feature.clone()
        for channel in each:
            feature[..., channel] = 0
        zeroed.append(feature)
    expected = plain.head(tuple(zeroed))
    torch.testing.assert_close(masked(pixels), expected)
    folded = masked.deployed()
    got = folded(pixels)
    assert (got - expected).abs().max() < 1e-4 * expected.abs().max() + 1e-5
    for feature, each in zip(folded.features(pixels), discarded, strict=True):
        assert not feature[..., list(each)].any()


def _loaded(family: str, folder: Path) -> LoadedBackbone:
    """A small random model of the family's real class, with its condition."""
    if family not in STYLES:
        return bundle_of(family, folder).backbone()
    of_class, config = STYLES[family]
    random_prompted(of_class, config).save_pretrained(folder / "transformer")
    save_condition(random_condition(), folder / CONDITION)
    return load_backbone(str(folder))


@pytest.mark.parametrize("family", ["sd3", "pixart", *STYLES])
def test_the_fold_of_every_family_computes_the_same(family: str, tmp_path: Path) -> None:
    backbone = _loaded(family, tmp_path)
    noise, size = Noise(alpha=0.9, sigma=0.3, model_timestep=50), (32, 48)
    for component in COMPONENTS:
        for taps in ((Tap(block=1, component=component),), tuple(Tap(block=1, component=c) for c in COMPONENTS)):
            torch.manual_seed(1)
            head = build_head(HeadSpec(kind="linear", channels=1), "seg", [backbone.model.width] * len(taps), 3).eval()
            discarded = ((1, 6),) * len(taps)
            model = TapModel(
                backbone.model, head, noise, taps, size, 0, backbone.encoder, backbone.condition, discarded=discarded
            ).eval()
            pixels = torch.rand(1, 3, *size) * 255
            with torch.no_grad():
                expected, folded = model(pixels), model.deployed()
                assert (folded(pixels) - expected).abs().max() < 1e-4 * expected.abs().max() + 1e-5
                assert all(not feature[..., [1, 6]].any() for feature in folded.features(pixels))
            if len(taps) == 1:
                assert any(mask is not None for mask in folded.discard.keep) == (component == "hidden")


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_mask_costs_nothing_where_the_taps_own_layer_ends_the_model(component: Component) -> None:
    folded = of_channels("dit", (Tap(block=1, component=component),), ((2, 7),), 1).deployed()
    in_graph = any(mask is not None for mask in folded.discard.keep)
    assert in_graph == (component == "hidden"), "the residual stream is no layer's output"


def selection(folder: Path, tap: str) -> Selection:
    noise = Noise(alpha=0.9, sigma=0.4, model_timestep=50)
    return Selection(backbone=str(folder), noise=noise, tap=Tap.parse(tap), strategy="manual")


def trained(backbone: LoadedBackbone, data: Path, out: Path, discard: Any, **options: Any) -> Bundle:
    chosen = selection(Path(backbone.source), "1.hidden")
    api.train(backbone, chosen, data, out, imgsz=SIZE, samples=8, discard_channels=discard, **options)
    return load_bundle(out).record


def test_auto_discards_what_is_massive_in_the_images_and_says_so(
    backbone_folder: Path, street_data: Path, tmp_path: Path
) -> None:
    told: list[str] = []
    with heard(told.append):
        record = trained(planted(str(backbone_folder)), street_data, tmp_path / "auto", "auto", taps="1.hidden,2.query")
    assert record.discarded == ((PLANTED,), ())
    assert any(f"1.hidden: discarding the massive channels {PLANTED}" in line for line in told)
    with heard(told.append):
        assert trained(load_backbone(str(backbone_folder)), street_data, tmp_path / "none", "auto").discarded == ()
    assert any("no channel of 1.hidden is massive" in line for line in told)


@pytest.mark.parametrize("finetune", [False, True])
def test_a_list_is_of_every_tap_and_is_in_the_bundle(
    backbone_folder: Path, street_data: Path, tmp_path: Path, finetune: bool
) -> None:
    backbone, out = load_backbone(str(backbone_folder)), tmp_path / "bundle"
    record = trained(backbone, street_data, out, "7,2", taps="1.hidden,2.query", finetune=finetune)
    assert record.discarded == ((2, 7), (2, 7))
    bundle, pixels = load_bundle(out), torch.rand(1, 3, *SIZE) * 255
    with torch.no_grad():
        reference, deployed = bundle.reference(), bundle.deployed()
        assert all(not feature[..., [2, 7]].any() for feature in reference.features(pixels))
        expected = reference(pixels)
        assert (deployed(pixels) - expected).abs().max() < 1e-4 * expected.abs().max()


def test_invalid_values_are_refused(backbone_folder: Path, street_data: Path, tmp_path: Path) -> None:
    backbone = load_backbone(str(backbone_folder))
    for asked, said in [
        ("most", "got 'most' to discard, expected auto, none or channels"),
        ("1,,2", "expected auto, none or channels"),
        ((backbone.model.width,), rf"got the channel {backbone.model.width} to discard"),
        (tuple(range(backbone.model.width)), "got all"),
    ]:
        with pytest.raises(InputError, match=said):
            trained(backbone, street_data, tmp_path / "out", asked)
    assert not (tmp_path / "out").exists()


def test_channels_of_too_few_taps_are_no_record(seg_bundle: Path) -> None:
    record = json.loads((seg_bundle / "bundle.json").read_text())
    assert record["discarded"] == []
    with pytest.raises(RecordError, match="got discarded channels of 2 taps, expected of all 1"):
        Bundle.parse(json.dumps({**record, "discarded": [[1], [2]]}))


def test_the_command_passes_it_on(
    backbone_folder: Path,
    street_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    record, out = tmp_path / "selection.json", tmp_path / "bundle"
    selection(backbone_folder, "1.query").save(record)

    def run(discard: str) -> object:
        options = [
            "--data",
            street_data,
            "--imgsz",
            "16x24",
            "--samples",
            8,
            "--discard-channels",
            discard,
            "--out",
            out,
        ]
        monkeypatch.setattr(
            sys, "argv", ["aselect-train", *map(str, ["--backbone", backbone_folder, "--selection", record, *options])]
        )
        with pytest.raises(SystemExit) as caught:
            train()
        return caught.value.code

    assert run("3") in (0, None), capsys.readouterr().err
    assert load_bundle(out).record.discarded == ((3,),)
    assert run("first") == 2
    assert "--discard-channels" in capsys.readouterr().err
