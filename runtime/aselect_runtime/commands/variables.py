"""Credentials from the environment: `rtsp://viewer:${DOOR_PASSWORD}@door/1` on a command line shows nobody anything."""

from __future__ import annotations

import os
import re

from aselect_runtime.errors import InputError


def filled_in(uri: str) -> str:
    """The URI with each `${NAME}` replaced by that environment variable; raises InputError where one is not set."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise InputError(
                f"got ${{{match[1]}}} in an input or output, expected an environment variable of that name; set it, "
                "for a service in its EnvironmentFile"
            )
        return os.environ[match[1]]

    return re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", value, uri)
