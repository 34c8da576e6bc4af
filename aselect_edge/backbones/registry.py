"""The supported families of Diffusion Transformers: the only place where they are registered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aselect_runtime.errors import InputError

if TYPE_CHECKING:
    from aselect_edge.backbones.family import Backbone


@dataclass(frozen=True)
class Family:
    """The modules of a family; each is imported at its first use."""

    name: str
    """The family's name in records and options."""
    backbone: str
    """module:class of the reference, a `Backbone`."""
    fold: str
    """module:class of the folded model that `aselect_edge.fold.fold` makes from a reference and a FoldSpec."""
    diffusers: str | None = None
    """diffusers' class, as named in config.json."""
    norm_type: str | None = None
    """Identifies the family in configurations from before diffusers 0.28, when all shared one class."""


FAMILIES: dict[str, Family] = {}
_SHARED_CLASS = "Transformer2DModel"
"""The shared class until diffusers 0.28, which the published DiT and PixArt still name."""


def register(family: Family) -> None:
    """Register a family; one with the same name is replaced."""
    FAMILIES[family.name] = family


register(
    Family(
        "dit",
        "aselect_edge.backbones.dit:DiT",
        "aselect_edge.fold.dit:FoldedDiT",
        "DiTTransformer2DModel",
        "ada_norm_zero",
    )
)
register(Family("sit", "aselect_edge.backbones.sit:SiT", "aselect_edge.fold.dit:FoldedDiT"))
register(Family("sd3", "aselect_edge.backbones.sd3:SD3", "aselect_edge.fold.sd3:FoldedSD3", "SD3Transformer2DModel"))
register(
    Family(
        "pixart",
        "aselect_edge.backbones.pixart:PixArt",
        "aselect_edge.fold.pixart:FoldedPixArt",
        "PixArtTransformer2DModel",
        "ada_norm_single",
    )
)
register(
    Family("lightningdit", "aselect_edge.backbones.lightningdit:LightningDiT", "aselect_edge.fold.rotary:FoldedRotary")
)
register(Family("prx", "aselect_edge.backbones.prx:PRX", "aselect_edge.fold.prx:FoldedPRX", "PRXTransformer2DModel"))
register(
    Family("sana", "aselect_edge.backbones.sana:Sana", "aselect_edge.fold.sana:FoldedSana", "SanaTransformer2DModel")
)
register(Family("jit", "aselect_edge.backbones.jit:JiT", "aselect_edge.fold.rotary:FoldedRotary"))


def find_family(name: str) -> Family:
    """The family of this name; raises InputError for an unknown one."""
    if name not in FAMILIES:
        raise InputError(
            f"got the family {name!r}, expected one of {', '.join(FAMILIES)}; choose one of these", parameter="family"
        )
    return FAMILIES[name]


def family_class(name: str) -> type[Backbone]:
    """The class of a family's reference model; raises InputError for an unknown name."""
    found: type[Backbone] = imported(find_family(name).backbone)
    return found


def family_of_config(config: Mapping[str, Any], where: Path | str) -> str:
    """The name of the family of a `config.json`; raises InputError if its class is unknown."""
    kind, norm = str(config.get("_class_name")), str(config.get("norm_type"))
    for family in FAMILIES.values():
        if kind == family.diffusers or (kind == _SHARED_CLASS and norm == family.norm_type):
            return family.name
    known = [family.diffusers for family in FAMILIES.values() if family.diffusers]
    named = config.get("_class_name") or config.get("architectures") or config.get("model_type")
    raise InputError(f"{where}: got {named!r}, expected one of {', '.join(known)}; choose a backbone of one of these")


def refuse_quantised(config: Mapping[str, Any], where: Path | str) -> None:
    """Raise InputError if a `config.json` describes quantised weights."""
    how = config.get("quantization_config")
    if how:
        method = how.get("quant_method", "quantised") if isinstance(how, Mapping) else how
        raise InputError(
            f"{where}: got quantised weights (quantization_config: {method}), expected float32, float16 or bfloat16; "
            "save dequantised weights"
        )


def imported(home: str) -> Any:
    """The object that `module:name` refers to."""
    module, _, name = home.partition(":")
    return getattr(import_module(module), name)
