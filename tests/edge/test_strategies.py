"""What each strategy makes of a scan of a tiny backbone: every candidate is scored, the best of them is chosen."""

from __future__ import annotations

import itertools
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aselect_edge.backbones import LoadedBackbone, load_backbone
from aselect_edge.backbones.family import expand
from aselect_edge.backbones.noise import DiffusionSchedule
from aselect_edge.selection import STRATEGIES, Measure, Settings, high_frequency_ratio
from aselect_edge.selection.by_exhaustive import train_linear
from aselect_edge.selection.by_hfr import caution
from aselect_edge.selection.by_hfr_adaptive import BUDGET, ties
from aselect_edge.selection.by_probe import ridge_regression
from aselect_edge.selection.choice import Choice, default_tap
from aselect_edge.selection.evidence import NO_LABEL, Evidence, Images, Labelled
from aselect_edge.selection.hfr import ratio, shared_energies
from aselect_edge.selection.run import Request, prepare_scan
from aselect_edge.selection.scan import Scan, batches, candidate_taps
from aselect_edge.team import Team
from aselect_runtime.errors import InputError
from aselect_runtime.frames import Frame
from aselect_runtime.records import COMPONENTS, DataFingerprint, Noise, Tap

STEPS = [0, 100, 600]
SIZE = (24, 32)
GRID = (6, 8)


@pytest.fixture(scope="module")
def backbone(backbone_folder: Path) -> LoadedBackbone:
    return load_backbone(str(backbone_folder))


@pytest.fixture
def scan(backbone: LoadedBackbone) -> Scan:
    taps = candidate_taps(COMPONENTS, 3, None)
    return Scan(backbone, backbone.schedule.levels(STEPS), taps, SIZE, batch=2)


def _images(frames: list[Frame]) -> Images:
    reads = tuple(partial(np.copy, frame) for frame in frames)
    return Images(reads, DataFingerprint(images=len(frames), sha256="0" * 64))


@pytest.fixture(scope="module")
def images() -> Images:
    rng = np.random.default_rng(0)
    return _images([rng.integers(0, 256, (20, 30, 3), np.uint8) for _ in range(5)])


def _choose(strategy: str, scan: Scan, evidence: Evidence, **options: object) -> Choice:
    return STRATEGIES[strategy].choose(scan, evidence, Settings(**{"steps": 60, **options}))  # type: ignore[arg-type]


def _check(choice: Choice, scan: Scan) -> None:
    candidates = {(score.noise, score.tap) for score in choice.scores}
    assert candidates == set(itertools.product(scan.levels, scan.taps))
    assert len(choice.scores) == len(candidates)
    best = max(choice.scores, key=lambda score: score.value)
    assert (choice.noise, choice.tap) == (best.noise, best.tap)


def test_hfr_chooses_the_highest_ratio_of_all_candidates(scan: Scan, images: Images) -> None:
    choice = _choose("hfr", scan, Evidence(images))
    _check(choice, scan)
    assert scan.tally.passes == len(images) * len(STEPS)
    score = choice.scores[17]
    features = scan.features(scan.x0(images, range(5)), score.noise)[score.tap]  # the batches must add up to it
    assert score.value == pytest.approx(high_frequency_ratio(features), rel=1e-5)
    assert features.shape == (5, *GRID, 32)


@pytest.mark.parametrize("measure", [Measure(dimensions=1), Measure(power=False, cutoff=0.3), Measure(dc=True)])
def test_hfr_is_taken_as_it_is_asked_for(scan: Scan, images: Images, measure: Measure) -> None:
    score = _choose("hfr", scan, Evidence(images), measure=measure).scores[30]
    features = scan.features(scan.x0(images, range(5)), score.noise)[score.tap]
    assert score.value == pytest.approx(high_frequency_ratio(features, measure), rel=1e-5)


def test_fixed_without_timesteps_fits_the_schedule(backbone: LoadedBackbone) -> None:
    schedule = DiffusionSchedule({**DiffusionSchedule().config, "num_train_timesteps": 500})
    scan = prepare_scan(replace(backbone, schedule=schedule), Request(strategy="fixed"), Team())
    assert [level.model_timestep for level in scan.levels] == [0, 250, 499]


def test_the_fixed_noise_is_that_of_the_deployed_model(scan: Scan, images: Images, backbone: LoadedBackbone) -> None:
    from aselect_edge.fold import FoldSpec, fold

    noise, tap = scan.levels[1], Tap(block=2, component="mlp")
    pixels = images.frames(range(2), SIZE, scan.resize).permute(0, 3, 1, 2).float()
    folded = fold(backbone.model, FoldSpec.of(backbone.model, noise, [tap], SIZE, noise_seed=scan.seed))
    features = scan.features(scan.x0(images, range(2)), noise)[tap]
    torch.testing.assert_close(folded(pixels)[0], features, rtol=1e-3, atol=1e-4)


