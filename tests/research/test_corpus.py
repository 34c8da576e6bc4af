"""The corpus on a device: what is read, how it is cropped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aselect_runtime.errors import InputError
from research.corpus import crop_boxes, load_corpus, mixed, random_crops, recoloured, sample
from tests.research.packed import write_data


def test_only_training_images_are_read(street_data: Path, tmp_path: Path) -> None:
    corpus = load_corpus(write_data(tmp_path, street_data), torch.device("cpu"), streets=2, workers=1)
    counts = {source.name: len(source.images) for source in corpus.sources}
    train = len(list((street_data / "train" / "images").iterdir()))
    assert counts == {"camvid": train, "cub40": 8, "tinyimagenet": 12, "streets": 2}
    generator = torch.Generator().manual_seed(0)
    pixels, labels = corpus.batch(generator, 40, (32, 32), frames=False)
    assert pixels.shape == (40, 3, 32, 32)
    assert 0 <= pixels.min() <= pixels.max() <= 255
    assert set(labels.tolist()) == {-1, 0, 1}
    pixels, labels = corpus.batch(generator, 10, (36, 48), frames=True)
    assert pixels.shape == (10, 3, 36, 48)
    assert set(labels.tolist()) == {-1}, "full frames are street scenes alone"


def test_a_folder_without_any_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected at least one of them"):
        load_corpus(tmp_path, torch.device("cpu"), workers=1)


def test_the_whole_image_at_its_own_size_is_itself_or_its_mirror() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (1, 3, 6, 8), generator=generator, dtype=torch.uint8)
    found = set()
    for _ in range(8):
        box = crop_boxes(generator, image.shape, (6, 8), (1.0, 1.0), 1.0)
        crop = sample(image, box, (6, 8), "bilinear")
        mirrored = bool(box[0, 0, 0] < 0)
        torch.testing.assert_close(crop, image.flip(3).float() if mirrored else image.float(), atol=1e-2, rtol=0)
        found.add(mirrored)
    assert found == {False, True}


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(8, 60),
    width=st.integers(8, 60),
    size=st.tuples(st.integers(4, 40), st.integers(4, 40)),
    low=st.floats(0.1, 1.0),
    seed=st.integers(0, 99),
)
def test_a_crop_lies_in_its_image(height: int, width: int, size: tuple[int, int], low: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    boxes = crop_boxes(generator, (5, 3, height, width), size, (low, 1.0), 1.25)
    reach = boxes[:, :, :2].abs().sum(2) + boxes[:, :, 2].abs()
    assert (reach <= 1 + 1e-5).all()
    flat = torch.full((5, 3, height, width), 9, dtype=torch.uint8)
    crops = random_crops(generator, flat, size, (low, 1.0))
    torch.testing.assert_close(crops, torch.full((5, 3, *size), 9.0))


def test_labels_and_pixels_are_cropped_alike() -> None:
    generator = torch.Generator().manual_seed(3)
    label = torch.zeros(1, 1, 40, 40, dtype=torch.uint8)
    label[:, :, 10:30, 5:35] = 7
    boxes = crop_boxes(generator, label.shape, (40, 40), (0.6, 0.6), 1.0)
    nearest, smooth = (sample(label, boxes, (20, 20), mode) for mode in ("nearest", "bilinear"))
    assert set(nearest.unique().tolist()) <= {0.0, 7.0}
    inner = (smooth == 0) | (smooth == 7)
    assert inner.float().mean() > 0.5
    torch.testing.assert_close(nearest[inner], smooth[inner])


def test_mixing_blends_the_first_share_and_leaves_the_rest() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 2, 2)
    blended = mixed(generator, pixels, 0.5)
    assert torch.equal(blended[4:], pixels[4:])
    assert (blended[:4] >= 0).all()
    assert (blended[:4] <= 7).all()
    assert torch.equal(mixed(generator, pixels, 0.0), pixels)


def test_recoloured_pixels_stay_pixels() -> None:
    pixels = torch.rand(16, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 255
    changed = recoloured(torch.Generator().manual_seed(1), pixels)
    assert changed.shape == pixels.shape
    assert 0 <= changed.min() <= changed.max() <= 255
    assert not np.allclose(changed, pixels)
