"""Stopping a run in an orderly way on Ctrl-C, SIGTERM and SIGHUP, and at once on a second signal."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""SIGHUP is sent when the terminal or the connection to it is closed; if it is ignored at the start (nohup), it stays
ignored."""
END = b"\0"


@contextmanager
def stop_on_signals() -> Iterator[Event]:
    """Yield an Event that the first signal of NUMBERS sets; a second signal exits at once. Main thread only.

    The signals are read in a separate thread, because Python runs handlers in the main thread only, which may hang in
    an inference library. Exiting at once means: no output is completed, the exit code is 128 + the signal number.
    """
    stop = Event()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)  # required by set_wakeup_fd
    handled = [number for number in NUMBERS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, lambda *_: None) for number in handled}
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def listen() -> None:
        received = False
        while (number := os.read(reading, 1)) != END:
            if number[0] not in handled:
                continue
            if received:
                print("stopped at once: outputs that were being written are incomplete", file=sys.stderr, flush=True)
                os._exit(128 + number[0])
            received = True
            stop.set()

    thread = Thread(target=listen, name="signals", daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in previous.items():
            signal.signal(number, handler)
        os.write(writing, END)
        thread.join()
        os.close(reading)
        os.close(writing)