def test_hfr_says_when_it_measured_the_noise(scan: Scan) -> None:
    choice = _choose("hfr", scan, Evidence(_images([np.full((16, 24, 3), 128, np.uint8)] * 2)))
    noisiest = max(level.sigma for level in scan.levels)
    assert ("measured noise" in choice.note) == (choice.noise.sigma == noisiest)


def test_the_caution_is_for_the_noisiest_tenth() -> None:
    levels = [Noise(alpha=(1 - (i / 20) ** 2) ** 0.5, sigma=i / 20, model_timestep=i) for i in range(21)]
    assert [bool(caution(level, levels)) for level in levels] == [False] * 18 + [True] * 3
    assert not caution(levels[0], levels[:1])


def test_hfr_signal_scores_what_two_draws_share(scan: Scan, images: Images) -> None:
    choice = _choose("hfr-signal", replace(scan, batch=5), Evidence(images))
    _check(choice, scan)
    score, x0 = choice.scores[40], scan.x0(images, range(5))
    first, second = (scan.features(x0, score.noise, scan.fresh_noise(x0, range(5), draw)) for draw in (0, 1))
    expected = ratio(shared_energies(first[score.tap], second[score.tap]))
    assert score.value == pytest.approx(float(expected), rel=1e-5)
    assert scan.tally.passes == 2 * len(images) * len(STEPS) + 2 * len(images)
    low, high = (np.mean([s.value for s in choice.scores if s.noise == scan.levels[i]]) for i in (0, 2))
    assert low > high  # noise hides


def test_noise_belongs_to_the_image_and_not_to_its_batch(scan: Scan) -> None:
    x0 = torch.zeros(4, 3, 8, 8)
    whole = scan.fresh_noise(x0, range(10, 14), 0)
    torch.testing.assert_close(scan.fresh_noise(x0[:2], range(12, 14), 0), whole[2:])
    assert not torch.equal(scan.fresh_noise(x0, range(10, 14), 1), whole)
    assert not torch.equal(whole[0], whole[1])


@pytest.mark.parametrize("wrong", [{"measure": Measure(power=False)}, {"measure": Measure(dc=True)}])
def test_hfr_signal_refuses_what_it_cannot_measure(scan: Scan, images: Images, wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match="expected power"):
        _choose("hfr-signal", scan, Evidence(images), **wrong)
    for strategy in ("hfr-signal", "learned"):
        with pytest.raises(InputError, match="got 1 images in batches of 2, expected two"):
            _choose(strategy, scan, Evidence(_images([images.reads[0]()])))


def _energies(rng: np.random.Generator, means: list[float], count: int = 8) -> list[np.ndarray]:
    """Images x one tap x (high, total) of levels with these ratios; what is particular to an image is shared."""
    image = rng.normal(0, 0.05, count)
    own = [rng.normal(0, 0.005, count) for _ in means]
    return [np.stack([m + image + e, np.ones(count)], axis=1)[:, None] for m, e in zip(means, own, strict=True)]


def test_levels_are_compared_in_pairs_and_ties_are_named() -> None:
    rng = np.random.default_rng(0)
    assert ties(_energies(rng, [0.5, 0.3, 0.4]), 0, 0.95) == []
    assert ties(_energies(rng, [0.5, 0.499, 0.4]), 0, 0.95) == [1]
    assert ties(_energies(rng, [0.5, 0.3], count=1), 0, 0.95) == [1]  # one image bounds nothing


def test_bounds_hold_at_their_confidence() -> None:
    rng = np.random.default_rng(0)
    wrong = sum(ties(_energies(rng, [0.5, 0.5, 0.5]), 0, 0.9) != [1, 2] for _ in range(400))
    assert wrong / 400 < 0.13  # of equals, one is called worse in at most a tenth of all trials


def test_adaptive_spends_a_tenth_and_finds_hfrs_level(backbone: LoadedBackbone) -> None:
    rng = np.random.default_rng(0)
    smooth = [cv2.resize(rng.integers(0, 256, (3, 4, 3), np.uint8), SIZE[::-1]) for _ in range(40)]
    images = _images(smooth)  # type: ignore[arg-type]
    taps = candidate_taps(("hidden", "query"), 3, 1)
    scan = Scan(backbone, backbone.schedule.levels(range(0, 1000, 50)), taps, SIZE)
    whole = _choose("hfr", scan, Evidence(images))
    before = scan.tally.passes
    few = _choose("hfr-adaptive", scan, Evidence(images))
    assert scan.tally.passes - before <= BUDGET * before
    _check(whole, scan)
    reached = next(s.value for s in whole.scores if (s.noise, s.tap) == (few.noise, few.tap))
    assert reached > 0.99 * max(s.value for s in whole.scores)
    assert few.parameters["resolved"] == ("beats every other" in few.note)
    assert len(few.scores) == len(whole.scores)


