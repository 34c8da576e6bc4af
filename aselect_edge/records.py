"""The immutable records that pass between stages; each is also a JSON file that a person can read.

Torch-free: a device imports this module with NumPy and pydantic alone. Every record file carries
`schema: "<kind>/<major>.<minor>"`. An older minor version loads (new fields have defaults), a newer minor or
another major is refused.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from aselect_edge.errors import InputError, RecordError
from aselect_edge.files import atomic_write

Task = Literal["seg", "cls"]
Precision = Literal["fp32", "fp16", "int8"]
Component = Literal["hidden", "adaln", "query", "key", "value", "attn", "attn_gated", "mlp"]
COMPONENTS: tuple[Component, ...] = ("hidden", "adaln", "query", "key", "value", "attn", "attn_gated", "mlp")

Finite = Annotated[float, Field(allow_inf_nan=False)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Colour = tuple[
    Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)]
]


class Frozen(BaseModel):
    """A value that cannot change and refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Noise(Frozen):
    """One noise level: x_t = alpha * x0 + sigma * eps, and the value that the timestep embedder is fed.

    Stored instead of a timestep index, because the same index means different noise in different schedulers.
    """

    alpha: Annotated[float, Field(ge=0, le=1)]
    sigma: Annotated[float, Field(ge=0, le=1)]
    model_timestep: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Tap(Frozen):
    """Where features are read: the component of a block, written `9.query`."""

    block: Annotated[int, Field(ge=0)]
    component: Component

    @classmethod
    def parse(cls, text: str) -> Tap:
        """Parse `<block>.<component>`; raises InputError."""
        match = re.fullmatch(r"(\d{1,4})\.([a-z_]+)", text.strip())
        if not match or match[2] not in COMPONENTS:
            raise InputError(
                f"got the tap {text!r}, expected <block>.<component> with a component of {', '.join(COMPONENTS)}; "
                "for example 3.query"
            )
        return cls(block=int(match[1]), component=match[2])

    def __str__(self) -> str:
        return f"{self.block}.{self.component}"


class Score(Frozen):
    """The score of one candidate of a selection; higher is better."""

    noise: Noise
    tap: Tap
    value: Finite


class LevelWeight(Frozen):
    """A noise level and its share, 0 to 1, of a distribution or a mixture."""

    noise: Noise
    weight: Annotated[float, Field(ge=0, le=1)]


class Cost(Frozen):
    """What a selection cost: forward passes (one image at one noise level is one) and seconds of the search."""

    forward_passes: Annotated[int, Field(ge=0)]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class DataFingerprint(Frozen):
    """Which images were looked at: how many, and a SHA-256 over their names and bytes."""

    images: Annotated[int, Field(ge=0)]
    sha256: Sha256


class Resize(Frozen):
    """How a camera frame becomes a model input; obeyed alike by training, calibration, evaluation and runtime."""

    mode: Literal["stretch", "letterbox"] = "stretch"
    interpolation: Literal["area", "linear"] = "area"


class ClassInfo(Frozen):
    """One class: its name and the colour (RGB) that pictures give it."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    colour: Colour


def _unique_names(classes: tuple[ClassInfo, ...]) -> tuple[ClassInfo, ...]:
    names = [info.name for info in classes]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"got the class {twice!r} twice, expected a name for each class of its own")
    return classes


Classes = Annotated[tuple[ClassInfo, ...], Field(min_length=1, max_length=10_000), AfterValidator(_unique_names)]


def _fit_in_a_map(record: Bundle | Manifest) -> None:
    """Class maps are uint8, and 255 is no label."""
    if record.task == "seg" and len(record.classes) > 255:
        raise ValueError(f"got {len(record.classes)} classes to segment, expected at most 255")


class BackboneSource(Frozen):
    """Where the backbone's weights are: in the bundle itself (`file`) or at a path or hub id (`source`)."""

    family: Literal["dit", "sit", "sd3", "pixart"]
    config: dict[str, Any]
    source: str
    revision: str | None = None
    file: str | None = None
    vae: str | None = None
    """Where the autoencoder of a model on latents is, if not with `source`."""
    schedule: dict[str, Any] | None = None
    """diffusers' scheduler_config.json, as far as it says what timesteps mean; None in bundles before 1.1."""
    label: Annotated[int, Field(ge=0)] | None = None
    """The class that the model is conditioned on; None for none."""
    condition: str | None = None
    """The file in the bundle with what the model is conditioned on; None is the model's own default."""


