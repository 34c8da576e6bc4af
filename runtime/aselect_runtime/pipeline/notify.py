"""Telling systemd how a service is doing (the protocol of sd_notify(3): datagrams to the socket it names)."""

from __future__ import annotations

import os
import socket


def sd_notify(*assignments: str) -> bool:
    """Send `READY=1`, `WATCHDOG=1`, `STATUS=…`; False, without an error, where no service manager listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):  # Linux' abstract namespace
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.sendto("\n".join(assignments).encode(), address)
    except OSError:  # the manager went away: a camera must not stop for that
        return False
    return True


def watchdog_seconds() -> float | None:
    """How long the service manager waits for a WATCHDOG=1 before it restarts this process; None: it does not."""
    microseconds, process = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or (process and process != str(os.getpid())):
        return None
    return int(microseconds) / 1e6 or None
