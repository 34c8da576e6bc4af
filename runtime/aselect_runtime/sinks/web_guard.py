"""Access control of the live page: on loopback a browser of this machine, otherwise clients with the token."""

from __future__ import annotations

import hmac
import os
import re
import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from aiohttp import web

from aselect_runtime.addresses import split_address
from aselect_runtime.errors import InputError
from aselect_runtime.redaction import redact
from aselect_runtime.sinks.host_names import further_names, is_known, is_loopback, literal

TOKEN = "ASELECT_WEB_TOKEN"
"""Environment variable with the token; without it a random one is generated for each run."""
SHORTEST = 16
"""Minimum characters of a token, so that it cannot be guessed."""
EXAMPLE = "http://127.0.0.1:8080 or http://0.0.0.0:8080?host=camera.example.org"

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Server": "aselect",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Address:
    """Where the page is served."""

    host: str
    port: int
    tls: bool = False
    names: frozenset[str] = frozenset()
    """Further host names that browsers may use for this machine, for example that of a reverse proxy."""

    @classmethod
    def parse(cls, uri: str) -> Address:
        """Parse `http[s]://host[:port][?host=NAME]`; raises InputError."""
        split = split_address(uri, EXAMPLE)
        parts, port = split.parts, split.port
        names = further_names(parts.query)
        odd = parts.path.strip("/") or parts.fragment or parts.username
        if not parts.hostname or odd or names is None:
            raise InputError(f"{redact(uri)}: got no address to serve the live page at, expected for example {EXAMPLE}")
        port = (443 if parts.scheme == "https" else 80) if port is None else port
        return cls(parts.hostname, port, parts.scheme == "https", names)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)

    @property
    def everywhere(self) -> bool:
        """Whether it listens on all addresses of this machine."""
        address = literal(self.host)
        return address is not None and address.is_unspecified

    def url(self, port: int) -> str:
        """The URL for a browser; `port` is the one that was bound."""
        host = socket.gethostname() if self.everywhere else self.host
        return f"http{'s' if self.tls else ''}://{f'[{host}]' if ':' in host else host}:{port}/"


@dataclass(frozen=True)
class Guard:
    """Decides which requests to one address are allowed."""

    address: Address
    token: str | None = field(repr=False)
    """None on loopback."""
    generated: bool = False

    @classmethod
    def of(cls, address: Address) -> Guard:
        """A guard with the token from the environment, or a new one; raises InputError if the token is too short."""
        if address.loopback:
            return cls(address, None)
        given = os.environ.get(TOKEN)
        if given is not None and len(given) < SHORTEST:
            raise InputError(
                f"{TOKEN}: got a token of {len(given)} characters, expected at least {SHORTEST}; "
                "generate one with: openssl rand -hex 16"
            )
        return cls(address, given or secrets.token_urlsafe(24), given is None)

    @property
    def cookie(self) -> str:
        """Name of the cookie, different for each port, because browsers share cookies between ports."""
        return f"aselect_{self.address.port}"

    @web.middleware
    async def admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer requests that are not allowed with an error; pass the others on."""
        answer = self._own_answer(request)
        return await handler(request) if answer is None else answer

    async def add_headers(self, _: web.Request, response: web.StreamResponse) -> None:
        """Add HEADERS to every response, including aiohttp's own."""
        response.headers.update(HEADERS)

    def _own_answer(self, request: web.Request) -> web.Response | None:
        """A refusal, or a redirect that sets the cookie if the address has the token; None: the request is allowed."""
        # DNS rebinding: a page of another site must not get access by a host name that it points at this machine.
        if not is_known(request.host, self.address.host, self.address.names):
            return _text(403, "Unknown host name. Use the address that aselect-run printed.")
        origin = request.headers.get("Origin")
        if origin is not None and _netloc(origin) != request.host:
            return _text(403, "Requests from other sites are not allowed.")
        if self.token is not None and not any(self._right(offered) for offered in self._offered(request)):
            return _text(401, "This page needs its token: open the address that aselect-run printed.")
        if self.token is None or "token" not in request.query:
            return None
        # After the redirect the token is in no address, history or bookmark.
        # A path such as //another.site would be that of another site.
        place = request.path if re.fullmatch(r"/[\w.-]*", request.path, re.ASCII) else "/"
        response = web.Response(status=303, headers={"Location": place})
        response.set_cookie(
            self.cookie, self.token, httponly=True, samesite="Strict", secure=self.address.tls, path="/"
        )
        return response

    def _offered(self, request: web.Request) -> list[str]:
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        return [request.cookies.get(self.cookie, ""), request.query.get("token", ""), bearer]

    def _right(self, offered: str) -> bool:
        return self.token is not None and hmac.compare_digest(
            offered.encode(errors="surrogateescape"), self.token.encode()
        )


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _text(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text + "\n")
