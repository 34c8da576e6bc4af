"""Keeping passwords and tokens out of logs, results and errors.

This module imports no OpenCV: commands use it to decide whether OpenCV may log, before they load OpenCV.
"""

from __future__ import annotations

import re

SECRET = r"(?i)((?:user|usr|login|pw|pass|token|secret|key|auth)[\w-]*"
"""The name of a secret in a property, a query or a path, from the part on that marks it as a secret."""


HOST = re.compile(r"(\[[^\]\s]*\]|[^:%@\s/?#\[\]]*)(:\d{0,5})?[:,;.)]*")
"""What may be shown between `://` and the path: a host and a port. Anything else may be a password."""
MALFORMED = re.compile(r"(?i)[a-z][a-z0-9+.-]+:/+(?=[^/])|(?=[^/.\s@:][^/@]*:.*@)")
"""Matches the beginning of an address that lacks its `://`."""


def redact(uri: str) -> str:
    """The URI or GStreamer string without user and password, secret properties and query values.

    In a query or fragment only values of up to three digits are shown (`channel=1`): any other may be a token. Some
    cameras expect the password in the path (`/user=joe_password=x_channel=1`, `/user:joe/password:x`); there only
    values with such a name are hidden. What cannot be parsed is hidden, too. Local paths and the built-in scenes are
    unchanged.
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
    # An unencoded space may be inside a secret (`auth=Basic x`); after `: ` it separates the words of a message.
    end = r"[^&;#\s]" if ": " in uri or " ! " in uri else r"[^&;#]"
    scheme = r"(?:(?:Basic|Bearer|Digest)\s+)?"
    return re.sub(rf"([?&;#][^=&;#\s]*=)(?!\d{{1,3}}(?:[&;#\s]|$)){scheme}{end}*", r"\1***", uri)


def is_malformed(uri: str) -> bool:
    """Whether the text has a scheme or user as an address has, but no `://`; it must not be used as a file name."""
    return "://" not in uri and " ! " not in uri and MALFORMED.match(uri) is not None


def _host(match: re.Match[str]) -> str:
    return match[0] if HOST.fullmatch(match[1]) else "://***"
