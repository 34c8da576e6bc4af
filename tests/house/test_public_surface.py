"""The public names of each package, and that the part without torch stays without it."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Callable

import pytest

import aselect_edge
import aselect_export
import aselect_runtime
import aselect_weights
from aselect_runtime import errors
from tests.house.help_pages import help_of

SURFACE = {
    "aselect_runtime": {
        "Captured",
        "Model",
        "Result",
        "Sink",
        "Source",
        "SourceInfo",
        "__version__",
        "open_model",
        "open_sink",
        "open_source",
        "run_pipeline",
    },
    "aselect_runtime.pipeline": {"run_pipeline"},
    "aselect_runtime.rules": {"Event", "Rule", "Rules", "Sight", "Watch", "Zone", "load_rules"},
    "aselect_runtime.sessions": {"Session"},
    "aselect_runtime.sinks": {"Sink", "SinkClosed", "Write", "open_sink"},
    "aselect_runtime.sources": {"VIDEO_SUFFIXES", "Source", "open_source"},
    "aselect_weights": {"__version__", "backbone", "cls", "seg"},
    "aselect_edge": {
        "__version__",
        "distil",
        "load_backbone",
        "load_bundle",
        "select",
        "select_tap",
        "train",
        "train_bundle",
    },
    "aselect_export": {"Evaluation", "ExportResult", "evaluate", "export", "open_bundle"},
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
        "LabelledData",
        "SegmentationData",
        "images_of",
        "is_labelled",
        "open_data",
        "open_classification",
        "open_segmentation",
        "read_classes",
    },
    "aselect_edge.bundle": {
        "RECORD",
        "SHIPPED",
        "DistilledTapModel",
        "FoldedTapModel",
        "LoadedBundle",
        "TapModel",
        "fused",
        "load_bundle",
        "tap_model",
        "save_bundle",
        "save_distilled",
        "upsample",
    },
    "aselect_edge.evaluation": {"Answers", "Confusion", "Figures", "TopAccuracy", "measure", "score_of"},
    "aselect_edge.distillation": {"Distillation", "distil"},
    "aselect_edge.fold": {
        "FoldSpec",
        "Folded",
        "Stem",
        "deployed_encoder",
        "detached_embedding",
        "encoder_cost",
        "fixed_noise",
        "fold",
        "fused",
    },
    "aselect_edge.heads": {"Head", "build_head", "taps_for"},
    "aselect_edge.training": {
        "RECIPES",
        "CleanRecipe",
        "Outcome",
        "Recipe",
        "TrainRequest",
        "Unfreeze",
        "train_bundle",
    },
    "aselect_edge.selection": {"STRATEGIES", "Measure", "Request", "Settings", "high_frequency_ratio", "select_tap"},
}
TORCH_FREE = (
    "aselect_runtime.errors",
    "aselect_runtime.records",
    "aselect_runtime.files",
    "aselect_runtime.frames",
    "aselect_runtime.scenes",
    "aselect_runtime.commands.app",
    "aselect_runtime.commands.entry",
    "aselect_edge.data",
    "aselect_edge.data.augment",
    "aselect_edge.evaluation",
    "aselect_edge.evaluation.metrics",
    "aselect_edge.commands.distil",
    "aselect_edge.commands.init",
    "aselect_edge.commands.select",
    "aselect_edge.commands.train",
    "aselect_export.commands.evaluate",
    "aselect_export.commands.export",
)


@pytest.mark.parametrize("package", SURFACE)
def test_every_exported_name_exists(package: str) -> None:
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


def test_the_version_is_a_version_and_the_same_everywhere() -> None:
    assert [part.isdecimal() for part in aselect_edge.__version__.split(".")] == [True] * 3
    assert aselect_edge.__version__ == aselect_runtime.__version__ == aselect_weights.__version__


def test_a_device_without_torch_can_use_what_it_needs() -> None:
    names = ", ".join(TORCH_FREE)
    heavy = ("torch", "diffusers", "onnx", "transformers", "safetensors", "matplotlib")
    code = f"import sys; sys.modules |= dict.fromkeys({heavy!r}); import {names}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", ["aselect_edge", "aselect_runtime", "aselect_calibration", "aselect_export"])
def test_importing_the_package_loads_nothing_heavy(package: str) -> None:
    code = f"import sys, {package}; print([m for m in ('torch', 'numpy', 'pydantic', 'cv2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_included_models_are_loaded_and_folded_without_what_takes_seconds_to_import() -> None:
    code = """import sys
    sys.modules |= dict.fromkeys(("diffusers", "transformers", "matplotlib", "scipy.stats"))
    import aselect_export.exporting, aselect_export.replacement
    from aselect_edge.bundle import SHIPPED, load_bundle
    load_bundle(SHIPPED["seg"]).deployed()"""
    done = subprocess.run([sys.executable, "-c", inspect.cleandoc(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("function", "command", "own"),
    [
        (aselect_edge.select, "aselect-select", {"threads"}),
        (aselect_edge.train, "aselect-train", {"threads"}),
        (aselect_edge.distil, "aselect-distil", {"threads"}),
        (aselect_export.export, "aselect-export", {"no-ladder", "threads"}),
        (aselect_export.evaluate, "aselect-eval", {"threads"}),
    ],
)
def test_a_function_takes_its_commands_options(function: Callable[..., object], command: str, own: set[str]) -> None:
    """By the same names; `own` are the command's alone."""
    options = set(re.findall(r"^[│* ]*--([a-z][a-z-]+)", help_of(command), re.MULTILINE)) - own
    assert "data" in options
    options -= {"help", "help-all", "json", "verbose", "install-completion", "show-completion"}
    assert {option.replace("-", "_") for option in options} <= inspect.signature(function).parameters.keys()
