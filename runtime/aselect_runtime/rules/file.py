"""The TOML file of zones and rules; see docs/events.md."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, model_validator

from aselect_runtime.errors import RecordError
from aselect_runtime.files import read_file
from aselect_runtime.records import Manifest
from aselect_runtime.records.base import LARGEST, Frozen
from aselect_runtime.rules.zones import Point, rasterise

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

log = logging.getLogger(__name__)

DAY = 86_400.0
FINEST = 512
"""A zone must contain the centre of at least one pixel of a square frame of this size."""
HYSTERESIS = 0.8
"""Default of `below`, as a share of `above`."""


def _printable(name: str) -> str:
    if not name.isprintable() or name != name.strip():
        raise ValueError(f"got {name!r}, expected printable characters without spaces at the ends")
    return name


Name = Annotated[str, Field(min_length=1, max_length=100, strict=True), AfterValidator(_printable)]
Share = Annotated[float, Field(gt=0, lt=1, strict=True)]
Seconds = Annotated[float, Field(ge=0, le=DAY, strict=True)]
Coordinate = Annotated[float, Field(ge=0, le=1, strict=True)]
Input = Annotated[int, Field(ge=0, strict=True)]


class Zone(Frozen):
    """A part of the frame: a polygon with 3 to 200 corners (x, y), 0 to 1 from the top left."""

    name: Name
    points: Annotated[tuple[tuple[Coordinate, Coordinate], ...], Field(min_length=3, max_length=200)]

    @model_validator(mode="after")
    def _has_area(self) -> Zone:
        if not rasterise(self.points, (FINEST, FINEST)).any():
            raise ValueError(f"got a zone smaller than 1/{FINEST} of the frame, expected corners around an area")
        return self


class Rule(Frozen):
    """When an event starts and ends. `value` is the class's share of the zone's area, or its score."""

    name: Name
    class_name: Annotated[Name, Field(alias="class")]
    zone: Name | None = None
    """None: the whole frame."""
    above: Share
    """An event starts when the value has been above this without interruption …"""
    seconds: Annotated[Seconds, Field(alias="for")] = 0.0
    """… for this time."""
    below_: Annotated[Share | None, Field(alias="below")] = None
    below_for: Seconds = 0.0
    """An event ends when the value has been below `below` for this time without interruption."""
    cooldown: Seconds = 0.0
    """Seconds after the end of an event during which the rule starts no other."""
    inputs: Annotated[tuple[Input, ...], Field(min_length=1)] | None = None
    """Indices of the inputs that the rule applies to, from 0; None: all of them."""

    @property
    def below(self) -> float:
        """The value below which an event ends; never more than `above`."""
        return HYSTERESIS * self.above if self.below_ is None else self.below_

    @model_validator(mode="after")
    def _hysteresis(self) -> Rule:
        if self.below > self.above:
            raise ValueError(f"got below = {self.below:g} with above = {self.above:g}, expected at most the latter")
        return self

    def looks_at(self, stream: int) -> bool:
        """Whether the rule applies to this input."""
        return self.inputs is None or stream in self.inputs


class Rules(Frozen):
    """A file of zones and rules."""

    zones: tuple[Zone, ...] = ()
    rules: Annotated[tuple[Rule, ...], Field(min_length=1, max_length=1000)]

    @model_validator(mode="after")
    def _names(self) -> Rules:
        for what, names in (("zone", [z.name for z in self.zones]), ("rule", [r.name for r in self.rules])):
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise ValueError(f"got the {what} {twice!r} twice, expected a different name for each")
        for rule in self.rules:
            if rule.zone is not None and rule.zone not in self.polygons:
                known = ", ".join(self.polygons) or "none"
                raise ValueError(
                    f"rule {rule.name!r}: got the zone {rule.zone!r}, expected one of the file's ({known})"
                )
        return self

    @property
    def polygons(self) -> Mapping[str, tuple[Point, ...]]:
        """The corners of each zone by its name."""
        return {zone.name: zone.points for zone in self.zones}

    def zones_of(self, stream: int) -> tuple[Zone, ...]:
        """The zones that the rules for this input use, in the file's order."""
        used = {rule.zone for rule in self.rules if rule.looks_at(stream)}
        return tuple(zone for zone in self.zones if zone.name in used)

    def check(self, manifest: Manifest, inputs: int) -> None:
        """Raise RecordError for a class or zone that does not fit the model, or an input that the run does not have."""
        names = [item.name for item in manifest.classes]
        for rule in self.rules:
            if rule.class_name not in names:
                shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
                raise _fault(rule, f"got the class {rule.class_name!r}, expected one of the model's ({shown})")
            if rule.zone is not None and manifest.task == "cls":
                raise _fault(rule, "got a zone and a classification model, expected no zone: it uses the whole frame")
            if rule.inputs is not None and max(rule.inputs) >= inputs:
                raise _fault(rule, f"got input {max(rule.inputs)}, expected an input of this run, 0 to {inputs - 1}")


def _fault(rule: Rule, what: str) -> RecordError:
    return RecordError(f"rule {rule.name!r}: {what}; change the rule", parameter="rules")


def load_rules(path: Path) -> Rules:
    """Read and validate a file of rules; raises RecordError, which names the file and the first fault."""
    try:
        text = read_file(path, LARGEST).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise _unusable(path, f"unreadable ({reason})", "check the path") from error
    try:
        rules = Rules.model_validate(_named(tomllib.loads(text)))
    except tomllib.TOMLDecodeError as error:
        raise _unusable(path, f"not TOML ({error})", "correct that line") from error
    except ValidationError as error:
        raise _unusable(path, _first(error), "correct it") from error
    idle = set(rules.polygons) - {rule.zone for rule in rules.rules}
    if idle:
        log.warning("%s: no rule uses the zone %s", path, ", ".join(sorted(idle)))
    return rules


def _unusable(path: Path, what: str, advice: str) -> RecordError:
    return RecordError(f"{path}: {what}, expected a file of zones and rules; {advice}", parameter="rules")


def _named(data: dict[str, Any]) -> dict[str, Any]:
    """Convert `[zones] door = [[x, y], …]` to the form of `Rules`; anything else is left for validation to refuse."""
    zones = data.get("zones")
    if not isinstance(zones, dict):
        return data
    return {**data, "zones": [{"name": name, "points": points} for name, points in zones.items()]}


def _first(error: ValidationError) -> str:
    """Location of the first fault, with items counted from 1, and its description."""
    fault = error.errors(include_url=False)[0]
    at = "".join(f" {part + 1}" if isinstance(part, int) else f".{part}" for part in fault["loc"]).lstrip(".")
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] not in {"value_error", "missing", "extra_forbidden"}:
        message = f"{message}, got {fault['input']!r:.80}"
    return f"{at}: {message}" if at else message
