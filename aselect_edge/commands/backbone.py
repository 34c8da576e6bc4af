"""The options that select a backbone, shared by aselect-select and aselect-train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from aselect_runtime.commands.options import unset_at

FamilyName = Literal["dit", "sit", "sd3", "pixart", "prx", "sana", "lightningdit", "jit"]

WHAT = "A diffusers folder or hub id, a single file (DiT, SiT, PixArt, SD3, LightningDiT, JiT), a bundle, or shipped."
Backbone = Annotated[str, typer.Argument(help=WHAT)]
Family = Annotated[FamilyName | None, typer.Option(help="If the source does not show it, or shows it wrongly.")]
Vae = Annotated[
    str | None, typer.Option(help="Folder, file or hub id of the autoencoder, if it is not with the backbone.")
]
NumHeads = Annotated[
    int | None,
    typer.Option(min=0, callback=unset_at(0), help="Attention heads of a single file of unpublished width."),
]
Heads = Annotated[int | None, typer.Option(min=0, callback=unset_at(0), hidden=True)]
"""The former name of `--num-heads`."""
Condition = Annotated[
    Path | None, typer.Option(help="The empty prompt's embeddings as safetensors, instead of running text encoders.")
]
SitTime = Annotated[
    Literal["1-sigma", "sigma"] | None,
    typer.Option(help="Time input of a SiT-like file, if unknown: 1-sigma (SiT) or sigma (REPA)."),
]
SitPath = Annotated[Literal["linear", "cosine", "vp"] | None, typer.Option(help="Path of a SiT-like file, if unknown.")]
Label = Annotated[
    int | None, typer.Option(min=-1, callback=unset_at(-1), help="Class to condition on; none if left out.")
]
Revision = Annotated[str | None, typer.Option(help="Revision of a hub id.")]
DeviceName = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")]
Size = Annotated[str | None, typer.Option(metavar="HxW", help="Input size; the backbone's own square if left out.")]
