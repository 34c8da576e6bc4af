"""Features as colours: the three directions in which tokens differ most, each over the whole range."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aselect_edge import select
from aselect_edge.selection.feature_maps import principal_colours
from aselect_runtime.frames import read_image


def test_regions_of_different_features_have_different_colours() -> None:
    torch.manual_seed(0)
    feature = torch.randn(6, 8, 16) * 0.01 + torch.arange(16.0)  # so that a LayerNorm leaves the noise small
    feature[:, :4, 0] += 5
    feature[3:, :, 1] += 3
    colours = principal_colours(feature)
    assert colours.shape == (6, 8, 3)
    assert colours.flatten(0, 1).min(0).values.tolist() == [0, 0, 0]
    assert colours.flatten(0, 1).max(0).values.tolist() == pytest.approx([1, 1, 1])
    two = colours[..., :2]  # there are two ways in which the tokens differ; the third is noise
    quarters = [two[r, c].flatten(0, 1) for r in (slice(3), slice(3, 6)) for c in (slice(4), slice(4, 8))]
    means = torch.stack([quarter.mean(0) for quarter in quarters])
    apart = torch.cdist(means, means) + 9 * torch.eye(4)
    assert apart.min() > 4 * max(quarter.std(0).max() for quarter in quarters)


@pytest.mark.parametrize("width", [1, 2, 9])
def test_what_does_not_vary_is_grey(width: int) -> None:
    colours = principal_colours(torch.ones(4, 5, width))
    assert torch.equal(colours, torch.full((4, 5, 3), 0.5))


def test_a_scan_draws_what_its_best_and_worst_candidates_see(
    backbone_folder: Path, street_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "selection.json"
    select(str(backbone_folder), street_data, out=out, strategy="probe", images=4, imgsz="24x32", timesteps=[0, 900])
    drawn = read_image(tmp_path / "selection.features.png")
    assert drawn.std() > 10
    assert drawn.shape[1] > 2 * drawn.shape[0]  # three panels side by side
