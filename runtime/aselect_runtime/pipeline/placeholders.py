"""Words in braces in the names of what a run writes, such as `{time}`."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from aselect_runtime.errors import InputError

TIME, SOURCE = "{time}", "{source}"
_WORD = re.compile(r"\{\w+\}")


def now() -> str:
    """What `{time}` stands for: the time (UTC) in the form of `aselect_runtime.temporaries.MOMENT`."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())


def dated(name: str, moment: str | None = None) -> str:
    """A path with `{time}` replaced by the start of the run, which is now if left out; an address is left as it is."""
    return name if "://" in name else name.replace(TIME, moment or now())


def refuse_placeholders(name: str, known: Sequence[str], parameter: str) -> None:
    """Raise InputError for a word in braces that is not replaced in this name; `known` are those that are."""
    for word in _WORD.findall(name):
        if word not in known:
            raise InputError(
                f"{name}: got {word}, expected only {' or '.join(known)} in braces here; change the name",
                parameter=parameter,
            )
