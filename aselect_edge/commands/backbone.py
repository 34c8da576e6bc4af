"""What aselect-select and aselect-train share: the options that say which backbone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from aselect_edge.backbones import LoadedBackbone

Verbose = Annotated[bool, typer.Option("--verbose", help="Show tracebacks.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
WHAT = "A diffusers folder or hub id, a .pt file of DiT or SiT, a bundle, or shipped."
Backbone = Annotated[str, typer.Argument(help=WHAT)]
Family = Annotated[str, typer.Option(help="dit, sit, sd3 or pixart, where the source does not say or says wrong.")]
Vae = Annotated[str, typer.Option(help="Folder or hub id of the autoencoder, where it is not with the backbone.")]
Heads = Annotated[int, typer.Option(min=0, help="Attention heads of a .pt file of unpublished width; 0 is unknown.")]
Condition = Annotated[
    str, typer.Option(help="The empty prompt's embeddings as safetensors, instead of running text encoders.")
]
Label = Annotated[int, typer.Option(min=-1, help="Class to condition on; -1 is none.")]
Revision = Annotated[str, typer.Option(help="Revision of a hub id.")]
Data = Annotated[Path, typer.Option(help="Folder with train/ and val/; without labels any images, or a video.")]
DeviceName = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")]
Size = Annotated[str, typer.Option(metavar="HxW", help="Input size; the backbone's own square if left out.")]


@dataclass(frozen=True)
class Given:
    """What was said about a backbone, as the options have it: empty or 0 is nothing."""

    family: str
    vae: str
    heads: int
    condition: str
    revision: str

    def load(self, source: str, label: int | None, depth: int | None) -> LoadedBackbone:
        from aselect_edge.backbones import load_backbone
        from aselect_edge.backbones.prompt import load_condition

        return load_backbone(
            source,
            self.revision or None,
            family=self.family or None,
            vae=self.vae or None,
            label=label,
            depth=depth,
            heads=self.heads or None,
            condition=load_condition(Path(self.condition)) if self.condition else None,
        )
