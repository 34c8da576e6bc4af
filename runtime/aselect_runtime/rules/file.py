"""The file of zones and rules, TOML; see docs/events.md."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator

from aselect_runtime.errors import RecordError
from aselect_runtime.files import read_file
from aselect_runtime.records import Manifest
from aselect_runtime.records.base import LARGEST, Frozen
from aselect_runtime.rules.zones import Point, rasterise

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DAY = 86_400.0
FINEST = 512
"""A zone must hold the centre of a pixel of a square frame of this size."""
HYSTERESIS = 0.8
"""`below` where it is not given, as a share of `above`."""


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
    """A part of the frame: a polygon whose corners are (x, y), 0 to 1 from the top left; sides may not be few."""

    name: Name
    points: Annotated[tuple[tuple[Coordinate, Coordinate], ...], Field(min_length=3, max_length=200)]

    @model_validator(mode="after")
    def _has_area(self) -> Zone:
        if not rasterise(self.points, (FINEST, FINEST)).any():
            raise ValueError(f"got a zone smaller than 1/{FINEST} of the frame, expected corners around an area")
        return self


class Rule(Frozen):
    """When an event starts and ends. `value` is the class's share of the zone's area, or its score."""

    model_config = ConfigDict(populate_by_name=True)

    name: Name
    class_name: Annotated[Name, Field(alias="class")]
    zone: Name | None = None
    """None: the whole frame."""
    above: Share
    """An event starts when the value has been above this …"""
    seconds: Annotated[Seconds, Field(alias="for")] = 0.0
    """… for so long without a break."""
    below_: Annotated[Share | None, Field(alias="below")] = None
    below_for: Seconds = 0.0
    """An event ends when the value has been below `below` for so long without a break."""
    cooldown: Seconds = 0.0
    """Seconds from the end of an event in which the rule looks away."""
    inputs: Annotated[tuple[Input, ...], Field(min_length=1)] | None = None
    """The inputs that it looks at, by their order from 0; None: all of them."""

    @property
    def below(self) -> float:
        """The value under which an event ends; never more than `above`."""
        return HYSTERESIS * self.above if self.below_ is None else self.below_

    @model_validator(mode="after")
    def _hysteresis(self) -> Rule:
        if self.below > self.above:
            raise ValueError(f"got below = {self.below:g} over above = {self.above:g}, expected at most that")
        return self

    def looks_at(self, stream: int) -> bool:
        """Whether the rule is for this input."""
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
                raise ValueError(f"got the {what} {twice!r} twice, expected a name for each of its own")
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
        """The zones that rules for this input use, in the file's order."""
        used = {rule.zone for rule in self.rules if rule.looks_at(stream)}
        return tuple(zone for zone in self.zones if zone.name in used)

    def check(self, manifest: Manifest, inputs: int) -> None:
        """Raise RecordError for a class, zone or input that this model and so many inputs do not have."""
        names = [item.name for item in manifest.classes]
        for rule in self.rules:
            if rule.class_name not in names:
                shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
                raise _fault(rule, f"got the class {rule.class_name!r}, expected one of the model's ({shown})")
            if rule.zone is not None and manifest.task == "cls":
                raise _fault(rule, "got a zone and a classification model, expected no zone: it sees the whole frame")
            if rule.inputs is not None and max(rule.inputs) >= inputs:
                raise _fault(rule, f"got input {max(rule.inputs)}, expected 0 to {inputs - 1} of this run's inputs")


def _fault(rule: Rule, what: str) -> RecordError:
    return RecordError(f"rule {rule.name!r}: {what}; change the rule", parameter="rules")


def load_rules(path: Path) -> Rules:
    """Read and validate a file of rules; raises RecordError that names the file and the first fault."""
    try:
        text = read_file(path, LARGEST).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise _unusable(path, f"unreadable ({reason})", "check the path") from error
    try:
        return Rules.model_validate(_named(tomllib.loads(text)))
    except tomllib.TOMLDecodeError as error:
        raise _unusable(path, f"not TOML ({error})", "correct that line") from error
    except ValidationError as error:
        raise _unusable(path, _first(error), "correct it") from error


def _unusable(path: Path, what: str, advice: str) -> RecordError:
    return RecordError(f"{path}: {what}, expected a file of zones and rules; {advice}", parameter="rules")


def _named(data: dict[str, Any]) -> dict[str, Any]:
    """`[zones] door = [[x, y], …]` as the records have it; what is of another form is left for them to refuse."""
    zones = data.get("zones")
    if not isinstance(zones, dict):
        return data
    return {**data, "zones": [{"name": name, "points": points} for name, points in zones.items()]}


def _first(error: ValidationError) -> str:
    """Where the first fault is, as a person counts, and what it is."""
    fault = error.errors(include_url=False)[0]
    at = "".join(f" {part + 1}" if isinstance(part, int) else f".{part}" for part in fault["loc"]).lstrip(".")
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] not in {"value_error", "missing", "extra_forbidden"}:
        message = f"{message}, got {fault['input']!r:.80}"
    return f"{at}: {message}" if at else message
