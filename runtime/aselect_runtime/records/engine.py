"""TensorRT engines."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from aselect_runtime.records.base import Frozen, Sha256


class Engine(Frozen):
    """What a TensorRT engine file was built from and for; the file itself contains the engine only."""

    file: str
    sha256: Sha256
    onnx_sha256: Sha256
    builder: Literal["tensorrt", "tensorrt-rtx"]
    version: str
    target: Annotated[str, Field(pattern=r"^sm\d{2,3}$")]
    gpu: str | None = None
    flags: dict[str, str] = Field(default_factory=dict)
    model: str = "model.onnx"
    """The graph that it was built from: the folder's model, or one of its fallback graphs (`rungs`)."""
    agreement: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of pixels or frames with the same class as ONNX Runtime's; None if it was not run on a GPU."""
