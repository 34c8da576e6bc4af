"""Checks of the requested precision, before the long work starts."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from aselect_calibration.settings import Form, Int8Settings, Rest
from aselect_runtime.errors import InputError
from aselect_runtime.options import choice
from aselect_runtime.records import Precision, Weights


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
