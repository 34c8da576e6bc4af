"""Which outputs a run opens, for which inputs, and the names of their files."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from aselect_runtime.errors import InputError
from aselect_runtime.media import is_image, is_video
from aselect_runtime.pipeline.placeholders import SOURCE, TIME, dated, now, refuse_placeholders
from aselect_runtime.redaction import redact
from aselect_runtime.sinks.sink import EACH, IMAGES, STDOUT, Sink, sink_name, writes_files
from aselect_runtime.sources.addresses import short_name
from aselect_runtime.sources.source import Source, source_name


@dataclass(frozen=True)
class OutputPlan:
    """An output and the inputs whose results it gets; for an output object, `sink` is the object and `uri` its name."""

    uri: str
    streams: frozenset[int]
    sink: Sink | None = None


def plan_outputs(
    outputs: Sequence[str | Sink], inputs: Sequence[str | Source], lanes: Sequence[Sequence[int]]
) -> list[OutputPlan]:
    """The outputs to open; raises InputError if two of them would write the same file, or for an unknown placeholder.

    In a file's name `{source}` is replaced by the name of the input, with one file per input, and `{time}` by the start
    of the run. Inputs that run in parallel get separate videos, images and masks, with a number in the name if it has
    no `{source}`; .jsonl files, outputs on the network and objects are shared.
    """
    everything = frozenset(range(len(inputs)))
    moment = now()
    plans: list[OutputPlan] = []
    for output in outputs:
        if not isinstance(output, str):
            plans.append(OutputPlan(sink_name(output), everything, output))
            continue
        if not writes_files(output):
            plans.append(OutputPlan(output, everything))
            continue
        of_images = (EACH,) if Path(output).suffix in IMAGES else ()
        refuse_placeholders(output, (SOURCE, TIME, *of_images), "output")
        uri = dated(output, moment)
        if SOURCE in uri:
            names = short_names(inputs)
            plans += [OutputPlan(uri.replace(SOURCE, name), frozenset({n})) for n, name in enumerate(names)]
        elif len(lanes) > 1 and uri != STDOUT and not uri.endswith(".jsonl"):
            plans += [OutputPlan(_numbered(uri, n), frozenset(lane)) for n, lane in enumerate(lanes)]
        else:
            plans.append(OutputPlan(uri, everything))
    files = [
        plan.uri for plan in plans if plan.sink is None and writes_files(plan.uri) and plan.uri not in {"", STDOUT}
    ]
    _refuse_clashes(inputs, files)
    return plans


def taken_paths(plans: Sequence[OutputPlan]) -> set[Path]:
    """The files and folders that the outputs write, as absolute paths."""
    uris = [plan.uri for plan in plans if plan.sink is None and writes_files(plan.uri)]
    return {Path(uri).resolve() for uri in uris if uri not in {"", STDOUT}}


def refuse_taken(folder: Path, taken: set[Path], what: str, parameter: str) -> None:
    """Raise InputError if an output writes the folder."""
    if folder.resolve() in taken:
        raise InputError(
            f"{folder}: got the path of an output, expected a separate folder for {what}; choose another path",
            parameter=parameter,
        )


def short_names(inputs: Sequence[str | Source]) -> list[str]:
    """A unique name for each input that can be part of a file name and contains no secret."""
    names: list[str] = []
    for number, given in enumerate(inputs):
        uri = source_name(given)
        name = redact(uri)
        address = name.split("://", 1)[1] if "://" in name else Path(name).stem
        name = short_name(uri) if " ! " in uri else address
        name = re.sub(r"[^A-Za-z0-9_]+", "-", name.replace("***", "")).strip("-")[:60] or "source"
        numbered = (f"{name}-{other}" for other in count(number))
        names.append(next(each for each in chain([name], numbered) if each not in names))
    return names


def label_folders(sources: Sequence[Source], names: Sequence[str]) -> list[str]:
    """For each input the label prefix, `NAME/` or empty, that keeps its labels different from earlier inputs'."""
    taken: set[str] = set()
    folders: list[str] = []
    for source, name in zip(sources, names, strict=True):
        labels: frozenset[str] = getattr(source, "labels", frozenset())
        folders.append("" if taken.isdisjoint(labels) else f"{name}/")
        taken |= labels
    return folders


def _numbered(uri: str, number: int) -> str:
    """Add a number to the name: video.mp4 -> video-0.mp4, masks/ -> masks-0/."""
    if uri.endswith("/"):
        return f"{uri.rstrip('/')}-{number}/"
    path = Path(uri)
    return str(path.with_name(f"{path.stem}-{number}{path.suffix}"))


def refuse_below(inputs: Sequence[str | Source], uri: str, what: str, parameter: str) -> None:
    """Raise InputError if a path that images or videos are written to is below a folder that is an input."""
    ways = (Path(uri).resolve(), Path(uri).absolute())  # a link in the input folder is followed when it is read
    for given in inputs:
        # os.path: an address may be longer than any name, for which Path raises an error.
        if not isinstance(given, str) or not os.path.isdir(given):
            continue
        folders = (Path(given).resolve(), Path(given).absolute())
        if any(path.is_relative_to(folder) for path in ways for folder in folders):
            raise InputError(
                f"{uri}: got {what} below the input folder, expected a path outside it, because the next run would "
                "read it as an input; choose another path",
                parameter=parameter,
            )


def _is_same(one: str, other: Path) -> bool:
    """Whether two names are those of one file, also by links of both kinds."""
    try:
        return os.path.samefile(one, other)
    except OSError:  # one of them does not exist
        return False


def _refuse_clashes(inputs: Sequence[str | Source], outputs: Sequence[str]) -> None:
    files = [given for given in inputs if isinstance(given, str)]
    taken: set[Path] = set()
    for uri in outputs:
        path = Path(uri).resolve()
        if is_image(path) or is_video(path):
            refuse_below(inputs, uri, "an image" if is_image(path) else "a video", "output")
        if any(_is_same(file, path) for file in files):
            raise InputError(
                f"{uri}: got the path of an input, expected another one; choose another output", parameter="output"
            )
        if path in taken:
            raise InputError(
                f"{uri}: got this path twice, expected a separate path for each output; choose another output",
                parameter="output",
            )
        taken.add(path)
