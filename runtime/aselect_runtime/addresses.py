"""Taking addresses apart without telling anybody the password that stands in them."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from aselect_runtime.errors import InputError
from aselect_runtime.redaction import is_malformed, redact


@dataclass(frozen=True)
class Address:
    """An address that could be parsed."""

    parts: SplitResult
    port: int | None


def split_address(uri: str, example: str) -> Address:
    """The parts of an address; raises InputError that shows no credentials for one that cannot be parsed."""
    try:
        parts = urlsplit(uri)
        return Address(parts, parts.port)
    except ValueError:
        fault = InputError(
            f"{redact(uri)}: got a malformed address, expected for example {example}; odd characters of a user or "
            "password are written as %XX"
        )
    # Outside the block: urllib's own error quotes the address with its password, and no traceback must hold it.
    raise fault


def check_form(uri: str) -> None:
    """Raise InputError for what was meant as an address and would be taken for a path."""
    if is_malformed(uri):
        raise InputError(
            f"{redact(uri)}: got an address without ://, expected for example rtsp://host/stream; check it, or "
            "write ./ before a path"
        )
