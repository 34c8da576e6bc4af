"""Identity of a set of images."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from aselect_runtime.records.base import Frozen, Sha256


class DataFingerprint(Frozen):
    """Identity of a set of images: their number, and a SHA-256 over their names and bytes."""

    images: Annotated[int, Field(ge=0)]
    sha256: Sha256
