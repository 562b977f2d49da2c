"""The worker's side: how a process that trains agrees with the others. For one process, it does
nothing."""

import contextlib
import json
import os
import queue
import socket
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fer_jax import stopping
from fer_jax.errors import UserError
from fer_jax.processes.hub import BEAT, describe_difference
from fer_jax.processes.messages import encode
from fer_jax.processes.supervisor import WORKER

_PATIENCE = 120.0  # Seconds that JAX's coordinator may take to start, after all have come.

_NEVER = 10**6
"""Seconds. The hub notices dead processes sooner than JAX, and without a dump of the stack."""


@contextlib.contextmanager
def _end_without_supervisor() -> Iterator[None]:
    """Ends this process when the connection with the supervisor breaks: nobody would end it."""
    try:
        yield
    except (OSError, ValueError):  # A line may be cut off.
        os._exit(stopping.STATUS)


class _Channel:
    """The connection with this process's supervisor."""

    def __init__(self, facts: Mapping[str, Any]):
        self.facts = facts
        self._socket = socket.socket(fileno=facts["channel"])
        self._sending = threading.Lock()
        self._gathered: defaultdict[str, queue.SimpleQueue] = defaultdict(queue.SimpleQueue)
        self._uses: Counter[str] = Counter()
        self.when_asked: Callable[[], None] | None = None
        threading.Thread(target=self._listen, name="channel", daemon=True).start()
        threading.Thread(target=self._beat, name="beat", daemon=True).start()

    def send(self, message: Mapping[str, Any]) -> None:
        with self._sending, _end_without_supervisor():
            self._socket.sendall(encode(dict(message)))

    def gather(self, name: str, value: Any) -> list[Any]:
        self._uses[name] += 1
        name = f"{name} {self._uses[name]}"
        self.send({"gather": name, "value": value})
        return self._gathered[name].get()

    def _listen(self) -> None:
        with _end_without_supervisor(), self._socket.makefile("rb") as lines:
            while line := lines.readline():
                message = json.loads(line)
                if "gathered" in message:
                    self._gathered[message["gathered"]].put(message["values"])
                elif "stop" in message:
                    if self.when_asked:
                        threading.Thread(target=self.when_asked, daemon=True).start()
                    stopping.ask()
            raise ConnectionError

    def _beat(self) -> None:
        while True:
            self.send({"beat": True})
            time.sleep(BEAT)


_channel: _Channel | None = None


def adopt() -> None:
    """Becomes the worker of the supervisor that has started this process, if one has."""
    global _channel
    if (text := os.environ.pop(WORKER, None)) is None:
        return
    facts = json.loads(text)
    for name in ("channel", "out", "err"):
        os.set_inheritable(facts[name], False)
    sys.stdout = os.fdopen(facts["out"], "w", buffering=1)
    sys.stderr = os.fdopen(facts["err"], "w", buffering=1)
    _channel = _Channel(facts)


def relay() -> Callable[[], None] | None:
    """Returns what a worker does at a signal: it tells the supervisor. None for one process."""
    channel = _channel
    return None if channel is None else lambda: channel.send({"stop": True})


def is_worker() -> bool:
    """Whether this process is one of several."""
    return _channel is not None


def join() -> None:
    """Starts JAX in a worker; call it before JAX is used."""
    if _channel is None:
        return
    import jax

    # The supervisors stop all at once. JAX's own service would take their signals.
    jax.config.update("jax_enable_preemption_service", False)
    facts = _channel.facts
    if facts["number"]:
        wait_for(facts["coordinator"], _PATIENCE)
    jax.distributed.initialize(
        facts["coordinator"],
        facts["count"],
        facts["number"],
        local_device_ids=facts["devices"],
        heartbeat_timeout_seconds=_NEVER,
        shutdown_timeout_seconds=_NEVER,
    )


def wait_for(coordinator: str, seconds: float) -> None:
    """Waits until JAX's coordinator, HOST:PORT, listens. JAX itself would end in a dump.

    Raises:
      UserError: it cannot be reached within some seconds.
    """
    host, _, port = coordinator.rpartition(":")
    ends = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > ends:
                raise UserError(
                    f"JAX's coordinator, {coordinator}, cannot be reached: "
                    f"{error.strerror or error}; open all ports between the hosts"
                ) from None
            time.sleep(0.2)


def gather(name: str, value: Any) -> list[Any]:
    """Returns the values of all processes, in their order; all must call it.

    Args:
      name: what it is. Calls with the same name belong together in their order.
      value: this process's value, ready for JSON.
    """
    return [value] if _channel is None else _channel.gather(name, value)


def share(name: str, function: Callable[[], Any]) -> Any:
    """Returns in every process what `function` returns in process 0; it is called there only.

    Args:
      name: see `gather`.
      function: function to call. What it returns is ready for JSON.
    """
    if _channel is None:
        return function()
    return _channel.gather(name, function() if _channel.facts["number"] == 0 else None)[0]


def difference(name: str, facts: Mapping[str, Any]) -> str:
    """Returns how the facts of some process differ from those of process 0, or ""."""
    everyone = gather(name, facts)
    for number, of_process in enumerate(everyone):
        if text := describe_difference(of_process, everyone[0]):
            return f"process {number} of {len(everyone)} differs from process 0: {text}"
    return ""


def when_asked(function: Callable[[], None] | None) -> None:
    """Has `function` called, in a thread of its own, when all are asked to stop."""
    if _channel:
        _channel.when_asked = function


def last_words(status: int, line: str, traceback: str = "") -> None:
    """Tells the supervisor why this process is about to end with `status`."""
    if _channel:
        _channel.send({"end": status, "line": line, "traceback": traceback})
