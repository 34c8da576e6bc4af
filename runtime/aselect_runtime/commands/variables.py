"""Credentials from the environment: `rtsp://viewer:${DOOR_PASSWORD}@door/1` keeps them out of the process list."""

from __future__ import annotations

import os
import re
from urllib.parse import quote

from aselect_runtime.errors import InputError

VARIABLE = r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}"


def filled_in(uri: str) -> str:
    """The URI with each `${NAME}` replaced by that environment variable; raises InputError if one is not set.

    In a user or password, characters with a meaning in an address (`/ # ? [ %`) are encoded.
    """

    user = re.search(r"://[^/?#]*@", re.sub(VARIABLE, lambda match: "_" * len(match[0]), uri))

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise InputError(
                f"got ${{{match[1]}}} in an input or output, expected an environment variable of that name; set it "
                "(for a service in its EnvironmentFile)"
            )
        given = os.environ[match[1]]
        inside = user is not None and user.start() < match.start() < user.end()
        return quote(given, safe="") if inside else given

    return re.sub(VARIABLE, value, uri)
