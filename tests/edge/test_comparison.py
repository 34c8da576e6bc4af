"""What a small ImageNet encoder with a linear head reaches on the same data."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from aselect_edge.data import open_classification
from aselect_edge.training import comparison, efficientnet
from aselect_edge.training.comparison import compare, told
from aselect_edge.training.goal import open_goal
from aselect_edge.training.recipe import Recipe
from aselect_runtime.errors import InputError
from aselect_runtime.records import Resize, Task

SIZE = (32, 48)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights of the encoder, random, as the package would hold them."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    path = tmp_path / "encoder.safetensors"
    encoder = efficientnet.EfficientNetLite0()
    for name, parameter in encoder.named_parameters():  # so that an image still shows after 49 layers
        torch.nn.init.zeros_(parameter) if name.endswith("bias") else torch.nn.init.kaiming_normal_(parameter)
    save_file(encoder.state_dict(), path)
    monkeypatch.setattr(comparison, "installed_weights", lambda: path)
    return path


def colours(data: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 5)):
        for name, colour in (("blue", (200, 40, 40)), ("green", (40, 200, 40)), ("red", (40, 40, 200))):
            (data / split / name).mkdir(parents=True)
            for index in range(count):
                frame = np.clip(rng.normal(colour, 20, (*SIZE, 3)), 0, 255).astype(np.uint8)
                cv2.imwrite(str(data / split / name / f"{index}.png"), frame)
    return data


def test_a_class_is_found_from_the_pooled_features_alone(tmp_path: Path, weights: Path) -> None:
    """The figure is that of a ridge regression, computed here with NumPy on the encoder's features."""
    data = colours(tmp_path / "colours")
    found = compare("cls", open_goal("cls", data, Recipe()), SIZE, Resize())
    assert found is not None
    assert (found.metric, found.images) == ("top1", 15)
    encoder = efficientnet.load_efficientnet(weights)

    def rows(split: str) -> tuple[np.ndarray, np.ndarray]:
        opened = open_classification(data, split)
        frames = np.stack([opened.read(index)[0] for index in range(len(opened))])
        rgb = torch.from_numpy(frames[..., ::-1].copy()).permute(0, 3, 1, 2).float()
        with torch.no_grad():
            x = encoder(rgb).pooled.double().numpy()
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
        return x, np.array(opened.labels)

    (x, y), (seen, truth) = rows("train"), rows("val")
    best = 0.0
    for damping in (1e-4, 1e-3, 1e-2, 1e-1):
        centred, target = x - x.mean(0), np.eye(3)[y]
        variance = centred.var(0) * len(x)
        penalty = damping * (variance + 1e-6 * variance.mean()) + 1e-11 * (x**2).sum(0).mean()
        weight = np.linalg.solve(centred.T @ centred + np.diag(penalty), centred.T @ (target - target.mean(0)))
        best = max(best, float((((seen - x.mean(0)) @ weight + target.mean(0)).argmax(1) == truth).mean()))
    assert found.score == pytest.approx(best)
    assert best > 0.9
    assert told(found).endswith(f"val top-1 accuracy {best:.3f} here")


@pytest.mark.usefixtures("weights")
def test_pixels_are_distinguished_at_the_stride_of_the_maps(street_data: Path) -> None:
    found = compare("seg", open_goal("seg", street_data, Recipe()), (48, 64), Resize())
    assert found is not None
    assert (found.metric, found.images) == ("miou", 3)
    # Sky above and road below cover half of every image: even random features tell them by where they see padding.
    assert found.score > 1 / 11 / 2


@pytest.mark.parametrize("task", ["seg", "cls"])
def test_without_the_weights_there_is_no_comparison(
    task: Task, tmp_path: Path, street_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> Path:
        raise InputError("got no weights")

    monkeypatch.setattr(comparison, "installed_weights", missing)
    data = street_data if task == "seg" else colours(tmp_path / "colours")
    assert compare(task, open_goal(task, data, Recipe()), SIZE, Resize()) is None
