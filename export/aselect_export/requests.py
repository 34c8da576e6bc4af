"""Checks of the requested precision, before the long work starts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_args

from aselect_calibration.settings import Form, Int8Settings, Rest
from aselect_export.choices import EngineChoice, Format
from aselect_runtime.errors import InputError
from aselect_runtime.options import choice, refuse_unused
from aselect_runtime.records import EncoderKind, Precision, Weights

CALIBRATED: frozenset[Precision] = frozenset({"int8", "fp8"})
"""Precisions that need the ranges of activations."""


def check_precision(precision: str) -> Precision:
    """The precision of this name; raises InputError for an unknown one."""
    return choice(precision, get_args(Precision), "precision")


def find_form(precision: Precision, weights: Weights | None) -> Form | None:
    """What the graph is quantised to, None if not at all; raises InputError for a combination that does not exist."""
    if weights is not None:
        choice(weights, get_args(Weights), "weights")
        if precision not in ("fp32", "fp16"):
            raise InputError(
                f"got int4 weights with the precision {precision}, expected fp16 or fp32 with them; change one of them",
                parameter=("weights", "precision"),
            )
        return "int4"
    return {"int8": "int8", "fp8": "fp8"}.get(precision)  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True)
class Given:
    """Options of an export that have an effect only with certain others; None, or empty, if they were left out."""

    calib_images: int | None
    calib: str | None
    max_drop: float | None
    rest: str | None
    targets: tuple[str, ...]

    def check(
        self,
        precision: Precision,
        weights: Weights | None,
        encoder: EncoderKind,
        engine: EngineChoice,
        layout: Format,
        *,
        data: bool,
    ) -> None:
        """Raise InputError for an option without effect; `data`: there are images to calibrate on."""
        quantised = find_form(precision, weights) is not None
        asked = f"the precision {precision}" + (f" and {weights} weights" if weights else "")
        calibration = {"calib": self.calib, "calib_images": self.calib_images}
        if precision not in CALIBRATED:
            refuse_unused(calibration, asked, "int8 or fp8", ("precision",))
        if not data:
            refuse_unused({"calib_images": self.calib_images}, "no data", "data to calibrate on", ("data",))
        if not quantised:
            refuse_unused({"rest": self.rest}, asked, "int8, fp8 or int4 weights", ("precision", "weights"))
        if not quantised and encoder == "full":
            needed = "int8, fp8, int4 weights or another encoder than the full one"
            refuse_unused({"max_drop": self.max_drop}, asked, needed, ("precision", "weights", "encoder"))
        self._check_engines(engine, layout)

    def _check_engines(self, engine: EngineChoice, layout: Format) -> None:
        """nvinfer builds its own engines, and Triton loads those of TensorRT but not of TensorRT-RTX."""
        where, by = f"the format {layout}", ("format",)
        explicit = engine if engine in ("rtx", "tensorrt") else None
        if layout == "deepstream":
            refuse_unused({"engine": explicit, "target": self.targets or None}, where, "the format folder", by)
        if layout == "triton":
            refuse_unused({"engine": explicit if engine == "rtx" else None}, where, "the format folder", by)
            if explicit is None:  # a target is then that of an engine of TensorRT-RTX
                refuse_unused({"target": self.targets or None}, where, "the engine tensorrt", ("engine", *by))


def settle(settings: Int8Settings, form: Form | None, precision: Precision, *, builds: bool) -> Int8Settings:
    """The settings with the precision of the layers that are not quantised.

    `builds`: an engine is built too. Raises InputError if the given precision of these layers does not fit the format.
    """
    if form in ("int8", None):
        return replace(settings, rest=settings.rest or ("fp16" if builds else "fp32"))
    fixed: Rest = "fp32" if precision == "fp32" else "fp16"
    if settings.rest not in (None, fixed):
        raise InputError(
            f"got {settings.rest} for the other layers with {form}, expected {fixed}; leave it out",
            parameter="rest",
        )
    return replace(settings, rest=fixed)
