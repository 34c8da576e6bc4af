"""The record `manifest.json`: an export folder."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from aselect_runtime.records.base import Record, Sha256
from aselect_runtime.records.classes import Classes, Task, check_count
from aselect_runtime.records.engine import Engine
from aselect_runtime.records.noise import Noise
from aselect_runtime.records.resize import Resize
from aselect_runtime.records.tap import Tap
from aselect_runtime.records.tensors import TensorSpec

Precision = Literal["fp32", "fp16", "int8", "fp8"]
Weights = Literal["int4"]
"""How weights are stored if not in the type that they are used in."""


class Manifest(Record):
    """The content of an export folder (`manifest.json`): all that a device needs to know about the model."""

    kind: ClassVar[str] = "manifest"
    version: ClassVar[tuple[int, int]] = (1, 2)

    task: Task
    classes: Classes
    resize: Resize
    input: TensorSpec
    outputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1)]
    precision: Precision
    weights: Weights | None = None
    """Of `model`; activations have the type that `precision` names."""
    model: str = "model.onnx"
    rungs: tuple[str, ...] = ()
    """Fallback graphs of higher precision, tried in this order if the model's engine fails the parity check."""
    taps: tuple[Tap, ...]
    noise: Noise
    files: dict[str, Sha256]
    engines: tuple[Engine, ...] = ()
    tools: dict[str, str] = Field(default_factory=dict)

    @field_validator("input")
    @classmethod
    def _frames(cls, value: TensorSpec) -> TensorSpec:
        if value.dtype != "uint8" or len(value.shape) != 4 or value.shape[3] != 3:
            raise ValueError(f"got input {value.dtype} {list(value.shape)}, expected uint8 [N, H, W, 3]")
        return value

    @model_validator(mode="after")
    def _outputs_fit_the_task(self) -> Manifest:
        check_count(self.task, self.classes)
        batch, height, width, _ = self.input.shape
        answer = {
            "seg": TensorSpec(name="class_map", dtype="uint8", shape=(batch, height, width)),
            "cls": TensorSpec(name="scores", dtype="float32", shape=(batch, len(self.classes))),
        }[self.task]
        if answer not in self.outputs:
            raise ValueError(f"got outputs without {answer.name} {answer.dtype} {list(answer.shape)} for {self.task}")
        return self

    def is_fp32(self, graph: str) -> bool:
        """Whether a graph of the folder, by its file's name, computes in FP32 alone."""
        return "fp32" in graph or (self.precision == "fp32" and graph == self.model)

    def is_eight_bit(self, graph: str) -> bool:
        """Whether a graph of the folder, by its file's name, computes in INT8 or FP8; its fallbacks do not."""
        return self.precision in ("int8", "fp8") and graph == self.model
