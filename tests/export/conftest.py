"""Tracing is most of what an export costs: here torch does it once for each model, whatever is exported of it."""

from __future__ import annotations

import functools
import hashlib
import io
import pickle
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import onnx
import onnx_ir
import pytest
import torch
from torch import Tensor
from torch.onnx._internal.exporter._registration import ONNXRegistry

KEPT = 8_000_000
"""Bytes of a traced model that are worth keeping; larger ones are exported once anyway."""


class Content(pickle.Pickler):
    """Pickles all that a module is: its structure, its plain attributes, and a digest of each tensor."""

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return None
        content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return str(value.dtype), tuple(value.shape), hashlib.sha256(content).hexdigest()


def digest(*parts: Any) -> str:
    """The same for equal modules and options; sometimes another for equal ones, never the same for different ones."""
    stream = io.BytesIO()
    Content(stream).dump(parts)
    return hashlib.sha256(stream.getvalue()).hexdigest()


@pytest.fixture(scope="session", autouse=True)
def _traced_once() -> Iterator[None]:
    """`torch.onnx.export` of a model that was exported before gives a copy of what it gave then."""
    real, kept = torch.onnx.export, dict[str, onnx.ModelProto]()

    def export(module: torch.nn.Module, *arguments: Any, **options: Any) -> Any:
        key = digest(module, arguments, options)
        if key in kept:
            copy = onnx.ModelProto()
            copy.CopyFrom(kept[key])
            return SimpleNamespace(model=onnx_ir.from_proto(copy))
        program = real(module, *arguments, **options)
        assert program is not None
        if sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values()) < KEPT:
            kept[key] = onnx_ir.to_proto(program.model)
        return program

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", export)
        # It parses the source of torch's 500 translations at each call, a fifth of a small export.
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        yield
