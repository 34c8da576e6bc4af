"""Keeping passwords and tokens out of logs, results and errors.

It stands outside the rooms that import OpenCV, because commands ask it whether OpenCV may speak before they load it.
"""

from __future__ import annotations

import re

SECRET = r"(?i)((?:user|usr|login|pw|pass|token|secret|key|auth)[\w-]*"
"""The name of a secret in a property, a query or a path, from the part that tells it on."""


HOST = re.compile(r"(\[[^\]\s]*\]|[^:%@\s/?#\[\]]*)(:\d{0,5})?[:,;.)]*")
"""What may stand between `://` and the path in a log: a host and a port. Anything else may be a password."""
MALFORMED = re.compile(r"(?i)[a-z][a-z0-9+.-]+:/+(?=[^/])|(?=[^/.\s@:][^/@]*:.*@)")
"""How a text begins that was meant as an address and lacks its `://`."""


def redact(uri: str) -> str:
    """The URI or GStreamer string fit for a log: without user and password, secret properties and query values.

    Of a query or fragment only values of up to three digits stay (`channel=1`): any other may be a token. Some cameras
    take the password in the path (`/user=joe_password=x_channel=1`, `/user:joe/password:x`); there only values with
    such a name are hidden. What cannot be parsed is hidden, too. Local paths and the built-in scenes stay as they are.
    """
    if re.match(r"(?i)(synthetic|test)://", uri):
        return uri
    if is_malformed(uri):
        uri = re.sub(r"(?s)^([a-z][a-z0-9+.-]+:/+|)(.*@|[^/]*[:%][^/]*)", r"\1***@", uri, flags=re.I)
    elif not re.search(r"://|\s!\s", uri):
        return uri
    if " ! " in uri:
        uri = re.sub(rf"{SECRET}\s*=\s*)(\"[^\"]*\"?|\S+)", r"\1***", uri)
    uri = re.sub(r"(?s)://.*@", "://***@", uri)
    uri = re.sub(r"://(?!\*\*\*@)([^/?#\s]*)", _host, uri)
    uri = re.sub(rf"{SECRET}[=:])(?:(?!_[a-z]+=)[^&;#?\s])+", r"\1***", uri)
    # A space that was not encoded may be inside a secret (`auth=Basic x`); behind `: ` a message goes on.
    end = r"[^&;#\s]" if ": " in uri or " ! " in uri else r"[^&;#]"
    scheme = r"(?:(?:Basic|Bearer|Digest)\s+)?"
    return re.sub(rf"([?&;#][^=&;#\s]*=)(?!\d{{1,3}}(?:[&;#\s]|$)){scheme}{end}*", r"\1***", uri)


def is_malformed(uri: str) -> bool:
    """Whether it was meant as an address, by its scheme or user, and has no `://`: no file is to be named so."""
    return "://" not in uri and " ! " not in uri and MALFORMED.match(uri) is not None


def _host(match: re.Match[str]) -> str:
    return match[0] if HOST.fullmatch(match[1]) else "://***"
