"""What Ctrl-C, SIGTERM and SIGHUP do: interrupt a command, or stop a run in an orderly way."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Event, Thread, current_thread, main_thread
from types import FrameType

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""SIGHUP is sent when the terminal or the connection to it is closed; if it is ignored at the start (nohup), it stays
ignored."""
END = b"\0"
GRACE = 5.0
"""Seconds in which a library must return after a signal while a model loads."""

_latest: list[int] = []


def exit_status() -> int:
    """128 + the number of the latest signal of NUMBERS, as shells give it; 130 for Ctrl-C and without any."""
    return 128 + (_latest[-1] if _latest else signal.SIGINT)


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside the block SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does: temporary files are then removed.

    Signals that are ignored or that somebody else handles, and other threads than the main one, are left alone.
    """
    owner = os.getpid()
    _latest.clear()

    def interrupt(number: int, _: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked child, which ends as children do
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        _latest.append(number)
        raise KeyboardInterrupt

    free = [number for number in NUMBERS if signal.getsignal(number) == signal.SIG_DFL]
    with _handling(free if current_thread() is main_thread() else (), interrupt):
        yield


@contextmanager
def leaving_on_signals() -> Iterator[None]:
    """Leave the process GRACE seconds after a signal in the block, if a library has not returned to Python by then.

    Before that, KeyboardInterrupt ends the block in the usual way, or at its end if a library has swallowed it. Main
    thread only.
    """
    left, heard = Event(), Event()

    def leave(number: int) -> None:
        heard.set()
        if not left.wait(GRACE):
            print("interrupted", file=sys.stderr, flush=True)
            os._exit(128 + number)

    with _listening(leave):
        try:
            yield
        finally:
            left.set()
    if heard.is_set():
        raise KeyboardInterrupt


@contextmanager
def stop_on_signals() -> Iterator[Event]:
    """Yield an Event that the first signal of NUMBERS sets; a second signal exits at once. Main thread only.

    Exiting at once means: no output is completed, the exit code is 128 + the signal number.
    """
    stop = Event()

    def received(number: int) -> None:
        if stop.is_set():
            print("stopped at once: outputs that were being written are incomplete", file=sys.stderr, flush=True)
            os._exit(128 + number)
        stop.set()

    handled = [number for number in NUMBERS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    # It listens before the handlers change: a signal in between is heard by one of them.
    with _listening(received), _handling(handled, lambda number, _: _latest.append(number)):
        yield stop


@contextmanager
def _handling(numbers: Iterable[signal.Signals], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


@contextmanager
def _listening(received: Callable[[int], None]) -> Iterator[None]:
    """Call `received` with the number of each signal of NUMBERS that has a handler in Python.

    In a separate thread, because Python runs handlers in the main thread only, which may hang in an inference library.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)  # required by set_wakeup_fd
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def listen() -> None:
        while (number := os.read(reading, 1)) != END:
            if number[0] in NUMBERS:
                received(number[0])

    thread = Thread(target=listen, name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        os.write(writing, END)
        thread.join()
        os.close(reading)
        os.close(writing)
