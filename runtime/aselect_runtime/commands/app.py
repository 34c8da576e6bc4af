"""The command `aselect`: all commands of the project as subcommands, with shell completion.

The device's subcommands are defined here; other distributions add theirs by an entry point in the group
`aselect.commands`, whose name is the subcommand and whose object is a `Command`. A subcommand's module is imported when
it is called.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from typer.core import TyperGroup

from aselect_runtime.commands.entry import print_in_any_coding, reporting
from aselect_runtime.errors import MissingDependencyError

GROUP = "aselect.commands"


@dataclass(frozen=True)
class _Verb:
    about: str
    extra: str
    """The extra of aselect-edge that installs the command; empty for the device's commands."""


_VERBS = {
    "init": _Verb("Look at a folder of images and print the commands that train on it.", "train"),
    "select": _Verb("Find the noise level, block and component with the most useful features.", "train"),
    "train": _Verb("Train a head on the selected features, with --finetune the backbone too.", "train"),
    "distil": _Verb("Let a small stem learn what a bundle's autoencoder gives, which is cheaper to deploy.", "train"),
    "export": _Verb("Export a bundle to verified ONNX graphs and TensorRT engines.", "export"),
    "eval": _Verb("Measure mIoU or top-1 accuracy on a labelled split, overall and per class.", "export"),
    "build": _Verb("Build TensorRT engines for an export folder.", ""),
    "run": _Verb("Run an exported model on videos, images, cameras and streams.", ""),
    "bench": _Verb("Measure a model on this machine.", ""),
    "doctor": _Verb("Check this machine and report problems, each with the command that fixes it.", ""),
}
_STEPS = """Diffusion Transformers as feature extractors on cameras, in five steps:

\b
  aselect select   where the useful features are
  aselect train    a head on them, for your classes
  aselect export   a verified graph
  aselect build    a TensorRT engine of it, on the device; none is needed on a CPU
  aselect run      cameras and videos in, results out

Start with `aselect init DATA`: it looks at your images and prints these commands with their options.
"""


def main() -> None:
    """The console script `aselect`."""
    print_in_any_coding()
    with reporting(verbose=False):
        _app()()


@cache
def _installed() -> dict[str, EntryPoint]:
    """The installed subcommands by name, without importing them."""
    own = [
        EntryPoint(name, f"aselect_runtime.commands.{name}:{name}", GROUP)
        for name, verb in _VERBS.items()
        if not verb.extra
    ]
    return {found.name: found for found in (*entry_points(group=GROUP), *own)}


class _Verbs(TyperGroup):
    """Lists its commands by name and one line of help; only the one that is called is loaded."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, listed, rest = super().resolve_command(ctx, args)
        found = _installed().get(name or "")
        if found is not None:
            return name, found.load().verb(), rest
        if ctx.resilient_parsing:  # shell completion: there is nothing to complete, and an error would not be shown
            return name, listed, rest
        raise MissingDependencyError(
            f"got the command {name!r}, which is not installed, expected aselect-edge; install aselect-edge "
            f"with the extra {_VERBS[name or ''].extra}"
        )


def _app() -> typer.Typer:
    app = typer.Typer(
        cls=_Verbs,
        help=_STEPS,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    for name in dict.fromkeys((*_VERBS, *_installed())):
        about = _VERBS[name].about if name in _VERBS else "A command of another package."
        app.command(name, short_help=about)(lambda: None)
    return app
