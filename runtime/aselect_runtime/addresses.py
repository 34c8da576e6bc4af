"""Parsing network addresses without showing the password that they may contain."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qsl, urlsplit

from aselect_runtime.errors import InputError
from aselect_runtime.redaction import is_malformed, redact


@dataclass(frozen=True)
class Address:
    """An address that could be parsed."""

    parts: SplitResult
    port: int | None


def split_address(uri: str, example: str) -> Address:
    """Parse an address; raises InputError, without credentials in its message, if that fails."""
    try:
        parts = urlsplit(uri)
        return Address(parts, parts.port)
    except ValueError:
        fault = InputError(
            f"{redact(uri)}: got a malformed address, expected for example {example}; write special characters of a "
            "user or password as %XX"
        )
    # Raised outside the try block: urllib's error quotes the address with its password; no traceback may contain it.
    raise fault


def split_options(query: str, known: Collection[str]) -> dict[str, str] | None:
    """The options `a=1&b=2` of an address; None if one of them is unknown, or is given twice."""
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    return options if len(options) == len(pairs) and options.keys() <= set(known) else None


def is_host(name: str | None) -> bool:
    """Whether a name of a host can exist: each of its parts has 1 to 63 characters."""
    try:
        return bool(name and name.encode("idna"))  # as the network library will
    except UnicodeError:
        return False


def check_form(uri: str) -> None:
    """Raise InputError for a malformed address that would otherwise be used as a file path."""
    if is_malformed(uri):
        raise InputError(
            f"{redact(uri)}: got an address without ://, expected for example rtsp://host/stream; check it, or "
            "write ./ before a path"
        )
