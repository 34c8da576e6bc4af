"""What a run shows on stderr: a progress line while it runs, a table at its end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from aselect_runtime.pipeline.timing import RunSummary
from aselect_runtime.progress import visible
from aselect_runtime.results import Result


@contextmanager
def progress(total: int | None) -> Iterator[Callable[[Result], None] | None]:
    """Yield the callback that updates the progress line, or None if stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("frames"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    rate = TextColumn("{task.fields[rate]}")
    with Progress(*columns, rate, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("frames", total=total, rate="")

        def on_frame(result: Result) -> None:  # noqa: ARG001
            speed = bar.tasks[task].speed
            bar.update(task, advance=1, rate=f"{speed:.1f} fps" if speed else "")

        yield on_frame


def print_summary(summary: RunSummary, stream: TextIO) -> None:
    """Print the summary as a table; plain text, because importing a table library takes time."""

    def say(line: str) -> None:
        print(visible(line), file=stream)

    frames = "1 frame" if summary.frames == 1 else f"{summary.frames} frames"
    say(
        f"{frames} in {summary.seconds:.1f} s on {summary.device}: {summary.fps:.1f} fps"
        + (f", {summary.dropped} dropped" if summary.dropped else "")
        + (f", {summary.repeated} repeated" if summary.repeated else "")
        + (f", {summary.reconnects} reconnects" if summary.reconnects else "")
    )
    say(f"{'ms':<10}{'p50':>9}{'p95':>9}{'p99':>9}")
    for stage, times in summary.stages.items():
        say(f"{stage:<10}{times.p50:>9.2f}{times.p95:>9.2f}{times.p99:>9.2f}")
    for source in summary.sources if len(summary.sources) > 1 else ():
        repeated = f", {source.repeated} repeated" if source.repeated else ""
        fault = f", last fault: {source.fault.removeprefix(f'{source.name}: ')}" if source.fault else ""
        say(f"{source.name}: {source.frames} frames, {source.dropped} dropped{repeated}{fault}")
    for source in summary.sources:
        if source.skipped:
            say(f"{source.name}: skipped {source.skipped} images that do not decode")
    for sink in summary.sinks:
        if sink.dropped:
            say(f"{sink.name}: {sink.written} results, {sink.dropped} dropped")
    for stage, times_stuck in summary.stalls.items():
        say(f"{stage}: stalled {times_stuck} times")
    for output in summary.outputs:
        say(f"wrote {output}")
