"""Base classes of records: immutable values, and records that are files with a schema."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from aselect_runtime.errors import RecordError
from aselect_runtime.files import atomic_write, read_file

Finite = Annotated[float, Field(allow_inf_nan=False)]


LARGEST = 256 << 20
"""Maximum bytes of a record file."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Frozen(BaseModel):
    """An immutable value that refuses unknown fields."""

    # Validators are built on first use: a run needs only that of the manifest.
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), defer_build=True)


class Record(Frozen):
    """A record that is stored in a file, with a schema name and version."""

    kind: ClassVar[str]
    version: ClassVar[tuple[int, int]] = (1, 0)

    schema_: Annotated[str, Field(alias="schema")] = ""
    model_config = ConfigDict(populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _check_schema(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        own = f"{cls.kind}/{cls.version[0]}.{cls.version[1]}"
        got = data.get("schema", data.get("schema_", own))
        match = re.fullmatch(r"([a-z]+)/(\d{1,4})\.(\d{1,4})", got) if isinstance(got, str) else None
        if not match or match[1] != cls.kind or int(match[2]) != cls.version[0] or int(match[3]) > cls.version[1]:
            raise ValueError(
                f"got schema {got!r}, expected {own} or an older minor version; use the release that wrote it"
            )
        return {**data, "schema": own}

    @classmethod
    def load(cls: type[R], path: Path) -> R:
        """Read and validate a record; raises RecordError, which names the file and the first fault."""
        try:
            text = read_file(path, LARGEST).decode()
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
        """The record as indented JSON with a trailing newline."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), indent=2, ensure_ascii=False) + "\n"

    def save(self, path: Path) -> None:
        """Write the record to a file atomically."""
        atomic_write(path, self.to_json())


R = TypeVar("R", bound=Record)
