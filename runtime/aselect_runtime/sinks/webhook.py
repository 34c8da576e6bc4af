"""https://[user:password@]host/path, a webhook: each event as JSON in an HTTP POST, signed if a secret is set."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, Request, build_opener

from aselect_runtime import __version__
from aselect_runtime.addresses import is_host
from aselect_runtime.errors import InputError, WriteError
from aselect_runtime.rules import Event
from aselect_runtime.sinks.event_sink import Deliver, EventContext, event_place
from aselect_runtime.sources.addresses import quoted_destination

SECRET = "ASELECT_WEBHOOK_SECRET"
"""Environment variable with the key of the signature."""
SIGNATURE = "X-Aselect-Signature-256"
"""Header: `sha256=` and the HMAC-SHA256 of the body in hexadecimal digits."""
EVENT = "X-Aselect-Event"
"""Header: the event's id and state. A receiver gets an event twice if it answered too late the first time."""
TIMEOUT = 10.0
"""Seconds that the receiver has to answer."""
LATER = frozenset({408, 425, 429})
"""Status codes, in addition to 5xx, after which the event is sent again."""
EXAMPLE = "https://hooks.example.org/camera"


@dataclass(frozen=True)
class Receiver:
    """The receiver of the events."""

    name: str
    """The address without the parts that may be secret."""
    url: str = field(repr=False)
    """Without user and password."""
    authorization: str | None = field(repr=False)
    secret: bytes | None = field(repr=False)

    @classmethod
    def parse(cls, uri: str) -> Receiver:
        """Parse an address; raises InputError."""
        uri = quoted_destination(uri)
        try:
            parts = urlsplit(uri)
            written = uri.isascii() and uri.isprintable() and " " not in uri
            usable = is_host(parts.hostname) and parts.port != 0 and written
        except ValueError:
            usable = False
        if not usable:
            raise InputError(
                f"got a malformed address of a webhook, expected for example {EXAMPLE}", parameter="events"
            ) from None
        basic = None
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            basic = f"Basic {base64.b64encode(pair.encode()).decode()}"
        url = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()
        secret = os.environ.get(SECRET)
        return cls(event_place(uri), url, basic, secret.encode() if secret else None)


@contextmanager
def webhook(uri: str, context: EventContext) -> Iterator[Deliver]:  # noqa: ARG001 - one form for all
    """Posts every event. WriteError if it may succeed later, InputError if the receiver refuses it permanently."""
    receiver = Receiver.parse(uri)
    opener = build_opener(_NoRedirect)
    yield lambda event: _post(opener, receiver, event)


def payload(event: Event) -> bytes:
    """The body: `Event.to_dict` with `snapshot`, a JPEG in base64 or null."""
    snapshot = None if event.snapshot is None else base64.b64encode(event.snapshot).decode()
    return json.dumps({**event.to_dict(), "snapshot": snapshot}).encode()


class _NoRedirect(HTTPRedirectHandler):
    """Refuses redirects: a redirected POST would become a GET, and send credentials to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _post(opener: OpenerDirector, receiver: Receiver, event: Event) -> None:
    body = payload(event)
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"aselect-run/{__version__}",
        EVENT: f"{event.id} {event.state}",
    }
    if receiver.authorization is not None:
        headers["Authorization"] = receiver.authorization
    if receiver.secret is not None:
        headers[SIGNATURE] = f"sha256={hmac.new(receiver.secret, body, hashlib.sha256).hexdigest()}"
    try:
        with opener.open(Request(receiver.url, body, headers), timeout=TIMEOUT):
            return
    except HTTPError as error:
        with error:
            _refused(receiver, error.code)
    except HTTPException as error:  # its message contains what was received, which may be anything
        raise _unanswered(receiver, f"no HTTP, {type(error).__name__}") from None
    except URLError as error:
        raise _unanswered(receiver, error.reason) from None
    except OSError as error:
        raise _unanswered(receiver, error) from None


def _unanswered(receiver: Receiver, reason: object) -> WriteError:
    """The error for a receiver that does not answer; raised without a cause, whose traceback would show the address."""
    return WriteError(
        f"{receiver.name}: could not deliver an event ({reason}), expected an answer; check address and network"
    )


def _refused(receiver: Receiver, status: int) -> None:
    if status >= 500 or status in LATER:
        raise WriteError(f"{receiver.name}: got HTTP {status}, expected 2xx; check the receiver's log") from None
    raise InputError(
        f"{receiver.name}: got HTTP {status}, expected 2xx; the event is not sent again, check address and credentials"
    ) from None
