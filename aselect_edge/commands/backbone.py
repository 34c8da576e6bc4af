"""What aselect-select and aselect-train share: the options that say which backbone, and the bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

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

    def load(self, source: str, label: int | None, depth: int | None, warn: Callable[[str], None]) -> LoadedBackbone:
        from aselect_edge.backbones import load_backbone
        from aselect_edge.backbones.prompt import load_condition

        return load_backbone(
            source,
            self.revision or None,
            warn,
            family=self.family or None,
            vae=self.vae or None,
            label=label,
            depth=depth,
            heads=self.heads or None,
            condition=load_condition(Path(self.condition)) if self.condition else None,
        )


@contextmanager
def progress(console: Console, shown: bool = True) -> Iterator[Callable[[str, float], None]]:
    """Yield what moves the bar: it is told what is done and its share, 0 to 1. Shown on a terminal alone."""
    from rich.progress import Progress

    with Progress(console=console, disable=not (shown and console.is_terminal)) as progress:
        task = progress.add_task("starting", total=1.0)
        yield lambda what, share: progress.update(task, description=what, completed=share)
