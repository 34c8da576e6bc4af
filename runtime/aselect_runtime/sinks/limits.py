"""Limits of this project's servers for any client: connections, seconds and bytes."""

from __future__ import annotations

import resource

CONNECTIONS = 64
"""Maximum number of open connections; further ones are closed at once."""
SHARE = 4
"""A server uses at most one in this many of the process's file descriptors: cameras need the others."""
IDLE = 10.0
"""Seconds for a handshake, for a whole request, and between two requests of one connection."""
HEADERS = 8192
"""Maximum bytes of a request's headers."""


def most_connections() -> int:
    """Maximum number of connections that a server may keep open."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, min(CONNECTIONS, descriptors // SHARE)) if descriptors > 0 else CONNECTIONS