def _halves(count: int, seed: int = 1) -> Labelled:
    """Frames with a bright rectangle (class 1) on dark ground (class 0), a strip of them without a label."""
    rng, frames, labels = np.random.default_rng(seed), [], []
    for _ in range(count):
        label = np.zeros(SIZE, np.int64)
        top, left = rng.integers(0, 4) * 4, rng.integers(0, 5) * 4
        label[top : top + 12, left : left + 12] = 1
        frames.append(np.repeat((40 + 170 * label + rng.integers(0, 20, SIZE)).astype(np.uint8)[..., None], 3, axis=2))
        label[:, :4] = NO_LABEL
        labels.append(label)
    return Labelled(_images(frames), torch.from_numpy(np.stack(labels)), 2)


def _labelled(train: Labelled, val: Labelled) -> Evidence:
    return Evidence(train.images, train, val)


@pytest.mark.parametrize("strategy", ["probe", "exhaustive"])
def test_labels_find_what_is_linearly_there(scan: Scan, strategy: str) -> None:
    evidence = _labelled(_halves(6), _halves(4, 2))
    choice = _choose(strategy, scan, evidence)
    _check(choice, scan)
    assert max(score.value for score in choice.scores) > 0.95
    assert scan.tally.passes == 10 * len(STEPS)


@pytest.mark.parametrize("strategy", ["probe", "exhaustive"])
def test_labels_find_less_under_more_noise_and_in_wrong_labels(scan: Scan, strategy: str) -> None:
    scan = replace(scan, levels=scan.backbone.schedule.levels([0, 999]))
    train, val = _halves(6), _halves(4, 2)
    choice = _choose(strategy, scan, _labelled(train, val))
    clean, noisy = (np.mean([s.value for s in choice.scores if s.noise == level]) for level in scan.levels)
    assert clean > noisy + 0.1
    assert choice.noise == scan.levels[0]
    wrong = replace(val, labels=val.labels.roll(8, 1))
    fooled = _choose(strategy, scan, _labelled(train, wrong)).scores
    assert np.mean([s.value for s in choice.scores]) > np.mean([s.value for s in fooled])


def test_a_tokens_class_is_the_label_at_its_centre(scan: Scan) -> None:
    train, val = _halves(6), _halves(4, 2)
    for part in (train, val):
        part.labels[:, ::4], part.labels[:, :, ::4] = NO_LABEL, NO_LABEL  # the corners and edges of the 4x4 patches
    assert max(score.value for score in _choose("probe", scan, _labelled(train, val)).scores) > 0.95


def _brightness(count: int, seed: int) -> Labelled:
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(rng.permutation(np.arange(count) % 3))
    frames = [(60 + 60 * int(label) + rng.integers(0, 30, (*SIZE, 3))).astype(np.uint8) for label in labels]
    return Labelled(_images(frames), labels, 3)


@pytest.mark.parametrize("strategy", ["probe", "exhaustive", "gate"])
def test_classes_of_whole_images_are_found_too(scan: Scan, strategy: str) -> None:
    choice = _choose(strategy, scan, _labelled(_brightness(15, 0), _brightness(12, 1)))
    assert max(score.value for score in choice.scores) > 0.8


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16), count=st.integers(2, 12), width=st.integers(1, 12))
def test_a_ridge_regression_is_the_least_of_its_errors_and_penalty(seed: int, count: int, width: int) -> None:
    """As ordinary least squares over rows of which the penalty is a part."""
    rng, ridge = np.random.default_rng(seed), 0.37
    x, y = rng.normal(2, 3, (count, width)), rng.normal(0, 1, (count, 2))
    penalty = np.sqrt(ridge * np.mean(np.sum(x**2, axis=0)))
    stacked = np.vstack([x, penalty * np.eye(width)]), np.vstack([y, np.zeros((width, 2))])
    expected = np.linalg.lstsq(*stacked, rcond=None)[0]
    got = ridge_regression(torch.from_numpy(x), torch.from_numpy(y), ridge).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-9)


def test_a_ridge_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="got the ridge 0, expected a number above 0"):
        Settings(ridge=0)


