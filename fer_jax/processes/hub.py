"""The hub, at which the supervisors of all processes meet. It runs in process 0's supervisor.

Messages from a supervisor:
  {"hello": number, "host": name, "facts": {...}}   first; all must have the same facts
  {"beat": true}                                    a sign of life of its worker
  {"gather": name, "value": anything}               wants the values of all under this name
  {"stop": true}                                    SIGTERM or Ctrl-C
  {"end": status, "line": text}                     its worker has ended
Messages to all:
  {"start": "HOST:PORT"}                            all are here; JAX's coordinator is there
  {"beat": true}                                    a sign of life of the hub
  {"gathered": name, "values": [...]}
  {"stop": true}
  {"tell": text}                                    something to know
  {"ended": number}                                 a worker has stopped, as it was asked to
  {"end": status, "line": text}                     end now, for this reason
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Mapping
from typing import Any

from fer_jax import errors, stopping
from fer_jax.processes.messages import LONGEST, encode, read

BEAT = 1.0
"""Seconds between two signs of life."""

SILENCE_TOLD, SILENCE_ENDS = 30.0, 120.0
"""Seconds without a sign of life after which all are told, and after which all end."""

AFTER_A_STOP = 300.0
"""Seconds that the others have after one has stopped as it was asked to, to save and to upload."""

ADVICE = "start the same command again, and it goes on from its latest checkpoint"


class Hub:
    """Connects the supervisors, and decides when all must end."""

    def __init__(self, count: int, facts: Mapping[str, Any], coordinator: str):
        """Expects `count` supervisors with these facts; `coordinator` is HOST:PORT for JAX."""
        self._count, self._coordinator = count, coordinator
        self._facts = json.loads(json.dumps(facts))  # As the others' arrive.
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._hosts: dict[int, str] = {}
        self._heard: dict[int, float] = {}
        self._gathered: dict[str, dict[int, Any]] = {}
        self._silent: set[int] = set()
        self._came: set[int] = set()
        self._ended: set[int] = set()
        self._stops: dict[int, int] = {}
        self._over: dict[str, Any] = {}
        self.emptied, self.everyone_came = asyncio.Event(), asyncio.Event()
        self._server: asyncio.Server | None = None
        self._watch: asyncio.Task | None = None

    async def open(self, port: int) -> None:
        """Listens at `port`. Raises OSError if it is not free."""
        self._server = await asyncio.start_server(self._serve, None, port, limit=LONGEST)
        self._watch = asyncio.create_task(self._watch_silence())

    def missing(self) -> list[int]:
        """Returns the numbers of the processes that have not come yet."""
        return sorted(set(range(self._count)) - self._came)

    def end(self, status: int, line: str) -> None:
        """Ends all processes, unless they end already."""
        if not self._over:
            self._over = {"end": status, "line": line}
            self._tell_all(self._over)

    def name(self, number: int) -> str:
        """Returns how messages call a process."""
        return f"process {number} of {self._count} on {self._hosts[number]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = None
        with contextlib.suppress(TimeoutError, OSError):
            hello = await asyncio.wait_for(read(reader), timeout=10)
            number = self._welcome(hello or {}, writer)
        if number is None:  # Something else has found the port.
            writer.close()
            return
        while (message := await read(reader)) is not None:
            self._heard[number] = time.monotonic()
            self._receive(number, message)
        if number not in self._ended:
            self.end(stopping.STATUS, f"{self.name(number)} died; {ADVICE}")
        self._leave(number)

    def _welcome(self, hello: Mapping[str, Any], writer: asyncio.StreamWriter) -> int | None:
        number, facts = hello.get("hello"), hello.get("facts")
        if not isinstance(number, int) or not isinstance(facts, dict):
            return None
        self._came.add(number)
        if not self.missing():
            self.everyone_came.set()
        if number in self._writers:
            line = f"process {number} is here already, on {self._hosts[number]}; "
            line += "give each process its own --process_id"
            writer.write(encode({"end": errors.STATUS, "line": line}))
            return None
        if self._over:
            writer.write(encode(self._over))
            return None
        self._writers[number] = writer
        self._hosts[number] = str(hello.get("host"))
        self._heard[number] = time.monotonic()
        if difference := describe_difference(facts, self._facts):
            self.end(errors.STATUS, f"{self.name(number)} differs from process 0: {difference}")
        elif self.everyone_came.is_set():
            self._tell_all({"start": self._coordinator})
        return number

    def _receive(self, number: int, message: Mapping[str, Any]) -> None:
        if "gather" in message:
            values = self._gathered.setdefault(message["gather"], {})
            values[number] = message["value"]
            if len(values) == self._count:
                del self._gathered[message["gather"]]
                in_order = [values[k] for k in range(self._count)]
                self._tell_all({"gathered": message["gather"], "values": in_order})
        elif "stop" in message:
            # A scheduler may signal every process. Only the second signal to the same one counts.
            before = max(self._stops.values(), default=0)
            self._stops[number] = self._stops.get(number, 0) + 1
            if self._stops[number] > before:
                self._tell_all({"stop": True})
        elif "end" in message:
            self._ended.add(number)
            if message["end"] == stopping.STATUS and message.get("asked"):
                self._tell_all({"ended": number})
                line = f"{self.name(number)} has stopped; {ADVICE}"
                asyncio.get_running_loop().call_later(AFTER_A_STOP, self.end, stopping.STATUS, line)
            elif message["end"]:
                self.end(message["end"], f"{self.name(number)}: {message['line']}")

    def _leave(self, number: int) -> None:
        self._writers.pop(number).close()
        self._ended.add(number)
        if not self._writers:
            self.emptied.set()

    def _tell_all(self, message: Mapping[str, Any]) -> None:
        line = encode(dict(message))
        for number, writer in self._writers.items():
            if number not in self._ended and not writer.is_closing():
                writer.write(line)

    async def _watch_silence(self) -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(BEAT)
            self._tell_all({"beat": True})
            if (paused := time.monotonic() - began) > 2 * BEAT:  # This process was stopped itself.
                self._heard = {number: heard + paused for number, heard in self._heard.items()}
            if self._writers.keys() <= self._silent:
                self.emptied.set()
            for number in self._writers.keys() - self._ended:
                silence = time.monotonic() - self._heard[number]
                if silence < SILENCE_TOLD:
                    if number in self._silent:
                        self._silent.discard(number)
                        self._tell_all({"tell": f"{self.name(number)} is back"})
                    continue
                if number not in self._silent:
                    self._silent.add(number)
                    self._tell_all({"tell": silence_told(self.name(number))})
                if silence > SILENCE_ENDS:
                    self.end(stopping.STATUS, silence_ended(self.name(number)))


def silence_told(name: str) -> str:
    """Returns what all are told when a process has been silent for a while."""
    return (
        f"{name} has given no sign of life for {SILENCE_TOLD:.0f} seconds; all wait for it, for "
        f"{SILENCE_ENDS:.0f} seconds in all"
    )


def silence_ended(name: str) -> str:
    """Returns why all end when a process has been silent for too long."""
    return f"{name} has given no sign of life for {SILENCE_ENDS:.0f} seconds; end it, and {ADVICE}"


def describe_difference(facts: Mapping[str, Any], of_first: Mapping[str, Any]) -> str:
    """Returns in words where the facts differ from those of process 0, or ""."""
    differences = [
        f"{key} is {facts.get(key)!r}, there {of_first.get(key)!r}"
        for key in sorted(facts.keys() | of_first.keys())
        if facts.get(key) != of_first.get(key)
    ]
    if not differences:
        return ""
    more = f"; and {len(differences) - 5} more" if len(differences) > 5 else ""
    return "; ".join(differences[:5]) + more + "; start all with the same command, code and data"
