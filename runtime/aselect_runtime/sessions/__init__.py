"""Sessions: a loaded model behind one protocol, in ONNX Runtime or OpenVINO; TensorRT's is in `engines`."""

from aselect_runtime.sessions.session import Session

__all__ = ["Session"]
