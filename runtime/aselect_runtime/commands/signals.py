"""Ending a run in order on Ctrl-C, SIGTERM and SIGHUP, and at once on a second one."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""SIGHUP: the terminal was closed, or the connection to it. One that is ignored at the start (nohup) stays ignored."""
END = b"\0"


@contextmanager
def stop_on_signals() -> Iterator[Event]:
    """Yield an Event that the first of NUMBERS sets; a second one leaves at once. Main thread only.

    The signals are read in a thread of their own, because Python runs handlers in the main thread only, which may
    hang in an inference library. Leaving at once means: no output is completed, the exit code is 128 + the signal.
    """
    stop = Event()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)  # as set_wakeup_fd wants it
    heeded = [number for number in NUMBERS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, lambda *_: None) for number in heeded}
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def listen() -> None:
        heard = False
        while (number := os.read(reading, 1)) != END:
            if number[0] not in heeded:
                continue
            if heard:
                print("stopped at once: outputs that were being written are incomplete", file=sys.stderr, flush=True)
                os._exit(128 + number[0])
            heard = True
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
