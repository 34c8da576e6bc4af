"""Videos over HTTP of which the server does not state the length, read from their beginning to their end.

FFmpeg alone gets them wrong: without `Connection: close` it takes the end for an error and loses the last frames, and
a transfer in chunks that breaks off between two of them for complete.
"""

from __future__ import annotations

from aselect_runtime.sources.faults import OPEN_TIMEOUT
from aselect_runtime.sources.request import CEASED, Body, request
from aselect_runtime.sources.tls import Trust

ALL = {"Range": "bytes=0-"}
"""What FFmpeg asks for: some servers state the length only in the answer to this."""


class Unmeasured:
    """The body of an answer as a file that FFmpeg reads; a connection that breaks off is its end, and is a `fault`."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self.marked = "chunked" in body.headers.get("Transfer-Encoding", "").lower()
        """Whether its end is marked. If not, a connection that breaks off looks like the end."""
        self.fault = ""

    def read(self, size: int) -> bytes:
        """At most `size` bytes; empty at the end."""
        try:
            return b"" if self.fault else self._body.read1(size)
        except TimeoutError:
            self.fault = f"no more data within {OPEN_TIMEOUT:.0f} s"
        except CEASED:
            self.fault = "a connection that broke off"
        return b""

    def close(self) -> None:
        """Close the connection."""
        self._body.close()


def open_unmeasured(uri: str, name: str, trust: Trust | None) -> Unmeasured | None:
    """Request a video from an http(s) address; None if the server states its length, which FFmpeg then checks.

    Raises InputError if the server refuses or does not answer.
    """
    body = request(uri, name, trust, OPEN_TIMEOUT, ALL)
    _, _, total = body.headers.get("Content-Range", "").rpartition("/")
    if body.headers.get("Content-Length") is not None or total.isdecimal():
        body.close()
        return None
    return Unmeasured(body)
