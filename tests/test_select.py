"""Selection on a tiny backbone: every candidate is scored, and the best of them is chosen."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from aselect_edge.backbones import load_backbone
from aselect_edge.backbones.noise import candidate_timesteps, cumulative_alphas, noise_levels
from aselect_edge.errors import InputError
from aselect_edge.frames import Frame
from aselect_edge.records import COMPONENTS, DataFingerprint, Noise, Selection, Tap
from aselect_edge.select import Scan, high_frequency_ratio, select_by_hfr, select_by_probe
from aselect_edge.select.by_hfr import caution
from aselect_edge.select.hfr import spectrum
from aselect_edge.select.run import Strategy, select_tap

DATA = DataFingerprint(images=0, sha256="0" * 64)
STEPS = [0, 100, 600]
SIZE = (16, 24)


@pytest.fixture(scope="module")
def scan(backbone_folder: Path) -> Scan:
    backbone = load_backbone(str(backbone_folder))
    return Scan(backbone, backbone.schedule.levels(STEPS), SIZE, batch=2)


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (20, 30, 3), np.uint8) for _ in range(3)]


def _check(selection: Selection, scan: Scan) -> None:
    candidates = {(score.noise, score.tap) for score in selection.scores}
    taps = [Tap(block=b, component=c) for b in range(3) for c in COMPONENTS]
    assert candidates == set(itertools.product(scan.levels, taps))
    assert len(selection.scores) == len(candidates)
    best = max(selection.scores, key=lambda score: score.value)
    assert (selection.noise, selection.tap) == (best.noise, best.tap)
    assert Selection.parse(selection.to_json()) == selection


def test_hfr_chooses_the_highest_ratio_of_all_candidates(scan: Scan, frames: list[Frame]) -> None:
    selection = select_by_hfr(scan, frames, DATA)
    _check(selection, scan)
    assert select_by_hfr(scan, frames, DATA) == selection
    score = selection.scores[17]
    features = scan.features(frames, score.noise)[score.tap]  # all frames at once: the batches must add up to it
    assert score.value == pytest.approx(high_frequency_ratio(spectrum(features)), rel=1e-5)
    assert features.shape == (3, 4, 6, 32)


def test_hfr_says_when_it_measured_the_noise(scan: Scan) -> None:
    flat = [np.full((16, 24, 3), 128, np.uint8)] * 2
    selection = select_by_hfr(scan, flat, DATA)
    noisiest = max(level.sigma for level in scan.levels)
    assert ("measured noise" in selection.note) == (selection.noise.sigma == noisiest)


def test_the_caution_is_for_the_noisiest_tenth() -> None:
    levels = [Noise(alpha=(1 - (i / 20) ** 2) ** 0.5, sigma=i / 20, model_timestep=i) for i in range(21)]
    assert [bool(caution(level, levels)) for level in levels] == [False] * 18 + [True] * 3
    assert not caution(levels[0], levels[:1])


def _halves(count: int) -> list[tuple[Frame, Frame]]:
    """Frames with a bright rectangle (class 1) on dark ground (class 0), a strip of them without a label."""
    rng, pairs = np.random.default_rng(1), []
    for _ in range(count):
        label = np.zeros(SIZE, np.uint8)
        top, left = rng.integers(0, 3) * 4, rng.integers(0, 4) * 4
        label[top : top + 8, left : left + 12] = 1
        frame = np.repeat((40 + 170 * label + rng.integers(0, 20, SIZE)).astype(np.uint8)[..., None], 3, axis=2)
        label[:, :4] = 255
        pairs.append((frame, label))
    return pairs


def test_the_probe_finds_what_is_linearly_there(scan: Scan) -> None:
    train, val = _halves(6), _halves(4)
    selection = select_by_probe(scan, train, val, 2, 255, DATA)
    _check(selection, scan)
    assert select_by_probe(scan, train, val, 2, 255, DATA) == selection
    assert max(score.value for score in selection.scores) > 0.95


def test_a_tokens_class_is_the_label_at_its_centre(scan: Scan) -> None:
    train, val = _halves(6), _halves(4)
    for _, label in (*train, *val):
        label[::4], label[:, ::4] = 255, 255  # the corners and edges of the 4x4 patches
    assert max(score.value for score in select_by_probe(scan, train, val, 2, 255, DATA).scores) > 0.95


def test_the_probe_finds_less_under_more_noise(scan: Scan) -> None:
    levels = scan.backbone.schedule.levels([0, 999])
    selection = select_by_probe(replace(scan, levels=levels), _halves(6), _halves(4), 2, 255, DATA)
    clean, noisy = ([s.value for s in selection.scores if s.noise == level] for level in levels)
    assert np.mean(clean) > np.mean(noisy) + 0.1
    assert selection.noise == levels[0]


def test_the_probe_on_shuffled_labels_finds_less(scan: Scan) -> None:
    train, val = _halves(6), _halves(4)
    wrong = [(frame, np.roll(label, 8, axis=0)) for frame, label in val]
    honest = select_by_probe(scan, train, val, 2, 255, DATA).scores
    fooled = select_by_probe(scan, train, wrong, 2, 255, DATA).scores
    assert np.mean([s.value for s in honest]) > np.mean([s.value for s in fooled])


@pytest.mark.parametrize("strategy", ["hfr", "probe"])
def test_select_reads_a_labelled_folder(backbone_folder: Path, street_data: Path, strategy: Strategy) -> None:
    shares: list[float] = []

    def run() -> Selection:
        return select_tap(
            str(backbone_folder), street_data, strategy, 4, SIZE, [50], report=lambda _, share: shares.append(share)
        )

    selection = run()
    assert selection == run()
    assert len(selection.scores) == 3 * len(COMPONENTS)
    assert selection.data is not None
    assert selection.data.images == 4
    assert shares[-1] == 1.0
    assert all(0 < share <= 1 for share in shares)


@pytest.mark.parametrize("strategy", ["hfr", "probe"])
def test_an_unreadable_image_is_named_and_skipped(
    backbone_folder: Path, street_data: Path, tmp_path: Path, strategy: Strategy
) -> None:
    data = tmp_path / "data"
    shutil.copytree(street_data, data)
    for copy in range(20):
        for kind in ("images", "labels"):
            shutil.copy(data / "train" / kind / "0.png", data / "train" / kind / f"copy{copy:02}.png")
    (data / "train/images/copy07.png").write_bytes(b"nonsense")
    said: list[str] = []
    selection = select_tap(str(backbone_folder), data, strategy, 100, SIZE, [0], warn=said.append)
    assert selection.data is not None
    assert selection.data.images == 25
    assert len(said) == 1
    assert "copy07.png" in said[0]
    for name in ("copy08.png", "copy09.png"):
        (data / "train/images" / name).write_bytes(b"")
    with pytest.raises(InputError, match="got 3 unreadable images of 26, expected at most 5 %"):
        select_tap(str(backbone_folder), data, strategy, 100, SIZE, [0])


def test_the_fingerprint_tells_images_apart(backbone_folder: Path, street_data: Path, tmp_path: Path) -> None:
    shutil.copytree(street_data / "train/images", tmp_path / "images")

    def fingerprint() -> DataFingerprint | None:
        return select_tap(str(backbone_folder), tmp_path / "images", "hfr", 9, SIZE, [0]).data

    before = fingerprint()
    cv2.imwrite(str(tmp_path / "images/0.png"), np.zeros((48, 64, 3), np.uint8))
    assert fingerprint() != before


def test_a_budget_of_blocks_leaves_the_deeper_ones_out(scan: Scan, frames: list[Frame]) -> None:
    whole = {(s.noise, s.tap): s.value for s in select_by_hfr(scan, frames, DATA).scores}
    some = {(s.noise, s.tap): s.value for s in select_by_hfr(replace(scan, blocks=2), frames, DATA).scores}
    assert some == {key: value for key, value in whole.items() if key[1].block < 2}


@pytest.mark.parametrize(("size", "steps"), [((16, 18), [0]), (SIZE, [1000]), (SIZE, [-1])])
def test_what_the_backbone_cannot_take_is_refused(
    backbone_folder: Path, street_data: Path, size: tuple[int, int], steps: list[int]
) -> None:
    with pytest.raises(InputError, match="expected"):
        select_tap(str(backbone_folder), street_data, "hfr", 2, size, steps)


def test_the_candidates_are_the_papers() -> None:
    steps = candidate_timesteps()
    assert (len(steps), steps[0], steps[-1]) == (21, 0, 999)
    assert {b - a for a, b in itertools.pairwise(steps)} == {49, 50}


def test_noise_levels_are_those_of_diffusers() -> None:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(beta_schedule="squaredcos_cap_v2")
    levels = noise_levels(dict(scheduler.config), [0, 500, 999])
    x0, eps = torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4)
    for level in levels:
        expected = scheduler.add_noise(x0, eps, torch.tensor([int(level.model_timestep)]))
        torch.testing.assert_close(level.alpha * x0 + level.sigma * eps, expected, rtol=1e-4, atol=1e-5)
        assert level.alpha**2 + level.sigma**2 == pytest.approx(1)


@pytest.mark.parametrize(
    "wrong",
    [{"beta_schedule": "magic"}, {"num_train_timesteps": "many"}, {"beta_start": "low"}, {"num_train_timesteps": -1}],
)
def test_another_scheduler_is_refused(wrong: dict[str, object]) -> None:
    schedule = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
    with pytest.raises(InputError, match="scheduler"):
        cumulative_alphas({**schedule, **wrong})
    with pytest.raises(InputError, match="got no beta_start"):
        cumulative_alphas({"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0})
