"""Every name of TensorRT that the code touches is there: in the installed TensorRT-RTX, and in each version's table.

The names are read from the code itself, so that this cannot go stale: whatever is called `trt` is the module, and
whatever is called `trt_<something>` is an object of the class below. What is guarded by `hasattr` may be missing from
some versions, but not from all.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aselect_runtime import engines
from aselect_runtime.engines.versions import available
from tests.runtime.engines import tensorrt_names

CLASS_OF = {
    "trt_builder": "Builder",
    "trt_network": "INetworkDefinition",
    "trt_parser": "OnnxParser",
    "trt_fault": "ParserError",
    "trt_config": "IBuilderConfig",
    "trt_cache": "ITimingCache",
    "trt_runtime": "Runtime",
    "trt_engine": "ICudaEngine",
    "trt_context": "IExecutionContext",
    "trt_inspector": "EngineInspector",
}
GONE = {"IBuilderConfig": ["int8_calibrator"], "ICudaEngine": ["device_memory_size"], "OnnxParser": ["supports_model"]}
"""Names that older code uses and TensorRT 11 no longer has: the table can tell the difference."""

TABLE: dict[str, dict[str, str]] = json.loads(tensorrt_names.FILE.read_text())["names"]
TABLED = list(tensorrt_names.VERSIONS)
Name = tuple[str, ...]
"""`("Builder",)` of the module, or `("IBuilderConfig", "progress_monitor")` of a class."""


def touched() -> tuple[set[Name], set[Name]]:
    """The names that the engines package uses, and those of them that a `hasattr` guards."""
    used: set[Name] = set()
    guarded: set[Name] = set()
    for module in pkgutil.iter_modules(engines.__path__):
        source = inspect.getsource(importlib.import_module(f"{engines.__name__}.{module.name}"))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute):
                used.update(_name(node))
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hasattr":
                thing, name = node.args
                assert isinstance(name, ast.Constant)
                guarded.update(_name(ast.Attribute(thing, str(name.value), ast.Load())))
    # An enumeration behind a guarded name is guarded with it.
    heads = {name[0] for name in guarded if len(name) == 1}
    guarded |= {name for name in used if name[0] in heads} | {
        name for name in used if name[0] == "IBuilderConfig" and name[1].endswith("compute_capability")
    }
    return {name for name in used | guarded if name[-1] not in ("__version__", "__name__", "__members__")}, guarded


def _name(node: ast.Attribute) -> Iterator[Name]:
    if isinstance(node.value, ast.Name):
        if node.value.id == "trt":
            yield (node.attr,)
        elif node.value.id.startswith("trt_"):
            yield (CLASS_OF[node.value.id], node.attr)
    elif (
        isinstance(node.value, ast.Attribute)
        and isinstance(node.value.value, ast.Name)
        and node.value.value.id == "trt"
        and node.attr != "__init__"
    ):
        yield (node.value.attr, node.attr)


USED, GUARDED = touched()


def test_the_names_are_found_in_the_code() -> None:
    assert ("IExecutionContext", "execute_async_v3") in USED
    assert ("IBuilderConfig", "progress_monitor") in USED
    assert ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED") in USED
    assert ("IBuilderConfig", "num_compute_capabilities") in GUARDED
    assert len(USED) > 35


@pytest.mark.skipif(not available("rtx"), reason="tensorrt-rtx is not installed")
@pytest.mark.parametrize("name", sorted(USED), ids=".".join)
def test_the_installed_tensorrt_rtx_has_it(name: Name) -> None:
    thing: Any = importlib.import_module("tensorrt_rtx")
    for part in name:
        assert hasattr(thing, part), f"{'.'.join(name)} is not in tensorrt_rtx {thing}"
        thing = getattr(thing, part)


@pytest.mark.parametrize("version", TABLED)
def test_every_version_has_what_is_not_guarded(version: str) -> None:
    missing = sorted(".".join(name) for name in USED - GUARDED if version not in versions_of(name))
    assert missing == []


def versions_of(name: Name) -> list[str]:
    """The versions of the table that have a name; members of nested enumerations such as Severity are not in it."""
    kind, member = name if len(name) == 2 else ("module", name[0])
    return TABLE[kind].get(member, "").split()


def test_the_table_distinguishes_versions() -> None:
    for kind, names in GONE.items():
        for name in names:
            assert "10.3" in versions_of((kind, name))
            assert "11.4" not in versions_of((kind, name))
    assert "11.4" in versions_of(("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"))


def test_the_code_that_distinguishes_versions_is_in_one_file() -> None:
    for module in pkgutil.iter_modules(engines.__path__):
        source = Path(inspect.getfile(importlib.import_module(f"{engines.__name__}.{module.name}"))).read_text()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hasattr":
                assert module.name == "versions"
