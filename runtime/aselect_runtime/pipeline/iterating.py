"""A run of the pipeline as a generator of results."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from threading import Event, Thread

from aselect_runtime.options import Decode
from aselect_runtime.pipeline.handoff import Handoff
from aselect_runtime.pipeline.run import run_pipeline
from aselect_runtime.records import Manifest
from aselect_runtime.results import Result
from aselect_runtime.sessions.session import Session
from aselect_runtime.sources.source import Source


def iterate_pipeline(
    manifest: Manifest,
    session: Session,
    source: str | Path | Source,
    *,
    smooth: float | None = None,
    skip_still: float | None = None,
    decode: Decode = "auto",
) -> Generator[Result, None, None]:
    """Yield the results of one input, see `run_pipeline`; raises what that raises.

    A video waits for the consumer and gives a result for every frame; of a live source only the newest result is kept.
    Closing the generator ends the run; afterwards the session is free.
    """
    results: Handoff[Result] = Handoff(1)
    stop = Event()

    def hand_over(result: Result) -> None:
        if not results.put(result, newest_wins=result.captured.source.live):
            stop.set()

    def work() -> None:
        try:
            run_pipeline(
                manifest,
                session,
                [source],
                stop=stop,
                on_frame=hand_over,
                smooth=smooth,
                skip_still=skip_still,
                decode=decode,
            )
        except BaseException as error:
            results.close(error)
        else:
            results.close()

    thread = Thread(target=work, name="pipeline", daemon=True)
    thread.start()
    try:
        yield from results
    finally:
        stop.set()
        results.abandon()
        thread.join()