HeadKind = Literal["linear", "attention", "conv", "edge"]
HEAD_KINDS: dict[Task, tuple[HeadKind, ...]] = {"cls": ("linear", "attention"), "seg": ("linear", "conv", "edge")}
"""The heads that each task has."""


class HeadSpec(Frozen):
    """The task head: its kind and the arguments it is built with."""

    kind: HeadKind
    channels: Annotated[int, Field(ge=1, le=4096)]


class TensorSpec(Frozen):
    """Name, element type and static shape of a graph input or output."""

    name: str
    dtype: Literal["uint8", "float32"]
    shape: tuple[Annotated[int, Field(ge=1)], ...]


Size = tuple[Annotated[int, Field(ge=8, le=8192)], Annotated[int, Field(ge=8, le=8192)]]


class Record(Frozen):
    """A record with a file of its own."""

    kind: ClassVar[str]
    version: ClassVar[tuple[int, int]] = (1, 0)

    schema_: Annotated[str, Field(alias="schema")] = ""
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _check_schema(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        own = f"{cls.kind}/{cls.version[0]}.{cls.version[1]}"
        got = data.get("schema", data.get("schema_", own))
        match = re.fullmatch(r"([a-z]+)/(\d{1,4})\.(\d{1,4})", got) if isinstance(got, str) else None
        if not match or match[1] != cls.kind or int(match[2]) != cls.version[0] or int(match[3]) > cls.version[1]:
            raise ValueError(f"got schema {got!r}, expected {own} or an older minor; use the version that wrote it")
        return {**data, "schema": own}

    @classmethod
    def load(cls: type[R], path: Path) -> R:
        """Read and validate a record; raises RecordError that names the file and the first fault."""
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise RecordError(f"{path}: no such file, expected a {cls.kind} record; check the path") from error
        except (OSError, UnicodeDecodeError) as error:
            raise RecordError(f"{path}: unreadable ({error}), expected a {cls.kind} record; write it again") from error
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls: type[R], text: str, where: str = "record") -> R:
        """Validate JSON text; raises RecordError."""
        try:
            data = json.loads(text)
            if isinstance(data, dict):
                data.setdefault("schema", None)  # only a record made in memory may leave it out
            return cls.model_validate(data)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            at = ".".join(str(part) for part in fault["loc"]) or "record"
            message = str(fault["msg"]).removeprefix("Value error, ")
            raise RecordError(
                f"{where}: {at}: {message}, expected a valid {cls.kind} record; write it again"
            ) from error
        except (ValueError, RecursionError) as error:  # ValueError: also numbers of thousands of digits
            raise RecordError(f"{where}: not JSON ({error}), expected a {cls.kind} record; write it again") from error

    def to_json(self) -> str:
        """Indented JSON, one trailing newline."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), indent=2, ensure_ascii=False) + "\n"

    def save(self, path: Path) -> None:
        """Write atomically."""
        atomic_write(path, self.to_json())


R = TypeVar("R", bound=Record)


class Selection(Record):
    """What a strategy chose, with every score it looked at (`selection.json`)."""

    kind: ClassVar[str] = "selection"
    version: ClassVar[tuple[int, int]] = (1, 1)

    backbone: str
    noise: Noise
    tap: Tap
    strategy: str
    scores: tuple[Score, ...] = ()
    data: DataFingerprint | None = None
    seed: int = 0
    label: Annotated[int, Field(ge=0)] | None = None
    """The class that the backbone was conditioned on; None for none."""
    note: str = ""
    distribution: tuple[LevelWeight, ...] = ()
    """How likely the strategy thinks each noise level (`learned`); `noise` is then the mode."""
    mixture: tuple[LevelWeight, ...] = ()
    """The noise levels that a `gate` mixes; such a selection cannot be deployed."""
    cost: Cost | None = None
    parameters: dict[str, bool | int | Finite | str] = {}
    """What the strategy was set to."""

    def check_deployable(self) -> None:
        """Raise InputError for a mixture of noise levels: a deployed model has one."""
        if len(self.mixture) > 1:
            raise InputError(
                f"got a selection that mixes {len(self.mixture)} noise levels ({self.strategy}), expected one noise "
                "level to train and export; select again with another --strategy"
            )


class Bundle(Record):
    """A trained model before export (`bundle.json` of a bundle folder)."""

    kind: ClassVar[str] = "bundle"
    version: ClassVar[tuple[int, int]] = (1, 2)

    task: Task
    classes: Classes
    imgsz: Size
    resize: Resize
    backbone: BackboneSource
    taps: Annotated[tuple[Tap, ...], Field(min_length=1, max_length=8)]
    noise: Noise
    noise_seed: int | None = 0
    noise_draws: Annotated[int, Field(ge=1, le=64)] = 1
    """Features are the mean over so many draws of the noise; a forward pass each."""
    head: HeadSpec
    finetuned: bool = False
    metrics: dict[str, Finite] = {}
    files: dict[str, Sha256] = {}

    @model_validator(mode="after")
    def _classes_fit_the_task(self) -> Bundle:
        _fit_in_a_map(self)
        return self


class Engine(Frozen):
    """What a TensorRT engine file was built for; the file itself keeps its plain bytes."""

    file: str
    sha256: Sha256
    onnx_sha256: Sha256
    builder: Literal["tensorrt", "tensorrt-rtx"]
    version: str
    target: Annotated[str, Field(pattern=r"^sm\d{2,3}$")]
    gpu: str | None = None
    flags: dict[str, str] = {}
    model: str = "model.onnx"
    """The graph that it was built from: the folder's model, or a fallback rung."""
    agreement: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of pixels or frames with the same class as ONNX Runtime's; None if it was never run on a GPU."""


