"""Many runs of aselect-run at the price of one start: a process that has loaded the libraries forks for each run.

Each run is a process of its own, which begins where the command's entry point begins. It ends as every process ends,
except that it does not take its modules apart, which would be most of its time; `run_alone` starts what does.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

TIMEOUT = 40
"""Seconds of one run; the longest time-out of a source is 25."""
REAL = [sys.executable, "-c", "from aselect_runtime.commands.run import run; run()"]
SERVER = [sys.executable, "-m", "tests.runtime.situations.commands"]


@dataclass(frozen=True)
class Done:
    """A run that has ended, in the folder that it ran in."""

    code: int
    stdout: str
    stderr: str
    folder: Path


class Commands:
    """Runs the command in a folder; use as a context manager."""

    def __enter__(self) -> Commands:
        self._server = subprocess.Popen(SERVER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(10)
        self._server.stdout.close()

    def run(
        self,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str] = MappingProxyType({}),
        before: str = "",
    ) -> Done:
        """Run it; `before` is Python that the run's process executes first."""
        places = [folder.parent / f"{folder.name}.{kind}" for kind in ("stdout", "stderr")]
        job = {"arguments": arguments, "folder": str(folder), "environment": dict(environment), "before": before}
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps({**job, "streams": [str(place) for place in places]}) + "\n")
        self._server.stdin.flush()
        ready, _, _ = select.select([self._server.stdout], [], [], TIMEOUT + 10)
        assert ready, "the server of commands does not answer"
        code = int(self._server.stdout.readline())
        said, complained = (place.read_text(errors="replace") for place in places)
        return Done(code, said, complained, folder)


def run_alone(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str], prefix: str, streams: str
) -> Done:
    """Run it from a shell: `prefix` is what the shell does first, `streams` its redirections (`2>&-`)."""
    script = f'{prefix} exec "$@" {streams}'
    command = ["/bin/sh", "-c", script, "sh", *REAL, *arguments]
    done = subprocess.run(
        [os.fsencode(each) for each in command],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )
    said, complained = (each.decode(errors="replace") for each in (done.stdout, done.stderr))
    return Done(done.returncode, said, complained, folder)


def _serve() -> None:
    """Fork for each line of the standard input; in the forked process, return when it is set up."""
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(job)
            return
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    sys.exit(0)


def _become(job: dict[str, Any]) -> None:
    signal.alarm(TIMEOUT)  # whatever hangs is killed
    streams = [os.open(os.devnull, os.O_RDONLY)]
    streams += [os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for place in job["streams"]]
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(job["folder"])
    os.environ.update(job["environment"])
    sys.argv = ["aselect-run", *job["arguments"]]
    exec(job["before"], {"os": os, "sys": sys})


def main() -> None:
    """Load what runs need, then serve."""
    from aselect_runtime.commands.run import quiet_libraries, run

    quiet_libraries(False)  # as the command does before OpenCV is loaded
    import aselect_runtime.backends
    import aselect_runtime.pipeline.run
    import aselect_runtime.sinks.mpeg4
    import aselect_runtime.sinks.video
    import aselect_runtime.sources.av_capture
    import aselect_runtime.sources.network  # noqa: F401

    _serve()
    code: object = 1
    try:
        run()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    main()
