"""Quoting the credentials of addresses, and short names of pipelines."""

from __future__ import annotations

import re
from urllib.parse import quote

from aselect_runtime.redaction import redact
from aselect_runtime.sources.tls import SCHEMES

HOST = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[^:@/?#\[\]]+)(:\d{1,5})?")


def quoted(uri: str) -> str:
    """The address with user and password percent-encoded as FFmpeg needs it, whatever characters they contain.

    `%40` and similar sequences are unchanged. An `@` or `/` in a password makes an address ambiguous: it is parsed
    according to RFC 3986 if that gives a host with a dot or a port, otherwise the password ends at the last `@`.
    """
    scheme, _, address = uri.partition("://")
    before, _, options = uri.rpartition("#")
    host = re.split(r"[/?]", before.partition("://")[2], maxsplit=1)[0].rpartition("@")[2]
    if scheme.lower() in SCHEMES and re.match(r"(ca|verify)=", options) and HOST.fullmatch(host):
        return f"{quoted(before)}#{options}"  # the path of `#ca=` may contain an @
    authority = re.split(r"[/?#]", address, maxsplit=1)[0]
    host = authority.rpartition("@")[2]
    after_last = address.rpartition("@")[2]
    match = HOST.fullmatch(host)
    plain = match is not None and ("." in host or match[2] is not None or host == "localhost")
    if plain or (match and not re.search(r"[/.:]", after_last)):
        credentials = authority[: -len(host)].removesuffix("@")
    else:
        credentials = address[: -len(after_last)].removesuffix("@") if after_last else address.removesuffix("@")
    if not credentials:
        return uri
    user, colon, password = credentials.partition(":")
    return f"{scheme}://{_escaped(user)}{colon}{_escaped(password)}@{address[len(credentials) + 1 :]}"


def short_name(text: str) -> str:
    """The element that a pipeline begins with, and the device or file that it reads: `v4l2src-video2`."""
    first = text.split(" ! ", 1)[0]
    place = re.search(r"\b(?:location|device|sensor-id|camera-id|device-path)=\"?([^\s\"]*)", redact(first + " ! "))
    element = (first.split() or ["gstreamer"])[0]
    end = re.split(r"[?#]", place[1].rstrip("/"))[0].rpartition("/")[2] if place else ""
    stem = end.rpartition(".")[0] or end
    return re.sub(r"[^A-Za-z0-9_]+", "-", f"{element}-{stem}").strip("-")[:60] or "gstreamer"


def _escaped(text: str) -> str:
    return quote(re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", text), safe="%!$&'()*+,;=~")