class Manifest(Record):
    """What an export folder holds (`manifest.json`), all that a device needs to know."""

    kind: ClassVar[str] = "manifest"
    version: ClassVar[tuple[int, int]] = (1, 1)

    task: Task
    classes: Classes
    resize: Resize
    input: TensorSpec
    outputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1)]
    precision: Precision
    model: str = "model.onnx"
    rungs: tuple[str, ...] = ()
    taps: tuple[Tap, ...]
    noise: Noise
    files: dict[str, Sha256]
    engines: tuple[Engine, ...] = ()
    tools: dict[str, str] = {}

    @field_validator("input")
    @classmethod
    def _frames(cls, value: TensorSpec) -> TensorSpec:
        if value.dtype != "uint8" or len(value.shape) != 4 or value.shape[3] != 3:
            raise ValueError(f"got input {value.dtype} {list(value.shape)}, expected uint8 [N, H, W, 3]")
        return value

    @model_validator(mode="after")
    def _outputs_fit_the_task(self) -> Manifest:
        _fit_in_a_map(self)
        batch, height, width, _ = self.input.shape
        answer = {
            "seg": TensorSpec(name="class_map", dtype="uint8", shape=(batch, height, width)),
            "cls": TensorSpec(name="scores", dtype="float32", shape=(batch, len(self.classes))),
        }[self.task]
        if answer not in self.outputs:
            raise ValueError(f"got outputs without {answer.name} {answer.dtype} {list(answer.shape)} for {self.task}")
        return self


class Parity(Frozen):
    """How far one graph is from its reference on the verification frames."""

    graph: str
    reference: str
    frames: int
    max_error: float
    """max |delta| / max |reference| of the scores before argmax or softmax."""
    agreement: Annotated[float, Field(ge=0, le=1)]
    """Share of pixels (segmentation) or frames (classification) with the same class; a frame whose two classes the
    reference hardly tells apart counts as one with the same."""
    passed: bool

    @field_validator("max_error")
    @classmethod
    def _not_nan(cls, value: float) -> float:
        return value if not math.isnan(value) else math.inf


class LayerDecision(Frozen):
    """What the accuracy-aware search decided about one layer."""

    layer: str
    damage: Annotated[float, Field(ge=0)]
    """Error energy in the logits over what varies in them, with this layer alone in INT8."""
    int8: bool


class Quantisation(Frozen):
    """How an INT8 graph was made, and what it costs in accuracy."""

    method: str
    calibrated_on: DataFingerprint
    rest: Literal["fp16", "fp32"]
    """What computes that is not INT8."""
    metric: Literal["miou", "top1", "agreement"]
    images: Annotated[int, Field(ge=1)]
    """How many the metric was measured on."""
    fp32: Finite
    int8: Finite
    max_drop: Finite
    measurements: Annotated[int, Field(ge=1)]
    """How often the metric was measured on an INT8 graph."""
    layers: tuple[LayerDecision, ...]
    """Worst first."""


class Report(Record):
    """What was measured about an export (`report.json`)."""

    kind: ClassVar[str] = "report"
    version: ClassVar[tuple[int, int]] = (1, 1)

    parity: tuple[Parity, ...] = ()
    accuracy: dict[str, Finite] = {}
    size: dict[str, int] = {}
    latency: dict[str, Finite] = {}
    kept_fp32: dict[str, dict[str, str]] = {}
    """By graph of half precision: every node that nevertheless computes in FP32 -> why."""
    quantisation: Quantisation | None = None
    notes: tuple[str, ...] = ()
