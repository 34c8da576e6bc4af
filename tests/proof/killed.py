"""Runs a command that kills itself: `python -m tests.proof.killed PLACE AT DELAY TALLY MODULE:FUNCTION ARGUMENT…`.

The changes of files below PLACE are counted through Python's audit events. DELAY seconds after change AT, counted from
0, the process sends itself SIGKILL. A process that ends first writes to TALLY how many changes it made and how many
seconds passed after the first of them.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import Any

CHANGES = frozenset(
    {"os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod", "shutil.rmtree"}
)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Watch:
    """Counts the changes below `place`, and ends the process at one of them."""

    def __init__(self, place: str, at: int, delay: float, tally: Path) -> None:
        self.place, self.at, self.delay, self.tally = place, at, delay, tally
        self.count, self.first = 0, 0.0

    def seen(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit hook; it is called before the change."""
        if not self._changes(event, arguments):
            return
        self.first = self.first or time.monotonic()
        if self.count == self.at:
            self._end()
        self.count += 1

    def _changes(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "open":
            _, mode, flags = arguments
            if not (flags & WRITING or set(mode or "") & set("wax+")):
                return False
        elif event not in CHANGES:
            return False
        return any(str(word).startswith(self.place) for word in arguments if isinstance(word, str | Path))

    def _end(self) -> None:
        if self.delay:
            timer = threading.Timer(self.delay, os.kill, (os.getpid(), signal.SIGKILL))
            timer.daemon = True
            timer.start()
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    def report(self) -> None:
        """Write the tally; called at the end of the process."""
        self.at = -1
        seconds = time.monotonic() - self.first
        self.tally.write_text(json.dumps({"changes": self.count, "seconds": seconds}))


def main() -> None:
    """Run the command of the arguments."""
    place, at, delay, tally, name, *arguments = sys.argv[1:]
    watch = Watch(place, int(at), float(delay), Path(tally))
    module, function = name.split(":")
    command = getattr(import_module(module), function)
    sys.argv = [function, *arguments]
    atexit.register(watch.report)
    sys.addaudithook(watch.seen)
    command()


if __name__ == "__main__":
    main()
