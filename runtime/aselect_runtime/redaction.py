"""Keeping passwords and tokens out of logs, results and errors.

It stands outside the rooms that import OpenCV, because commands ask it whether OpenCV may speak before they load it.
"""

from __future__ import annotations

import re

SECRET = r"(?i)((?:user|usr|login|pw|pass|token|secret|key|auth)[\w-]*"
"""The name of a secret in a property, a query or a path, from the part that tells it on."""


def redact(uri: str) -> str:
    """The URI or GStreamer string fit for a log: without user and password, secret properties and query values.

    Of a query or fragment only values of up to three digits stay (`channel=1`): any other may be a token. Some cameras
    take the password in the path (`/user=joe_password=x_channel=1`); there only values with such a name are hidden.
    Local paths and the built-in scenes stay as they are.
    """
    if re.match(r"(?i)(synthetic|test)://", uri) or not re.search(r"://|\s!\s", uri):
        return uri
    if " ! " in uri:
        uri = re.sub(rf"{SECRET}\s*=\s*)(\"[^\"]*\"?|\S+)", r"\1***", uri)
    uri = re.sub(r"(?s)://.*@", "://***@", uri)
    uri = re.sub(rf"{SECRET}=)(?:(?!_[a-z]+=)[^&;#?\s])+", r"\1***", uri)
    return re.sub(r"([?&;#][^=&;#\s]*=)(?!\d{1,3}(?:[&;#\s]|$))[^&;#\s]*", r"\1***", uri)
