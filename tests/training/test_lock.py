"""Two processes never train in one workdir, and no lock outlives its process."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from fer_jax.errors import UserError
from fer_jax.training import lock
from fer_jax.training.lock import Lock

HOLD = "import sys, pathlib, fer_jax.training.lock as l; x = l.Lock(pathlib.Path(sys.argv[1]))\n"
HOLD += "print(flush=True); input()"


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of `tmp_path`."""
    command = [sys.executable, "-c", HOLD, tmp_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield process
        process.kill()


@pytest.fixture
def no_kernel_locks(monkeypatch):
    """A file system without flock."""

    def flock(*_):
        raise OSError(95, os.strerror(95))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_the_second_is_refused_with_the_first_ones_process_and_host(tmp_path, holder):
    with pytest.raises(UserError, match=f"process {holder.pid} on {socket.gethostname()} is train"):
        Lock(tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    Lock(tmp_path).release()
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("no_kernel_locks")
def test_without_kernel_locks_the_process_in_the_file_decides(tmp_path, holder):
    with pytest.raises(UserError, match=f"process {holder.pid} on"):
        Lock(tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    # A number that is used again is not the same process.
    held = json.loads((tmp_path / ".lock").read_text())
    (tmp_path / ".lock").write_text(json.dumps(held | {"process": os.getpid()}))
    Lock(tmp_path).release()


def test_another_machine_holds_it_while_the_file_moves(tmp_path, monkeypatch, holder):
    """A server may keep the kernel's lock of a machine that has died."""
    monkeypatch.setattr(lock, "_BEAT", 0.3)
    file = tmp_path / ".lock"
    held = json.loads(file.read_text()) | {"host": "elsewhere"}
    file.write_text(json.dumps(held))
    holder.send_signal(signal.SIGSTOP)
    Lock(tmp_path).release()

    first = Lock(tmp_path)
    file.write_text(json.dumps(held))
    started = time.monotonic()
    with pytest.raises(UserError, match=f"process {holder.pid} on elsewhere"):
        Lock(tmp_path)
    assert time.monotonic() - started < 3 * 0.3
    first.release()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/run cannot be a workdir"):
        Lock(tmp_path / "file" / "run")