def test_a_probe_of_whole_images_scores_each_split_by_the_other(scan: Scan) -> None:
    train, val = _brightness(9, 0), _brightness(6, 1)
    choice = _choose("probe", scan, _labelled(train, val))
    tap, level = scan.taps[0], scan.levels[-1]
    assert scan.tally.passes == (9 + 6) * len(STEPS)
    means = []
    for part in (train, val):
        x0 = scan.x0(part.images, range(len(part.images)))
        tokens = scan.features(x0, level)[tap].numpy().reshape(len(part.images), GRID[0] * GRID[1], -1)
        normed = (tokens - tokens.mean(2, keepdims=True)) / np.sqrt(tokens.var(2, keepdims=True) + 1e-5)
        means.append(np.column_stack([normed.mean(1), np.ones(len(x0))]))
    right = 0
    for here, there, known, asked in ((0, 1, train, val), (1, 0, val, train)):
        x, y = means[here], np.eye(3)[known.labels.numpy()]
        damping = 0.1 * np.mean(np.sum(x**2, axis=0)) * np.eye(x.shape[1])
        said = means[there] @ np.linalg.solve(x.T @ x + damping, x.T @ y)
        right += int((said.argmax(1) == asked.labels.numpy()).sum())
    found = next(score.value for score in choice.scores if (score.tap, score.noise) == (tap, level))
    assert found == pytest.approx(right / 15, abs=1e-9)


def test_exhaustive_trains_the_shipped_decoder_where_it_is_asked_to(scan: Scan) -> None:
    scan = replace(scan, levels=scan.levels[:1], taps=scan.taps[:2])
    choice = _choose("exhaustive", scan, _labelled(_halves(6), _halves(4, 2)), head="conv", steps=30)
    assert max(score.value for score in choice.scores) > 0.8
    with pytest.raises(InputError, match="expected 'linear'"):
        _choose("exhaustive", scan, _labelled(_brightness(3, 0), _brightness(3, 1)), head="conv")


def test_heads_trained_side_by_side_are_those_trained_alone() -> None:
    x, y = torch.randn(3, 50, 6), torch.randint(0, 4, (50,))
    together = train_linear(x, y, 4, 20, 0)
    for index in range(3):
        torch.testing.assert_close(together[index : index + 1], train_linear(x[index : index + 1], y, 4, 20, 0))


def test_strategies_without_images_need_no_pass(scan: Scan, images: Images) -> None:
    smallest = _choose("smallest-sigma", scan, Evidence(images))
    assert smallest.noise == scan.levels[0]
    assert smallest.tap == default_tap(scan.taps, 3) == Tap(block=1, component="query")
    tap = Tap(block=2, component="key")
    assert _choose("smallest-sigma", scan, Evidence(images), tap=tap).tap == tap
    drawn = [_choose("uniform", replace(scan, seed=seed), Evidence(images)) for seed in range(300)]
    assert {choice.noise for choice in drawn} == set(scan.levels)
    assert {choice.tap for choice in drawn} == set(scan.taps)
    assert _choose("uniform", scan, Evidence(images)) == drawn[0]
    assert scan.tally.passes == 0


def test_the_default_tap_is_the_authors_or_the_candidate_nearest_to_it() -> None:
    assert default_tap(candidate_taps(COMPONENTS, 24, None), 24) == Tap(block=9, component="query")
    assert default_tap(candidate_taps(("mlp",), 24, 3), 24) == Tap(block=2, component="mlp")


def test_the_learned_selector_keeps_its_whole_distribution(scan: Scan, images: Images) -> None:
    choice = _choose("learned", scan, Evidence(images))
    assert [entry.noise for entry in choice.distribution] == list(scan.levels)
    assert sum(entry.weight for entry in choice.distribution) == pytest.approx(1)
    assert choice.noise == max(choice.distribution, key=lambda entry: entry.weight).noise
    assert choice == _choose("learned", scan, Evidence(images))


def test_a_gate_mixes(scan: Scan) -> None:
    choice = _choose("gate", scan, _labelled(_halves(6), _halves(4, 2)))
    assert [entry.noise for entry in choice.mixture] == list(scan.levels)
    assert sum(entry.weight for entry in choice.mixture) == pytest.approx(1)
    assert choice.scores[0].value > 0.8


def test_a_scan_keeps_the_features_of_one_block_at_most(scan: Scan, images: Images) -> None:
    alive: list[weakref.ref[Tensor]] = []
    most = 0
    model, condition = scan.backbone.model, expand(scan.backbone.condition, 2)
    with torch.no_grad():
        for _, feature in model.walk(scan.x0(images, range(2)), torch.zeros(2), condition):
            alive.append(weakref.ref(feature))
            most = max(most, sum(ref() is not None for ref in alive))
    assert len(alive) == len(scan.taps)
    assert most <= len(COMPONENTS)


@pytest.mark.parametrize(("count", "size"), [(1, 8), (8, 8), (9, 8), (10, 8), (17, 8), (3, 1), (5, 2)])
def test_batches_cover_every_image_once_and_none_is_alone(count: int, size: int) -> None:
    parts = batches(count, size)
    assert list(itertools.chain(*parts)) == list(range(count))
    assert all(len(part) > 1 for part in parts) or size == 1 or count == 1
