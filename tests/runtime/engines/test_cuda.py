"""cuda-python as it is installed: every name that is used is there, and its errors become AselectErrors.

It imports without a driver, so the names, the argument types and the error path are checked for real.
"""

from __future__ import annotations

import ast
import inspect

import numpy as np
import pytest

from aselect_runtime.engines import cuda_python, opening
from aselect_runtime.engines.device_memory import DeviceMemory
from aselect_runtime.engines.gpu import find_gpu
from aselect_runtime.engines.opening import open_memory
from aselect_runtime.engines.py_cuda import PyCuda
from aselect_runtime.errors import EngineError, MissingDependencyError

pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
no_gpu = pytest.mark.skipif(find_gpu() is not None, reason="there is a GPU here")


def names() -> set[str]:
    """What the code reads of the module, as `self._cuda.<name>` or `self._cuda.<enumeration>.<name>`."""
    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(cuda_python))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and node.value.attr == "_cuda":
            found.add(node.attr)
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Attribute)
            and isinstance(node.value.value, ast.Attribute)
            and node.value.value.attr == "_cuda"
        ):
            found.add(f"{node.value.attr}.{node.attr}")
    return found


def test_every_name_is_there() -> None:
    used = names()
    assert "cudaMemcpyKind.cudaMemcpyHostToDevice" in used
    assert len(used) > 25
    module = cuda_python.runtime_module()
    for name in used:
        thing = module
        for part in name.split("."):
            thing = getattr(thing, part)


def test_the_codes_with_advice_are_those_of_cuda() -> None:
    errors = cuda_python.runtime_module().cudaError_t
    named = {
        errors.cudaErrorMemoryAllocation: "close other programs",
        errors.cudaErrorInsufficientDriver: "update the driver",
        errors.cudaErrorNoDevice: "aselect-doctor",
        errors.cudaErrorDevicesUnavailable: "another process",
    }
    assert {int(code) for code in named} == set(cuda_python.REMEDIES)
    for code, words in named.items():
        assert words in cuda_python.REMEDIES[int(code)]


@no_gpu
@pytest.mark.parametrize(
    "call",
    [
        lambda memory: memory.attach(),
        lambda memory: memory.allocate(8),
        lambda memory: memory.free(4096),
        lambda memory: memory.allocate_pinned(8),
        lambda memory: memory.copy_in(4096, np.zeros(8, np.uint8), 1),
        lambda memory: memory.copy_out(np.zeros(8, np.uint8), 4096, 1),
        lambda memory: memory.create_stream(),
        lambda memory: memory.synchronize_stream(1),
        lambda memory: memory.create_event(),
        lambda memory: memory.launch_graph(1, 1),
    ],
    ids=lambda _: "",
)
def test_without_a_driver_each_call_is_an_error_of_ours(call: object) -> None:
    """Not a TypeError: so integers are taken for addresses and handles."""
    with pytest.raises(EngineError, match=r"got error \d+ \(.*\), expected success; "):
        call(open_memory())  # type: ignore[operator]


def test_a_driver_that_is_too_old_and_a_full_gpu_are_reported_with_what_to_do() -> None:
    memory = cuda_python.CudaPython()
    errors = cuda_python.runtime_module().cudaError_t
    with pytest.raises(EngineError, match=r"got error 35 .*the driver is older than cuda-python: update the driver"):
        memory._do("find the GPU", (errors.cudaErrorInsufficientDriver, None))
    with pytest.raises(
        EngineError, match=r"could not allocate 8 bytes.*got error 2 \(out of memory\).*close other programs"
    ):
        memory._do("allocate 8 bytes on the GPU", (errors.cudaErrorMemoryAllocation, None))
    assert memory._do("find the GPU", (errors.cudaSuccess, 7)) == 7


def test_both_implement_the_protocol() -> None:
    methods = {
        name for name in vars(DeviceMemory) if not name.startswith("_") and callable(getattr(DeviceMemory, name))
    }
    for kind in (cuda_python.CudaPython, PyCuda):
        for name in methods:
            wanted = inspect.signature(getattr(DeviceMemory, name)).parameters
            assert list(inspect.signature(getattr(kind, name)).parameters) == list(wanted), (kind, name)


def test_a_machine_without_either_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match="pip install cuda-bindings"):
        open_memory()


@pytest.mark.gpu
@pytest.mark.skipif(find_gpu() is None, reason="needs a GPU")
def test_a_round_trip_through_the_real_gpu() -> None:
    memory = open_memory()
    memory.attach()
    stream, address = memory.create_stream(), memory.allocate(1 << 20)
    there, back = memory.allocate_pinned(1 << 20), memory.allocate_pinned(1 << 20)
    there[...] = np.random.default_rng(0).integers(0, 256, 1 << 20)
    memory.copy_in(address, there, stream)
    memory.copy_out(back, address, stream)
    memory.synchronize_stream(stream)
    np.testing.assert_array_equal(there, back)
    memory.free_pinned(there)
    memory.free_pinned(back)
    memory.free(address)
    memory.destroy_stream(stream)
    memory.detach()
