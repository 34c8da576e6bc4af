"""Training on another device than the CPU, and on from one to the other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from aselect_edge.backbones.device import find_device
from aselect_edge.bundle import load_bundle
from aselect_edge.training import Recipe, TrainRequest, Unfreeze, train_bundle
from aselect_runtime.errors import InputError
from aselect_runtime.records import Noise, Selection, Tap, Task
from tests import forked


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, four images of each to learn from and two to validate on."""
    root, rng = tmp_path_factory.mktemp("birds"), np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for name in ("jay", "wren"):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                cv2.imwrite(str(root / split / name / f"{index}.png"), rng.integers(0, 255, (30, 40, 3), np.uint8))
    return root


def test_no_tensor_is_left_on_another_device(
    backbone_folder: Path, street_data: Path, birds: Path, tmp_path: Path
) -> None:
    """In a process of its own, because a device that is once registered stays."""
    arguments = [str(path) for path in (backbone_folder, street_data, birds, tmp_path)]
    done = forked.run("-m", "tests.edge.pretended_training", *arguments)
    assert done.returncode == 0, done.stderr
    curves = json.loads(done.stdout)
    assert len(curves) == 5
    for cpu, there_then_cpu, cpu_then_there in curves.values():
        np.testing.assert_allclose(there_then_cpu, cpu, rtol=1e-4)
        np.testing.assert_allclose(cpu_then_there, cpu, rtol=1e-4)


@pytest.mark.parametrize("name", ["", "abacus", "meta", "cuda:99", "cpu:x"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"got the device {name!r} .*expected cpu or a device"):
        find_device(name)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a torch that is built for it")
@pytest.mark.parametrize("task", ["seg", "cls"])
@pytest.mark.parametrize("unfreeze", [None, Unfreeze(), Unfreeze.parse("lora:2")])
def test_a_run_on_a_gpu_goes_on_on_the_cpu(
    backbone_folder: Path, street_data: Path, birds: Path, tmp_path: Path, task: Task, unfreeze: Unfreeze | None
) -> None:
    selection = Selection(
        backbone=str(backbone_folder),
        noise=Noise(alpha=0.99, sigma=0.14, model_timestep=50),
        tap=Tap(block=1, component="query"),
        strategy="hfr",
        seed=5,
    )
    recipe = Recipe(samples=32, batch=4, views=2, validations=4, window=16, denoising_windows=2)
    data = street_data if task == "seg" else birds
    request = TrainRequest(
        task, str(backbone_folder), selection, data, tmp_path / "bundle", imgsz=(24, 32), recipe=recipe
    )
    request = replace(request, unfreeze=unfreeze, device=torch.device("cuda"))
    there = train_bundle(request)
    assert all(parameter.device.type == "cpu" for parameter in there.model.parameters())
    here = train_bundle(replace(request, device=torch.device("cpu")))  # nothing is left to do but to measure
    assert here.curve == there.curve
    assert here.figures.score == pytest.approx(there.figures.score, abs=0.02)
    pixels = torch.rand(1, 3, 24, 32) * 255
    torch.testing.assert_close(load_bundle(request.out).deployed()(pixels), here.model(pixels), rtol=0.05, atol=0.05)
