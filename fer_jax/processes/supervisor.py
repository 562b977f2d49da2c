"""The supervisor of one of several processes: it starts the worker, which trains, and ends it.

When a process dies, the other workers hang in an exchange of gradients, or JAX aborts them with a
dump of its stack. A supervisor uses no JAX, so it outlives both. It learns from the hub why all
must end, ends its worker, says why in one line, and ends with a status that schedulers understand.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from fer_jax import errors, stopping
from fer_jax.errors import UserError
from fer_jax.processes.cluster import Cluster
from fer_jax.processes.hub import (
    ADVICE,
    BEAT,
    SILENCE_ENDS,
    SILENCE_TOLD,
    Hub,
    silence_ended,
    silence_told,
)
from fer_jax.processes.messages import LONGEST, encode, read

WORKER = "FER_JAX_WORKER"
"""Environment variable by which a process knows that it is a worker: a JSON object with its file
descriptors `channel`, `out` and `err`, and all that it joins the others with."""

PATIENCE = 300.0
"""Seconds that processes wait for all others to come."""

_TOLD_AFTER = 10.0  # Seconds of waiting after which a message says so.
_PAUSE = 0.2  # Seconds between two tries to reach process 0.
_FOR_LATE_ONES = 10.0  # Seconds that a refusal waits for processes that have not come yet.
_VERDICT = 5.0  # Seconds that a worker's failure waits for another process's end to explain it.


def supervise(
    cluster: Cluster,
    facts: Mapping[str, Any],
    log_dir: Path | None,
    check: Callable[[], None] | None = None,
) -> int:
    """Runs this command as the worker of one process; returns the status to end with.

    Args:
      cluster: this process's place.
      facts: what must be the same in all processes, ready for JSON.
      log_dir: folder for the output of all processes but 0, in `process_<number>.log`; None: they
        write where they are.
      check: raises a `UserError` if this process cannot work. All end with it.
    """
    return asyncio.run(_Supervisor(cluster, facts).run(log_dir, check))


class _Supervisor:
    def __init__(self, cluster: Cluster, facts: Mapping[str, Any]):
        self._cluster, self._facts = cluster, {"number of processes": cluster.count, **facts}
        self._log: IO[str] | None = None
        self._hub: Hub | None = None
        self._to_hub: asyncio.StreamWriter | None = None
        self._to_worker: asyncio.StreamWriter | None = None
        self._worker_beats = False
        self._last_words: dict[str, Any] = {}
        self._others_stop = False
        self._stops: Counter[str] = Counter()

    async def run(self, log_dir: Path | None, check: Callable[[], None] | None) -> int:
        loop = asyncio.get_running_loop()
        self._started: asyncio.Future[str] = loop.create_future()
        self._verdict: asyncio.Future[tuple[int, str]] = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, "supervisor")
        try:
            if log_dir and self._cluster.number:
                self._log = _open_log(log_dir, self._cluster)
            elif log_dir:
                print(f"all processes but 0 write to {log_dir}/process_<id>.log", flush=True)
            if check:
                check()
        except UserError as error:
            self._decide(errors.STATUS, str(error))  # The others learn it once they are here.
        try:
            reader = await self._connect()
            if reader is None:
                return self._obey()
            tasks = [asyncio.create_task(run) for run in (self._listen(reader), self._beat())]
            await self._wait_for_all()
            status = self._obey() if self._verdict.done() else await self._run_worker()
            for task in tasks:
                task.cancel()
            await self._leave(status)
            return status
        except UserError as error:
            self._say(f"error: {error}")
            return errors.STATUS

    async def _connect(self) -> asyncio.StreamReader | None:
        """Opens the hub in process 0; connects with it, and says who this is.

        Returns None if it must end before.
        """
        cluster = self._cluster
        address = f"--coordinator_address={cluster.host}:{cluster.port}"
        if cluster.number == 0:
            self._hub = Hub(cluster.count, self._facts, f"{_literal(cluster.host)}:{_free_port()}")
            try:
                await self._hub.open(cluster.port)
            except OSError as error:
                reason = os.strerror(error.errno) if error.errno else error  # asyncio's is long.
                raise UserError(
                    f"{address}: {reason}; give the address at which process 0 runs, with a free "
                    "port"
                ) from None
        host = cluster.host if cluster.number else None
        began, told = time.monotonic(), False
        while True:
            try:
                reader, writer = await asyncio.open_connection(host, cluster.port, limit=LONGEST)
                break
            except OSError as error:
                waited = time.monotonic() - began
                if waited > PATIENCE:
                    line = f"{address}: {error.strerror or error}, for {PATIENCE:.0f} seconds"
                    line += "; give the address at which process 0 runs, or start again"
                    self._decide(stopping.STATUS, line)
                    return None
                if waited > _TOLD_AFTER and not told:
                    told = True
                    self._say(
                        f"process {cluster.number} of {cluster.count} waits for process 0 at "
                        f"{cluster.host}:{cluster.port}, for {PATIENCE:.0f} seconds at most"
                    )
                if self._verdict.done() and (self._stops or waited > _FOR_LATE_ONES):
                    return None
                await asyncio.sleep(_PAUSE)
        self._to_hub = writer
        host = socket.gethostname()
        self._tell_hub({"hello": cluster.number, "host": host, "facts": dict(self._facts)})
        return reader

    async def _wait_for_all(self) -> None:
        """Waits until all processes are here, or all must end."""
        either = (self._started, self._verdict)
        for seconds in (_TOLD_AFTER, PATIENCE - _TOLD_AFTER):
            if await _one_of(*either, seconds=seconds) or not self._hub:
                break
            missing = _names(self._hub.missing(), self._cluster.count)
            if seconds == _TOLD_AFTER:
                self._say(f"waiting for {missing}, for {PATIENCE:.0f} seconds at most")
            else:
                line = f"{missing} did not come within {PATIENCE:.0f} seconds; {ADVICE}"
                self._hub.end(stopping.STATUS, line)
                self._hub.everyone_came.set()  # They were waited for.
        await _one_of(*either)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        """Receives the hub's messages."""
        first = f"process 0 of {self._cluster.count} on {self._cluster.host}"
        heard = told = False
        while True:
            patience = SILENCE_ENDS - SILENCE_TOLD if told else SILENCE_TOLD
            began = time.monotonic()
            try:
                message = await asyncio.wait_for(read(reader), None if self._hub else patience)
            except TimeoutError:
                if time.monotonic() - began > patience + 2 * BEAT:
                    continue  # This process was stopped itself.
                if told:
                    return self._decide(stopping.STATUS, silence_ended(first))
                told = True
                self._say(f"warning: {silence_told(first)}")
                continue
            if message is None:
                line = f"{first} died; {ADVICE}"
                if not heard:
                    line = (
                        f"what listens at {self._cluster.host}:{self._cluster.port} is not process "
                    )
                    line += "0 of this run, or ended at once; give another port, or start again"
                return self._decide(stopping.STATUS, line)
            if told:
                self._say(f"warning: {first} is back")
            heard, told = True, False
            if "start" in message and not self._started.done():
                self._started.set_result(message["start"])
            elif "end" in message:
                self._decide(message["end"], message["line"])
            elif "tell" in message:
                self._say(f"warning: {message['tell']}")
            elif "ended" in message:
                self._others_stop = True
            elif self._to_worker and ("gathered" in message or "stop" in message):
                self._to_worker.write(encode(message))

    async def _beat(self) -> None:
        """Gives signs of life until the worker does."""
        while not self._worker_beats:
            self._tell_hub({"beat": True})
            await asyncio.sleep(BEAT)

    async def _run_worker(self) -> int:
        """Starts the worker, and waits until it ends or all must end. Returns the status."""
        cluster = self._cluster
        mine, its = socket.socketpair()
        sys.stdout.flush()
        streams = {"out": self._log or sys.stdout, "err": self._log or sys.stderr}
        # Copies, since the worker's own 1 and 2 are for noise.
        copies = {name: os.dup(stream.fileno()) for name, stream in streams.items()}
        # What libraries in C++ write, such as a dump of the stack, is shown only if it explains.
        noise = self._log or _open_noise()
        handed = {"channel": its.fileno(), **copies}
        place = {"coordinator": self._started.result(), **dataclasses.asdict(cluster)}
        worker = await asyncio.create_subprocess_exec(
            sys.executable,
            *sys.orig_argv[1:],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=noise,
            stderr=noise,
            pass_fds=set(handed.values()),
            env=os.environ | {WORKER: json.dumps({**handed, **place})},
            start_new_session=True,  # Signals to the terminal's processes come through here only.
        )
        its.close()
        for copy in copies.values():
            os.close(copy)
        reader, self._to_worker = await asyncio.open_connection(sock=mine, limit=LONGEST)
        talking = asyncio.create_task(self._listen_to_worker(reader))
        exited = asyncio.create_task(worker.wait())
        await _one_of(exited, self._verdict)
        if not exited.done() and self._last_words:  # It ends by itself, and has said why.
            await _one_of(exited, seconds=_VERDICT)
        if exited.done():
            await talking
            return await self._end_of_worker(exited.result(), noise)
        with contextlib.suppress(ProcessLookupError):
            worker.kill()
        await exited
        return self._obey()

    async def _listen_to_worker(self, reader: asyncio.StreamReader) -> None:
        while (message := await read(reader)) is not None:
            self._worker_beats = True
            if "end" in message:
                self._last_words = message
            elif "stop" in message:
                self._stop("worker")
            else:
                self._tell_hub(message)

    async def _end_of_worker(self, status: int, noise: IO) -> int:
        """Tells the hub how the worker has ended. Returns the status."""
        line = self._last_words.get("line", "")
        if status in (0, errors.STATUS, stopping.STATUS):
            self._tell_hub({"end": status, "line": line, "asked": True})
            return status
        # The failure may follow from the end of another process.
        if status > 0 or status == -signal.SIGABRT:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._verdict), _VERDICT)
                return self._obey()
            if self._others_stop:
                return self._obey_with(stopping.STATUS, f"stopped; {ADVICE}")
        if status < 0:
            line = f"it was ended by {signal.Signals(-status).name}; {ADVICE}"
            status = stopping.STATUS if status == -signal.SIGKILL else 1
        text = self._last_words.get("traceback", "")
        if not text and not self._log:
            noise.seek(0)
            text = noise.read().decode(errors="replace")
        if status == 1:
            self._say(text.strip()[-20_000:])
        self._say(f"this process has failed: {line}")
        self._tell_hub({"end": status, "line": line})
        return status

    async def _leave(self, status: int) -> None:
        """Closes the connection. Process 0 first passes the last messages between the others."""
        assert self._to_hub
        self._to_hub.close()
        with contextlib.suppress(OSError):
            await self._to_hub.wait_closed()
        if self._hub:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hub.emptied.wait(), SILENCE_ENDS)
                if status == errors.STATUS:  # Those that start later learn why, too.
                    await asyncio.wait_for(self._hub.everyone_came.wait(), _FOR_LATE_ONES)

    def _stop(self, signalled: str) -> None:
        """Asks all to stop; before the worker runs, ends at once."""
        # A scheduler may signal both. Only the second signal to the same one is a second one.
        before = max(self._stops.values(), default=0)
        self._stops[signalled] += 1
        if self._to_worker is None:
            self._decide(stopping.STATUS, "stopped before it began; start the same command again")
        elif self._stops[signalled] > before:
            self._tell_hub({"stop": True})

    def _decide(self, status: int, line: str) -> None:
        if not self._verdict.done():
            self._verdict.set_result((status, line))

    def _obey(self) -> int:
        """Says why all end. Returns the status."""
        return self._obey_with(*self._verdict.result())

    def _obey_with(self, status: int, line: str) -> int:
        self._say(f"error: {line}" if status == errors.STATUS else line)
        self._tell_hub({"end": status, "line": line})
        return status

    def _tell_hub(self, message: Mapping[str, Any]) -> None:
        if self._to_hub and not self._to_hub.is_closing():
            self._to_hub.write(encode(dict(message)))

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):
            print(line, file=self._log or sys.stderr, flush=True)


async def _one_of(*futures: asyncio.Future, seconds: float | None = None) -> bool:
    """Waits for one of the futures. Returns whether there is one in time."""
    waited = asyncio.wait(futures, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    return bool((await waited)[0])


def _open_log(log_dir: Path, cluster: Cluster) -> IO[str]:
    path = log_dir / f"process_{cluster.number}.log"
    moment = time.strftime("%Y-%m-%d %H:%M:%S")
    line = f"{moment} process {cluster.number} of {cluster.count} on {socket.gethostname()}"
    try:
        log_dir.mkdir(parents=True, exist_ok=True)
        log = path.open("a")
        print(line, file=log, flush=True)
    except OSError as error:
        raise UserError(
            f"--log_dir={log_dir} cannot be written to: {error.strerror or error}; choose another"
        ) from None
    return log


def _open_noise() -> IO:
    try:
        return tempfile.TemporaryFile()
    except OSError:  # No disk has room for it.
        return open(os.devnull, "r+b")


def _free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def _literal(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _names(numbers: list[int], count: int) -> str:
    plural = "es" if len(numbers) > 1 else ""
    return f"process{plural} {', '.join(map(str, numbers))} of {count}"
