"""Requests over HTTP with a user, a password and the trust of an address, and what a failure means in words."""

from __future__ import annotations

import hashlib
import http.client
import ssl
import urllib.request
from collections.abc import Callable, Mapping
from email.message import Message
from functools import partial
from typing import Any, Protocol, cast
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit, urlunsplit

from aselect_runtime.errors import InputError
from aselect_runtime.sources.faults import REASONS, UNKNOWN, unreachable
from aselect_runtime.sources.tls import Trust

CEASED = (OSError, http.client.HTTPException)
"""Errors of a connection that breaks off while its body is read."""


class Body(Protocol):
    """A response of a server, as urllib returns it."""

    headers: Message

    def read1(self, size: int = -1, /) -> bytes: ...

    def close(self) -> None: ...


def request(uri: str, name: str, trust: Trust | None, timeout: float, headers: Mapping[str, str] | None = None) -> Body:
    """The answer of a server to GET; each read of it takes at most `timeout` seconds.

    Raises InputError if the server refuses or does not answer within that time; `name` is the address without secrets.
    """
    try:
        asked = urllib.request.Request(_without_user(uri), headers=dict(headers or {}))
        return cast("Body", _opener(uri, trust).open(asked, timeout=timeout))
    except HTTPError as error:
        error.close()
        kind = {401: "HTTPUnauthorizedError", 403: "HTTPForbiddenError", 404: "HTTPNotFoundError"}.get(error.code, "")
        answer = f"{error.code} {http.client.responses.get(error.code, '')}".strip()
        other = f"got the answer {answer}, expected a stream; check the path"
        raise InputError(f"{name}: {REASONS.get(kind, other)}") from None  # urllib's message contains the address
    except _UnknownDigestError as error:
        raise InputError(
            f"{name}: got the digest {str(error)[:20]!r}, expected {', '.join(_DIGESTS)} or basic authentication; "
            "change it in the camera's settings"
        ) from None
    except UnicodeEncodeError:
        raise InputError(
            f"{name}: got a user with characters that HTTP cannot carry, expected Latin letters; rename the user"
        ) from None
    except (URLError, ValueError, *CEASED) as error:
        reason = getattr(error, "reason", error)
        text = getattr(reason, "strerror", None) or type(error).__name__
        why = unreachable(urlsplit(uri).hostname, reason) or UNKNOWN.replace("no stream", f"no stream ({text})")
        raise InputError(f"{name}: {why}") from None


def _without_user(uri: str) -> str:
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))


class _ClosesRefusal:
    """Closes the 401 response if the request is repeated with a password; urllib leaves that to garbage collection."""

    def http_error_401(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        try:
            answer = super().http_error_401(req, fp, code, msg, headers)  # type: ignore[misc]
        except BaseException:
            fp.close()
            raise
        if answer is not None:
            fp.close()
        return answer


class _BasicAuth(_ClosesRefusal, urllib.request.HTTPBasicAuthHandler):
    pass


_DIGESTS = {"MD5": hashlib.md5, "SHA": hashlib.sha1, "SHA-256": hashlib.sha256}


class _UnknownDigestError(ValueError):
    """Passes through urllib to `request`, which knows the camera's name."""


class _DigestAuth(_ClosesRefusal, urllib.request.HTTPDigestAuthHandler):
    """Takes passwords of any characters, as UTF-8; urllib's own has ASCII only."""

    def get_algorithm_impls(self, algorithm: str) -> tuple[Callable[[str], str], Callable[[str, str], str]]:
        make = _DIGESTS.get(algorithm.upper())
        if make is None:
            raise _UnknownDigestError(algorithm)
        digest = partial(_hex_digest, make)
        return digest, lambda secret, data: digest(f"{secret}:{data}")


def _hex_digest(make: Callable[[bytes], Any], text: str) -> str:
    return str(make(text.encode()).hexdigest())


def _opener(uri: str, trust: Trust | None) -> urllib.request.OpenerDirector:
    parts = urlsplit(uri)
    passwords = urllib.request.HTTPPasswordMgrWithPriorAuth()
    if parts.username:
        # Only for this host: a redirect must not send the password to another one.
        root = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/"
        passwords.add_password(None, root, unquote(parts.username), unquote(parts.password or ""))
    context = ssl.create_default_context(cafile=trust.ca if trust else None)
    if trust is not None and not trust.verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=context),
        _BasicAuth(passwords),
        _DigestAuth(passwords),
    )
