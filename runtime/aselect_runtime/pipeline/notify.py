"""Reporting a service's state to systemd with the protocol of sd_notify(3): datagrams to a socket."""

from __future__ import annotations

import os
import socket


def sd_notify(*assignments: str) -> bool:
    """Send `READY=1`, `WATCHDOG=1` or `STATUS=…`; False, without an error, if no service manager listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):  # Linux' abstract namespace
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.sendto("\n".join(assignments).encode(), address)
    except OSError:  # the service manager is gone, which must not stop the run
        return False
    return True


def watchdog_seconds() -> float | None:
    """Seconds that the service manager waits for a WATCHDOG=1 before it restarts this process; None: no watchdog."""
    microseconds, process = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or (process and process != str(os.getpid())):
        return None
    return int(microseconds) / 1e6 or None
