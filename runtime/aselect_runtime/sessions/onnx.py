"""A session of ONNX Runtime, on the CPU or, with onnxruntime-gpu, on CUDA."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from aselect_runtime.errors import EngineError, IntegrityError, MissingDependencyError
from aselect_runtime.frames import Frame
from aselect_runtime.processor import compute_threads, processor
from aselect_runtime.records import Manifest, TensorSpec
from aselect_runtime.results import Arrays

METADATA_KEY = "aselect_manifest"
"""Key of the ONNX metadata under which a .onnx file contains its manifest as JSON."""

TYPES = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}
"""Element type in a manifest -> ONNX Runtime's name."""

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxSession:
    """Loads a .onnx file, or a serialized model from memory; raises IntegrityError if it cannot be loaded."""

    def __init__(self, source: Path | bytes, device: str) -> None:
        onnxruntime = _onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = compute_threads()
        # Decoding and drawing share the cores with inference: a thread that spins between two operators slows them
        # down.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Without VNNI, INT8 products of unsigned and signed values on x86 overflow 16 bits and saturate, so that the
        # results are wrong, not only rounded. This selects exact products, which take twice the time of VNNI's.
        if not processor().vnni:
            options.add_session_config_entry("session.x64quantprecision", "1")
        # INT4 weights are stored in 4 bits, but products are those of float32: by default activations become INT8.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        options.log_severity_level = 4  # errors arrive as exceptions
        providers = [PROVIDERS[device]] if device == "cpu" else [PROVIDERS[device], PROVIDERS["cpu"]]
        self._name = "model in memory" if isinstance(source, bytes) else str(source)
        content = source if isinstance(source, bytes) else str(source)
        try:
            self._session: Any = _load(onnxruntime, content, options, providers)
        except Exception as error:  # ONNX Runtime's exceptions have no other common base
            raise IntegrityError(
                f"{self._name}: ONNX Runtime cannot load it ({_first_line(error)}), expected an ONNX model; "
                "export it again"
            ) from error
        self.device = "cuda" if PROVIDERS["cuda"] in self._session.get_providers() else "cpu"
        with self._readable():
            self._inputs_are = [_described(node) for node in self._session.get_inputs()]
            self._outputs_are = [_described(node) for node in self._session.get_outputs()]
        self._outputs = [name for name, _, _ in self._outputs_are]
        self._input = self._inputs_are[0][0] if self._inputs_are else ""

    def metadata(self) -> dict[str, str]:
        """The model's metadata_props."""
        with self._readable():
            return dict(self._session.get_modelmeta().custom_metadata_map)

    def check(self, manifest: Manifest) -> None:
        """Raise IntegrityError unless the graph has the manifest's input and outputs, with their types and shapes."""
        inputs, outputs = self._inputs_are, self._outputs_are
        wanted = [_specified(manifest.input)]
        promised = [_specified(output) for output in manifest.outputs]
        if inputs != wanted or any(output not in outputs for output in promised):
            raise IntegrityError(
                f"{self._name}: got the inputs {inputs} and outputs {outputs}, expected {wanted} and {promised} "
                "from its manifest; export it again"
            )

    def infer(self, frames: Frame, names: Sequence[str] | None = None) -> Arrays:
        """See Session.infer; with `names`, only these outputs, which may include outputs that the manifest omits."""
        wanted = self._outputs if names is None else list(names)
        try:
            return dict(zip(wanted, self._session.run(wanted, {self._input: frames}), strict=True))
        except Exception as error:  # ONNX Runtime's exceptions have no other common base
            raise EngineError(
                f"ONNX Runtime failed on {self.device} ({_first_line(error)}), expected results for {frames.dtype} "
                f"{list(frames.shape)}; try the device cpu or export the model again",
                parameter="device",
            ) from error

    def close(self) -> None:
        """See Session.close."""
        self._session = None

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Names and notes of a damaged graph need not be text."""
        try:
            yield
        except UnicodeDecodeError as error:
            raise IntegrityError(
                f"{self._name}: got names or notes that are not UTF-8 ({error.reason}), expected an ONNX model; "
                "export it again"
            ) from error


def available() -> list[str]:
    """The devices that the installed ONNX Runtime supports, of `cpu` and `cuda`."""
    offered = _onnxruntime().get_available_providers()
    return [device for device, provider in PROVIDERS.items() if provider in offered]


def has_cuda() -> bool:
    """Whether the installed ONNX Runtime was built with CUDA; does not import it, because that takes time."""
    spec = find_spec("onnxruntime")
    places = spec.submodule_search_locations if spec is not None else None
    return any((Path(place) / "capi" / "libonnxruntime_providers_cuda.so").is_file() for place in places or ())


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            "got no onnxruntime, expected it for running .onnx models; pip install onnxruntime (on a Jetson, where "
            "JetPack includes OpenCV) or pip install 'aselect-runtime[cpu]' (elsewhere)"
        ) from error
    return onnxruntime


def _load(onnxruntime: Any, content: bytes | str, options: Any, providers: Sequence[str]) -> Any:
    """A session, without ONNX Runtime's fusions of quantised products if they break the graph, as they do in FP8."""
    try:
        return onnxruntime.InferenceSession(content, options, providers=providers)
    except Exception as error:
        if "float8" not in str(error):
            raise
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        return onnxruntime.InferenceSession(content, options, providers=providers)


def _described(node: Any) -> tuple[str, str, list[Any]]:
    """Name, type and shape of an input or output; a dynamic dimension is a string or None."""
    return node.name, node.type, list(node.shape)


def _specified(spec: TensorSpec) -> tuple[str, str, list[Any]]:
    return spec.name, TYPES[spec.dtype], list(spec.shape)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:300]
