"""No module imports in a circle, not even lazily or for types alone."""

from __future__ import annotations

import grimp
import pytest

ROOMS = ("aselect_runtime", "aselect_weights", "aselect_edge", "aselect_calibration", "aselect_export", "research")


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*ROOMS, cache_dir=None)


def circle(graph: grimp.ImportGraph) -> list[str]:
    """Modules of a circle and those that import them; nothing where there is none."""
    left = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    while leaves := [module for module, imported in left.items() if not imported & left.keys()]:
        for module in leaves:
            del left[module]
    return sorted(left)


def test_nothing_imports_in_a_circle(graph: grimp.ImportGraph) -> None:
    assert circle(graph) == []


def test_a_circle_would_be_found() -> None:
    graph = grimp.ImportGraph()
    for module in "abcd":
        graph.add_module(module)
    for importer, imported in (("a", "b"), ("b", "c"), ("c", "b"), ("c", "d")):
        graph.add_import(importer=importer, imported=imported)
    assert circle(graph) == ["a", "b", "c"]
