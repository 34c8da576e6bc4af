"""Host names that requests to a server of this machine may have: a check against DNS rebinding.

There a page of another site points its own host name at this machine's address, and the browser sends that name.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection
from urllib.parse import parse_qsl, urlsplit

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


def further_names(query: str) -> frozenset[str] | None:
    """The names in the query of an address, `host=NAME&host=OTHER`; None for an empty name or another option."""
    pairs = parse_qsl(query, keep_blank_values=True)
    if any(option != "host" or not name for option, name in pairs):
        return None
    return frozenset(name.lower() for _, name in pairs)


def is_known(asked: str, host: str, names: Collection[str] = ()) -> bool:
    """Whether `asked`, the Host header of a request, is a name of a server that listens at `host`.

    IP addresses are accepted (on loopback only loopback addresses), and the names of this machine, `host` and `names`.
    """
    try:
        name = (urlsplit(f"//{asked}").hostname or "").rstrip(".")
    except ValueError:
        return False
    address, local = literal(name), is_loopback(host)
    if address is not None:  # DNS rebinding needs a host name
        return address.is_loopback or not local
    own = socket.gethostname().lower()
    machine = set() if local else {own, own.split(".")[0], f"{own.split('.')[0]}.local"}
    return name in {"localhost", host.lower(), *names} | machine
