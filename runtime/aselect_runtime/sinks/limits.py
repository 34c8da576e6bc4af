"""What a server of ours gives strangers at most: connections, seconds and bytes."""

from __future__ import annotations

import resource

CONNECTIONS = 64
"""Open at a time; more are closed at once."""
SHARE = 4
"""Of the file descriptors that this process may have, a server takes one in so many: cameras need the others."""
IDLE = 10.0
"""Seconds for a handshake, for a whole request, and between two requests of one connection."""
HEADERS = 8192
"""Bytes of a request's headers."""


def most_connections() -> int:
    """How many connections a server may keep open."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, min(CONNECTIONS, descriptors // SHARE)) if descriptors > 0 else CONNECTIONS
