"""Ending a command on Ctrl-C, SIGTERM and SIGHUP: in an orderly way on the first signal, at once on a second one."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from threading import Event, Thread

HANGUP = signal.SIGHUP
"""Sent when the terminal or the connection to it is closed; if it is ignored at the start (nohup), it stays ignored."""
TERMINATION = (signal.SIGTERM, HANGUP)
"""The signals that Python does not turn into an exception by itself."""
END = b"\0"
GRACE = 5.0
"""Seconds in which a library must return after a signal while a model loads."""


class Terminated(KeyboardInterrupt):
    """The signal `number` (SIGTERM, SIGHUP) ended the command; as on Ctrl-C, what was being written is removed."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


# A forked process, such as a worker of a pool, has signals of its own: they must not arrive in this process's pipe.
os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))


@contextmanager
def stop_on_signals() -> Iterator[Event]:
    """Yield an Event that the first signal sets, for a run that ends as usual; a second signal exits at once."""
    stop = Event()
    with _handled((signal.SIGINT, *TERMINATION), lambda *_: None, lambda _: stop.set()):
        yield stop


@contextmanager
def raise_on_signals() -> Iterator[None]:
    """Raise Terminated in the main thread for the first SIGTERM or SIGHUP; a second signal exits at once.

    As the KeyboardInterrupt of Ctrl-C, it lets what is being written be removed.
    """
    with _handled(TERMINATION, _raising(), lambda _: None):
        yield


@contextmanager
def leave_on_signals() -> Iterator[None]:
    """As raise_on_signals, with Ctrl-C too, for a block in which a library may not return to Python, or swallow it.

    The process ends GRACE seconds after the signal at the latest.
    """
    left, heard = Event(), list[int]()

    def leave(number: int) -> None:
        heard.append(number)
        if not left.wait(GRACE):
            print(ended_by(number), file=sys.stderr, flush=True)
            os._exit(128 + number)

    with _handled((signal.SIGINT, *TERMINATION), _raising(), leave):
        try:
            yield
        finally:
            left.set()
    for number in heard:
        raise _exception(number)


def ended_by(number: int) -> str:
    """What is said of a command that a signal has ended."""
    return "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"


def _exception(number: int) -> KeyboardInterrupt:
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)


def _raising() -> Callable[[int, object], None]:
    own, raised = os.getpid(), False

    def handler(number: int, _frame: object) -> None:
        nonlocal raised
        if os.getpid() != own:  # a forked process
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif not raised:  # what the exception removes must be removed whole
            raised = True
            raise _exception(number)

    return handler


@contextmanager
def _handled(
    numbers: Collection[signal.Signals], handler: Callable[[int, object], None], first: Callable[[int], None]
) -> Iterator[None]:
    """Handle these signals inside the context; `first` is called with the number of the first one. Main thread only.

    The signals are read in a separate thread, because Python runs handlers in the main thread only, which may hang in
    an inference library. Exiting at once means: no output is completed, the exit code is 128 + the signal number.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)  # required by set_wakeup_fd
    handled = [number for number in numbers if number != HANGUP or signal.getsignal(number) != signal.SIG_IGN]
    # Before the handlers change: a signal in between is heard by one of them.
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    previous = {number: signal.signal(number, handler) for number in handled}

    def listen() -> None:
        received = False
        while (number := os.read(reading, 1)) != END:
            if number[0] not in handled:
                continue
            if received and number[0] == HANGUP:  # of a closed terminal, where the kernel and the shell each send one
                continue
            if received:
                print("stopped at once: outputs that were being written are incomplete", file=sys.stderr, flush=True)
                os._exit(128 + number[0])
            received = True
            first(number[0])

    thread = Thread(target=listen, name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        for number, handler_before in previous.items():
            signal.signal(number, handler_before)
        signal.set_wakeup_fd(wakeup)
        os.write(writing, END)
        thread.join()
        os.close(reading)
        os.close(writing)
