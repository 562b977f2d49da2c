"""How SIGTERM and Ctrl-C end a command: with status 75, at once or after it has saved.

Python runs signal handlers in the main thread, between two bytecodes: never while XLA compiles, and
a KeyboardInterrupt that arrives in a destructor is lost. So a thread of its own receives signals.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

STATUS = 75
"""Exit status of a stopped command: EX_TEMPFAIL of sysexits.h, "start it again"."""

PATIENCE = 8.0
"""Seconds that a command has for saving to begin."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(SystemExit):
    """The end of a command that was asked to stop. Its text is one line for the user."""

    def __init__(self, message: str):
        super().__init__(STATUS)
        self._message = message

    def __str__(self) -> str:
        return self._message


class Request:
    """A request to stop.

    Attributes:
      asked: whether there is one.
      answered: whether the command is saving, which may take longer than `PATIENCE`.
    """

    def __init__(self) -> None:
        self.asked = self.answered = False


_request: Request | None = None  # None: a signal ends the process at once.
_watching = 0  # Process that has the thread; a fork does not have it.
_asks = -1  # Where the thread is asked, besides by signals.
_relay: Callable[[], None] | None = None


def watch(relay: Callable[[], None] | None = None) -> None:
    """Makes SIGTERM and Ctrl-C end this process; call it from the main thread.

    `relay`: function that a signal calls instead, in the other thread. Only `ask` ends the process.
    """
    global _watching, _asks, _relay
    _relay = relay
    if _watching != os.getpid():
        _watching = os.getpid()
        readable, _asks = os.pipe()
        os.set_blocking(_asks, False)
        signal.set_wakeup_fd(_asks, warn_on_full_buffer=False)
        threading.Thread(target=_receive, args=[readable], name="stopping", daemon=True).start()
    _take()


def ask() -> None:
    """Does what a signal to this process does, after `watch`."""
    os.write(_asks, b"\0")


@contextlib.contextmanager
def deferred() -> Iterator[Request]:
    """Turns the first signal into a request; the second one ends the process at once.

    A request that is not answered within `PATIENCE` ends it too. Without `watch`, as in a notebook,
    the process never ends: the second Ctrl-C raises KeyboardInterrupt, and outside the main thread
    signals do what they always do.
    """
    global _request
    request = Request()
    if _watching == os.getpid():
        _request = request
        try:
            _take()  # A library may have replaced the handlers.
            yield request
        finally:
            _request = None
        return

    def ask(number: int, _: Any) -> None:
        if request.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.asked = True

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    replaced = {number: signal.signal(number, ask) for number in _SIGNALS}
    try:
        yield request
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)


def _take() -> None:
    for number in _SIGNALS:
        signal.signal(number, lambda *_: None)


def _receive(readable: int) -> None:
    """Receives the numbers of signals, and 0 from `ask`, through a pipe, and acts on them."""
    deadline: float | None = None
    while True:
        wait = None if deadline is None else max(0.0, deadline - time.monotonic())
        signalled = bool(select.select([readable], [], [], wait)[0])
        number = os.read(readable, 1)[0] if signalled else 0
        if number in _SIGNALS and _relay:
            _relay()
        if number and (number not in _SIGNALS or _relay):
            continue
        request = _request
        if signalled and request and not request.asked:
            request.asked, deadline = True, time.monotonic() + PATIENCE
        elif not signalled and (request is None or request.answered):
            deadline = None
        else:
            _end()


def _end() -> None:
    # The main thread may hold stdout's lock, for example while a pipe is full.
    flush = threading.Thread(target=sys.stdout.flush, daemon=True)
    with contextlib.suppress(RuntimeError):  # Python is ending, and starts no thread any more.
        flush.start()
        flush.join(1)
    line = "stopped; files are whole, and the same command goes on or starts again\n"
    err = sys.stderr.fileno()
    os.write(err, (f"\n{line}" if os.isatty(err) else line).encode())  # Below a progress bar.
    os._exit(STATUS)
