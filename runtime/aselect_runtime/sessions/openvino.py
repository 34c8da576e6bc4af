"""A session of OpenVINO on the CPU of x86 machines."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from aselect_runtime.errors import EngineError, IntegrityError, MissingDependencyError
from aselect_runtime.frames import Frame
from aselect_runtime.processor import compute_threads, processor
from aselect_runtime.records import Manifest, TensorSpec
from aselect_runtime.results import Arrays
from aselect_runtime.sessions.compiled import compiled, compiled_folder
from aselect_runtime.sessions.unsigned import make_unsigned, quantises

TYPES = {"uint8": "u8", "float32": "f32"}
"""Element type in a manifest -> OpenVINO's name."""

METADATA = "framework"
"""Key under which OpenVINO stores the metadata_props of an ONNX model."""

X86 = frozenset({"x86_64", "amd64"})


class OpenVinoSession:
    """Loads a .onnx file; raises IntegrityError if OpenVINO cannot load it.

    The graph determines the precision: OpenVINO's conversion to bfloat16 or float16 is off, so float32 nodes compute in
    float32 on every processor, and a float16 graph loses accuracy only by its float16 weights. With `bf16` they compute
    in bfloat16: faster if the processor has instructions for it, many times slower otherwise.

    INT8 layers give the graph's own values, which OpenVINO's defaults do not: signed quantisation is rewritten as
    unsigned, and without VNNI, where its products would saturate in 16 bits, they compute in float32.

    With `digest`, the graph's hash (see `graph_hash`), the compiled model is stored in the user's cache folder.
    """

    def __init__(self, path: Path, *, bf16: bool = False, digest: str | None = None) -> None:
        self.device = "openvino-bf16" if bf16 else "openvino"
        self._path = path
        openvino = _openvino()
        self._core: Any = openvino.Core()
        settings = {
            "PERFORMANCE_HINT": "LATENCY",  # one frame at a time, with the lowest latency
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "INFERENCE_NUM_THREADS": compute_threads(),
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # with INT4 weights it would quantise the activations to INT8
            "LP_TRANSFORMS_MODE": processor().vnni,  # whether quantised layers compute in INT8
        }

        def compile_with(folder: str) -> Any:
            with _silent_stderr():
                return self._core.compile_model(self._source(openvino), "CPU", settings | {"CACHE_DIR": folder})

        try:
            self._model: Any = compiled(_folder(openvino, path, settings, digest), compile_with)
            self._request: Any = self._model.create_infer_request()
        except RuntimeError as error:  # the only exception that OpenVINO raises
            raise IntegrityError(
                f"{path}: OpenVINO cannot load it ({_reason(error)}), expected an ONNX model that it supports; "
                "export it again or use the device cpu",
                parameter="device",
            ) from error
        self._outputs = [port.get_any_name() for port in self._model.outputs]

    def _source(self, openvino: Any) -> Any:
        """What is compiled: the file, which OpenVINO need not read if it has its result, or the model read from it."""
        if not quantises(self._path):
            return str(self._path)
        model = self._core.read_model(str(self._path))
        make_unsigned(openvino, model)
        return model

    def metadata(self) -> dict[str, str]:
        """The model's metadata_props."""
        info = self._core.read_model(str(self._path)).get_rt_info()  # the compiled model does not have it
        return {key: value.astype(str) for key, value in info[METADATA].items()} if METADATA in info else {}

    def check(self, manifest: Manifest) -> None:
        """Raise IntegrityError unless the graph has the manifest's input and outputs, with their types and shapes."""
        inputs = [_described(port) for port in self._model.inputs]
        outputs = [_described(port) for port in self._model.outputs]
        wanted = [_specified(manifest.input)]
        promised = [_specified(output) for output in manifest.outputs]
        if inputs != wanted or any(output not in outputs for output in promised):
            raise IntegrityError(
                f"{self._path}: got the inputs {inputs} and outputs {outputs}, expected {wanted} and {promised} "
                "from its manifest; export it again"
            )

    def infer(self, frames: Frame) -> Arrays:
        """See Session.infer; the outputs are copies, which later calls do not change."""
        try:
            results = self._request.infer({0: frames}, share_inputs=True)
        except RuntimeError as error:
            raise EngineError(
                f"OpenVINO failed ({_reason(error)}), expected results for {frames.dtype} {list(frames.shape)}; "
                "try the device cpu or export the model again",
                parameter="device",
            ) from error
        return {name: results[name] for name in self._outputs}

    def close(self) -> None:
        """See Session.close."""
        self._request = self._model = self._core = None


def available() -> bool:
    """Whether OpenVINO is installed and the processor is x86, which it is made for."""
    return platform.machine().lower() in X86 and find_spec("openvino") is not None


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise MissingDependencyError(
            "got no openvino, expected it for the device openvino; pip install 'aselect-runtime[openvino]' or use "
            "the device auto",
            parameter="device",
        ) from error
    return openvino


def _folder(openvino: Any, path: Path, settings: Mapping[str, object], digest: str | None) -> Path | None:
    """The cache folder of the compiled model, None without `digest`.

    The name depends on the processor too, because the compiled model does and several machines may share a home folder;
    and on the path of the graph, because OpenVINO's own cache key contains it.
    """
    if digest is None:
        return None
    here = processor()
    machine = [here.name, *sorted(here.flags)]
    chosen = [f"{name}={value}" for name, value in settings.items()]
    return compiled_folder("openvino", [openvino.__version__, *machine, *chosen, str(path.resolve()), digest])


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Suppress what OpenVINO's protobuf library prints about a broken file; the exception reports it anyway."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _described(port: Any) -> tuple[str, str, list[Any]]:
    """Name, type and shape of an input or output; a dynamic dimension is a string."""
    shape = [side.get_length() if side.is_static else str(side) for side in port.get_partial_shape()]
    return port.get_any_name(), port.get_element_type().get_type_name(), shape


def _specified(spec: TensorSpec) -> tuple[str, str, list[Any]]:
    return spec.name, TYPES[spec.dtype], list(spec.shape)


def _reason(error: RuntimeError) -> str:
    """The text of an OpenVINO error without the lines that name its source code."""
    lines = [line.strip() for line in str(error).splitlines()]
    texts = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return (texts or lines or ["no reason given"])[-1][:300]
