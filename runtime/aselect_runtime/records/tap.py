"""Taps: where in a transformer features are read."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field

from aselect_runtime.errors import InputError
from aselect_runtime.records.base import Frozen

Component = Literal["hidden", "adaln", "query", "key", "value", "attn", "attn_gated", "mlp"]


COMPONENTS: tuple[Component, ...] = ("hidden", "adaln", "query", "key", "value", "attn", "attn_gated", "mlp")


class Tap(Frozen):
    """Where features are read: the component of a block, written `9.query`."""

    block: Annotated[int, Field(ge=0)]
    component: Component

    @classmethod
    def parse(cls, text: str) -> Tap:
        """Parse `<block>.<component>`; raises InputError."""
        match = re.fullmatch(r"(\d{1,4})\.([a-z_]+)", text.strip())
        if not match or match[2] not in COMPONENTS:
            raise InputError(
                f"got the tap {text!r}, expected <block>.<component> with a component of {', '.join(COMPONENTS)}; "
                "for example 3.query"
            )
        return cls(block=int(match[1]), component=match[2])

    def __str__(self) -> str:
        return f"{self.block}.{self.component}"
