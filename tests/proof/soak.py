"""aselect-run for half an hour, on two streams, while its broker is killed again and again: `make soak`.

    python -m tests.proof.soak [--minutes 30] [--restarts 5]

An RTSP camera and an MJPEG camera of this machine are read; lines, the live page and MQTT are the outputs, the broker
is a real mosquitto. Clients of the page come and go. Memory (RSS), descriptors and threads of the process are read from
/proc: after a warm-up memory may grow by less than 1 %, and there must be as many descriptors and threads at the end as
at the start.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Annotated

import aiohttp
import typer

from aselect_runtime.errors import GateError, MissingDependencyError
from benchmarks.harness import versions
from tests.proof.broker import Broker, mosquitto, release
from tests.proof.cameras import mjpeg
from tests.proof.steps import BUILD, ROOT, Check, Seen, exported, prove
from tests.runtime.rtsp_server import free_port, interpreter, serving

TICK = 2.0
"""Seconds between two readings."""
WARM = 0.2
"""Share of the run that is warm-up."""
WINDOW = 0.1
"""Share of the run, after the warm-up and at its end, whose medians are compared."""
MOST = 0.01
"""Memory may grow by less than this share."""
CLOSING = 3
"""Readings at the end that may be of a process that is already closing its outputs."""
VIEWS = 8
"""Ticks from one client of the page to the next."""
SEED = 0


@dataclass(frozen=True)
class Reading:
    """What a process holds: memory in bytes, descriptors, threads."""

    memory: int
    descriptors: int
    threads: int

    @classmethod
    def of(cls, process: int) -> Reading:
        """Read from /proc."""
        place = Path(f"/proc/{process}")
        status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
        memory = int(status["VmRSS"].split()[0]) * 1024
        return cls(memory, len(list((place / "fd").iterdir())), int(status["Threads"]))


@dataclass(frozen=True)
class Soak:
    """What the run did."""

    readings: tuple[Reading, ...]
    messages: tuple[int, ...]
    """MQTT messages between two deaths of the broker."""
    lines: int
    views: int


def soak(place: Path, seconds: float, restarts: int, seed: int = SEED) -> Soak:
    """Run for so long; the broker dies at random moments between the warm-up and the last window."""
    mosquitto()
    if interpreter() is None:
        raise MissingDependencyError("got no RTSP server, expected GStreamer's; apt install gir1.2-gst-rtsp-server-1.0")
    model = exported(place / "model", "fp32", "--no-ladder")
    rtsp, page = free_port(), free_port()
    broker = Broker(free_port(), place)
    lines = place / "lines.jsonl"
    with ExitStack() as stack:
        stack.enter_context(serving(rtsp))
        camera = stack.enter_context(mjpeg())
        broker.start()
        stack.enter_context(broker.listening())
        outputs = [str(lines), f"http://127.0.0.1:{page}", f"mqtt://127.0.0.1:{broker.port}/soak"]
        words = ["-o", outputs[0], "-o", outputs[1], "-o", outputs[2], "--max-seconds", str(seconds), "--json"]
        code = "from aselect_runtime.commands.run import run; run()"
        command = [sys.executable, "-c", code, str(model), f"rtsp://127.0.0.1:{rtsp}/live", camera, *words]
        log = stack.enter_context((place / "log").open("wb"))
        environment = os.environ | {"XDG_CACHE_HOME": str(place / "cache")}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=log)
        stack.callback(process.kill)
        ticks = int(seconds / TICK)
        middle = range(int(ticks * (WARM + WINDOW)), _last(ticks), 4)
        deaths = sorted(random.Random(seed).sample(middle, restarts))
        readings, messages, views = follow(process, broker, deaths, f"http://127.0.0.1:{page}", ticks)
    if process.returncode != 0:
        said = (place / "log").read_text(errors="replace").strip().splitlines()[-1:]
        raise GateError(f"aselect-run: got exit code {process.returncode} ({' '.join(said)}), expected 0; read its log")
    return Soak(tuple(readings), tuple(messages), lines.read_bytes().count(b"\n"), views)


def follow(
    process: subprocess.Popen[bytes], broker: Broker, deaths: Sequence[int], page: str, ticks: int
) -> tuple[list[Reading], list[int], int]:
    """Read the process at every tick until it ends, kill the broker, start it two ticks later, and look at the page."""
    readings: list[Reading] = []
    marks: list[int] = [0]
    views = 0
    # In the warm-up too: what the first client starts is kept for the next one.
    watched = {*range(int(ticks * WARM / 2), int(ticks * WARM)), *range(int(ticks * (WARM + WINDOW)), _last(ticks))}
    while True:
        try:
            process.wait(TICK)
            break
        except subprocess.TimeoutExpired:
            pass
        number = len(readings)
        readings.append(Reading.of(process.pid))
        if number in deaths:
            marks.append(broker.heard)
            broker.kill()
        if number - 2 in deaths:
            broker.start()
        if number in watched and number % VIEWS == 0:
            asyncio.run(views_at_once(page))
            views += 2
    marks.append(broker.heard)
    return readings, [after - before for before, after in pairwise(marks)], views


def _last(ticks: int) -> int:
    """The tick before which the last disturbance must have passed."""
    return int(ticks * (1 - WINDOW)) - CLOSING - 3


async def views_at_once(page: str) -> None:
    """Two clients."""
    await asyncio.gather(view(page), view(page))


async def view(page: str, messages: int = 20) -> None:
    """A client of the live page, which goes away after a few messages."""
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{page}/live") as socket:
        for _ in range(messages):
            await asyncio.wait_for(socket.receive(), 60)
            await socket.send_str("used")


def judged(found: Soak, minutes: float) -> tuple[Check, ...]:
    """The figures, checked; raises GateError."""
    count = len(found.readings)
    start = found.readings[int(count * WARM) :][: max(1, int(count * WINDOW))]
    end = found.readings[:-CLOSING][-max(1, int(count * WINDOW)) :]
    first, last = (median(each.memory for each in part) for part in (start, end))
    if last / first - 1 >= MOST:
        got = f"{first / 1e6:.1f} MB after the warm-up and {last / 1e6:.1f} MB at the end"
        raise GateError(f"aselect-run: got {got}, expected growth under {MOST:.0%}; look for what is kept")
    for name in ("descriptors", "threads"):
        before, after = (median(getattr(each, name) for each in part) for part in (start, end))
        if before != after:
            raise GateError(f"aselect-run: got {before:g} {name} at the start and {after:g} at the end, expected equal")
    if min(found.messages) == 0:
        raise GateError(f"MQTT: got {found.messages} messages between deaths of the broker, expected some each time")
    what = f"`aselect-run`, RTSP and MJPEG, {minutes:g} minutes, {found.lines:,} results"
    held = f"{end[-1].descriptors} descriptors and {end[-1].threads} threads at start and end"
    memory = f"memory {first / 1e6:.1f} MB after the warm-up, {last / 1e6:.1f} MB at the end ({last / first - 1:+.2%})"
    deaths = len(found.messages) - 1
    told = (
        f"{min(found.messages):,} messages or more between two deaths, {found.views} clients of the page came and went"
    )
    return Check(what, f"{memory}; {held}"), Check(f"the same, mosquitto killed and started {deaths} times", told)


def main(
    minutes: Annotated[float, typer.Option(min=0.3)] = 30.0,
    restarts: Annotated[int, typer.Option(min=0)] = 5,
    seed: Annotated[int, typer.Option(min=0)] = SEED,
) -> None:
    """Run the proof."""

    def steps(place: Path) -> Seen:
        found = soak(place, minutes * 60, restarts, seed)
        (BUILD / "soak.json").write_text(json.dumps(asdict(found)))  # to look at, also if the check fails
        packages = {name: importlib.metadata.version(name) for name in ("paho-mqtt", "aiohttp")}
        return Seen({"mosquitto": release(), **versions(), **packages}, judged(found, minutes))

    prove("soak", steps, "make soak")


if __name__ == "__main__":
    typer.run(main)
