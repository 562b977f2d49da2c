"""Runs fer_jax.main in forks of one process that has imported it: a machine's Python for the fakes.

It listens at the socket that its argument names. Each connection is one process of the run: when
it closes, the process is killed.
"""

import fcntl
import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
import warnings

import pytest
from pictures import leave_out_pictures

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    # The first three are imported late elsewhere, and slowly.
    import cv2  # noqa: F401
    import tensorflow_datasets.core  # noqa: F401

    import data_prep.prepare  # noqa: F401
    import fer_jax.train  # noqa: F401

gc.collect()
gc.freeze()  # Otherwise a fork searches, and so copies, all of this when it ends.


def receive(connection: socket.socket) -> tuple[dict, list[int]]:
    """Returns the job that a process of the run sends, and its files."""
    data, files, _, _ = socket.recv_fds(connection, 1 << 20, 6)
    while not data.endswith(b"\n"):
        data += connection.recv(1 << 20)
    return json.loads(data), files


def become(job: dict, files: list[int]) -> None:
    """Runs the job in this process, which was forked for it."""
    files = [fcntl.fcntl(file, fcntl.F_DUPFD, 1000) for file in files]
    for number, file in zip(job["files"], files, strict=True):
        os.dup2(file, number)
        os.close(file)
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environment"])
    # A supervisor starts its worker as it was started.
    sys.executable = os.environ["FAKE_PYTHON"]
    sys.orig_argv = [sys.executable, *job["arguments"]]
    sys.argv = job["arguments"][1:]
    leave_out_pictures(pytest.MonkeyPatch())
    runpy.run_module("fer_jax.main", run_name="__main__", alter_sys=True)


def serve(path: str) -> None:
    """Forks for each connection, until the process that started this one ends it."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    children: dict[int, socket.socket] = {}
    while True:
        for ready in select.select([listener, *children.values()], [], [], 0.02)[0]:
            if ready is not listener:
                (pid,) = [pid for pid, connection in children.items() if connection is ready]
                os.kill(pid, signal.SIGKILL)
                children.pop(pid).close()
                continue
            connection = listener.accept()[0]
            job, files = receive(connection)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # JAX warns about every fork.
                pid = os.fork()
            if not pid:
                listener.close()
                return become(job, files)
            for file in files:
                os.close(file)
            children[pid] = connection
            connection.sendall(b"%d\n" % pid)
        reap(children)


def reap(children: dict[int, socket.socket]) -> None:
    """Tells each ended process's status to the one that waits for it."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        if pid in children:
            with children.pop(pid) as connection:
                connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    serve(sys.argv[1])
