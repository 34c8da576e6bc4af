"""What it means that an address could not be opened, in words that read differently for each cause."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import urlsplit

OPEN_TIMEOUT = 10.0
"""Seconds to wait for the first answer of an address."""
CLOSED = "got no server at that port, expected one; check the port, and that it runs"
LATE = f"got no answer within {OPEN_TIMEOUT:.0f} s, expected one; check host, port and network"
REASONS: Mapping[str, str] = MappingProxyType(
    {
        "HTTPUnauthorizedError": "got no access (401), expected its user and password; check both",
        "HTTPForbiddenError": "got no access (403), expected a user with access; check the user's rights",
        "HTTPNotFoundError": "got no such stream there (404), expected a path that it serves; check the path",
        "ConnectionRefusedError": CLOSED,
        "ProtocolNotFoundError": (
            "got an FFmpeg without this protocol, expected one with it; relay the stream as rtsp:// (MediaMTX does), "
            "or give a GStreamer string"
        ),
        "InvalidDataError": "got data that is no video, expected a stream; check the path",
        "ExitError": LATE,
        "TimeoutError": LATE,
    }
)
"""Error class of PyAV -> its meaning for the user."""
UNKNOWN = "got no stream, expected one there; check address, user, password and network"


def because(uri: str, error: Exception | None) -> str:
    """What an error of PyAV means, without the address; a name that no server of names knows comes first."""
    host = urlsplit(uri).hostname if "://" in uri else None
    try:
        if host:
            socket.getaddrinfo(host, None)
    except OSError:
        return unknown(host)
    return REASONS.get(type(error).__name__, UNKNOWN)


def unreachable(host: str | None, error: object) -> str | None:
    """What an error of Python's sockets means; None for one that says more itself."""
    if isinstance(error, socket.gaierror):
        return unknown(host)
    if isinstance(error, ConnectionRefusedError):
        return CLOSED
    return LATE if isinstance(error, TimeoutError) else None


def unknown(host: str | None) -> str:
    """The message for a host name that cannot be resolved."""
    return f"got no address for the host {host}, expected a name that can be resolved; check the name and the network"
