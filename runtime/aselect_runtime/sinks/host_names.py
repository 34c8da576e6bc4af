"""By which names a server of this machine may be called: a page of another site must not reach it by a name of its own.

Such a site points its name at this machine's address; the browser then sends that name as the request's host.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

Literal = ipaddress.IPv4Address | ipaddress.IPv6Address


def literal(host: str) -> Literal | None:
    """The IP address that a host is written as; None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server at `host`."""
    address = literal(host)
    return address.is_loopback if address else host == "localhost"


def is_known(asked: str, host: str, names: Collection[str] = ()) -> bool:
    """Whether a server at `host` answers to `asked`, the host of a request with or without a port.

    An IP address is known, on loopback its own kind alone; of names those of this machine, `host` and `names`.
    """
    try:
        name = (urlsplit(f"//{asked}").hostname or "").rstrip(".")
    except ValueError:
        return False
    address, local = literal(name), is_loopback(host)
    if address is not None:  # an attack by renaming needs a name
        return address.is_loopback or not local
    own = socket.gethostname().lower()
    machine = set() if local else {own, own.split(".")[0], f"{own.split('.')[0]}.local"}
    return name in {"localhost", host.lower(), *names} | machine
