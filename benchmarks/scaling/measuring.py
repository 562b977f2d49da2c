"""Starts the processes that are timed, and lets their programs take turns."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.children import failure

ROWS, BATCH = 32, 64
"""Rows of each device at a fixed batch per device, and the batch that is fixed for all devices."""

_GROUPS = (("devices", 1), ("devices", 2), ("devices", 4), ("devices", 8))
_GROUPS += (("processes", 2), ("processes", 4))


def measure(
    networks: Sequence[str], *, most: int, rounds: int, length: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns all numbers: `programs`, one mapping for each, `pieces` and `cores`; and hardware.

    A program has `network`, `kind` ("devices" of one process, or "processes"), `devices`, `rows` of
    each device, `members` (1, or as many as there are devices, which then exchange nothing),
    `collectives` and `payload` of a step, and `seconds`, its time in each round.

    Args:
      networks: names as for `worker.load`.
      most: largest number of devices, 2 or more.
      rounds: number of timings of each program; the programs take turns.
      length: about the seconds of a timing.
    """
    with contextlib.ExitStack() as stack:
        wanted = [(kind, count) for kind, count in _GROUPS if count <= most]
        groups = [stack.enter_context(_start(kind, count, networks)) for kind, count in wanted]
        programs, hardware = [], {}
        for (kind, count), workers in zip(wanted, groups, strict=True):
            facts = json.loads(_answers(workers)[0])
            hardware = hardware or facts["hardware"]
            for number, (asked, counted) in enumerate(
                zip(_programs(kind, count, networks), facts["programs"], strict=True)
            ):
                rows = asked["batch_size"] * asked["members"] // count
                about = {"kind": kind, "devices": count, "rows": rows, **asked, **counted}
                programs.append({**about, "number": number, "workers": workers, "seconds": []})
        for program in programs:
            program["steps"] = 2
            taken = _turn(program)
            program["steps"] = max(2, min(300, round(length / taken)))
        for _ in range(rounds):
            for program in programs:
                program["seconds"].append(_turn(program))
        workers = groups[1]  # on two devices of one process, as a run on this machine
        pieces = {name: json.loads(_ask(workers, {"pieces": name})[0]) for name in networks}
    left_out = ("number", "workers", "batch_size")
    kept = [
        {key: value for key, value in program.items() if key not in left_out}
        for program in programs
    ]
    cores = len(os.sched_getaffinity(0))
    return {"cores": cores, "programs": kept, "pieces": pieces}, hardware


def _programs(kind: str, count: int, networks: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the programs of a group of workers: network, batch size of a member, members."""
    sizes = sorted({ROWS * count, BATCH})
    found = [(size, 1) for size in sizes]
    if count == 1:  # for the line of seconds by rows
        found = [(rows, 1) for rows in (8, 16, 32, 64)]
    elif kind == "devices":
        found += [(size // count, count) for size in sizes]
    return [
        {"network": network, "batch_size": size, "members": members}
        for network in networks
        for size, members in found
    ]


@contextlib.contextmanager
def _start(kind: str, count: int, networks: Sequence[str]) -> Iterator[list[subprocess.Popen]]:
    """Starts a group's processes. Each device has a core, or a fair part of one."""
    processes, devices = (1, count) if kind == "devices" else (count, 1)
    cores = sorted(os.sched_getaffinity(0))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    workers = []
    for number in range(processes):
        job = {
            "programs": _programs(kind, count, networks),
            **{"processes": processes, "process": number, "address": address},
            # One device could use several cores for a large operation.
            "cores": [cores[number % len(cores)]] if devices == 1 else cores,
        }
        workers.append(
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.scaling.worker", json.dumps(job)],
                **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True},
                env={**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)},
            )
        )
    try:
        yield workers
    finally:
        for worker in workers:
            worker.stdin.close()
        for worker in workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(30)
            worker.kill()
            worker.wait()


def _ask(workers: Sequence[subprocess.Popen], turn: Mapping[str, Any]) -> list[str]:
    for worker in workers:
        print(json.dumps(turn), file=worker.stdin, flush=True)
    return _answers(workers)


def _answers(workers: Sequence[subprocess.Popen]) -> list[str]:
    """Returns one line of each worker.

    Raises:
      UserError: a worker has ended.
    """
    lines = []
    for worker in workers:
        line = worker.stdout.readline()
        while line.startswith("[Gloo]"):  # It says that it is connected.
            line = worker.stdout.readline()
        if not line:
            raise failure("a process that is timed", "", worker.wait(60))
        lines.append(line)
    return lines


def _turn(program: Mapping[str, Any]) -> float:
    """Returns the seconds of one step; of several processes, those of the slowest."""
    turn = {"program": program["number"], "steps": program["steps"]}
    return max(map(float, _ask(program["workers"], turn))) / program["steps"]
