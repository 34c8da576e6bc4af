"""What floor 1 offers: its names, and that the torch-free part stays torch-free."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

import aselect_edge
from aselect_edge import errors

SURFACE = {
    "aselect_edge": {"__version__", "load_backbone", "load_bundle", "select_tap", "train_bundle"},
    "aselect_edge.backbones": {
        "Backbone",
        "DiT",
        "DiTConfig",
        "Encoder",
        "LoadedBackbone",
        "load_backbone",
        "save_backbone",
    },
    "aselect_edge.data": {
        "ClassificationData",
        "SegmentationData",
        "is_labelled",
        "open_classification",
        "open_segmentation",
        "read_classes",
        "training_pictures",
    },
    "aselect_edge.heads": {"Head", "build_head", "taps_for"},
    "aselect_edge.training": {"RECIPES", "Outcome", "Recipe", "TrainRequest", "Unfreeze", "train_bundle"},
    "aselect_edge.select": {"STRATEGIES", "Measure", "Request", "Settings", "high_frequency_ratio", "select_tap"},
}
TORCH_FREE = (
    "errors",
    "records",
    "files",
    "frames",
    "scenes",
    "data",
    "metrics",
    "evaluation",
    "augment",
    "command",
    "cli",
)


@pytest.mark.parametrize("package", SURFACE)
def test_each_door_opens_to_what_it_names(package: str) -> None:
    module = importlib.import_module(package)
    assert set(module.__all__) == SURFACE[package]
    assert all(hasattr(module, name) for name in module.__all__)
    assert module.__doc__


def test_every_error_is_ours_and_exits_with_a_code_of_its_kind() -> None:
    classes = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    kinds = [kind for kind in classes if issubclass(kind, errors.AselectError)]
    assert kinds == classes
    assert {kind.exit_code for kind in kinds} == {1, 3}
    assert all(kind.__doc__ for kind in kinds)


def test_the_version_is_a_version() -> None:
    assert [part.isdecimal() for part in aselect_edge.__version__.split(".")] == [True] * 3


def test_a_device_without_torch_can_use_what_it_needs() -> None:
    names = ", ".join(f"aselect_edge.{name}" for name in TORCH_FREE)
    heavy = ("torch", "diffusers", "onnx", "transformers", "safetensors", "matplotlib")
    code = f"import sys; sys.modules |= dict.fromkeys({heavy!r}); import {names}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, aselect_edge; print([m for m in ('torch', 'numpy', 'pydantic', 'cv2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
