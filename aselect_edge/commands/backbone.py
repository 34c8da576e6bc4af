"""The options that select a backbone, shared by aselect-select and aselect-train."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from aselect_edge.options import BackboneOptions
from aselect_runtime.commands.options import unset_at

FamilyName = Literal["dit", "sit", "sd3", "pixart", "prx", "sana", "lightningdit", "jit"]

WHAT = "Folder of diffusers, hub id, single file of the authors, bundle, or shipped."
Backbone = Annotated[str, typer.Argument(help=WHAT)]
DeviceName = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")]
Size = Annotated[str | None, typer.Option(metavar="HxW", help="Input size; the backbone's own square if left out.")]


@dataclass(frozen=True, kw_only=True)
class BackboneChoice(BackboneOptions):
    """`BackboneOptions` as options of a command."""

    family: Annotated[
        FamilyName | None,
        typer.Option(
            metavar="NAME",
            help="If the source lacks it: dit, sit, sd3, pixart, prx, sana, lightningdit, jit.",
        ),
    ] = None
    vae: Annotated[
        str | None, typer.Option(help="Folder, file or hub id of the autoencoder, if it is not with the backbone.")
    ] = None
    num_heads: Annotated[
        int | None,
        typer.Option(
            "--num-heads",
            "--heads",
            min=0,
            hidden=True,
            callback=unset_at(0),
            help="Attention heads of a single file of unpublished width.",
        ),
    ] = None
    sit_time: Annotated[
        Literal["1-sigma", "sigma"] | None,
        typer.Option(hidden=True, help="Time input of a SiT-like file, if unknown: 1-sigma (SiT) or sigma (REPA)."),
    ] = None
    sit_path: Annotated[
        Literal["linear", "cosine", "vp"] | None,
        typer.Option(hidden=True, help="Path of a SiT-like file, if unknown."),
    ] = None
    condition: Annotated[
        Path | None,
        typer.Option(help="The empty prompt's embeddings, a file, instead of running text encoders."),
    ] = None
    label: Annotated[
        int | None, typer.Option(min=-1, callback=unset_at(-1), help="Class to condition on; none if left out.")
    ] = None
    revision: Annotated[str | None, typer.Option(hidden=True, help="Revision of a hub id.")] = None
