"""Commands end soon and quietly when SIGTERM or Ctrl-C arrives, wherever they are."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fer_jax.workdir import read_history

pytestmark = pytest.mark.usefixtures("cached_programs")

# A command whose main thread is in C, as when XLA compiles, or asks to save first.
IN_C = """
import hashlib
from fer_jax import stopping
stopping.watch()
print(flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 2**30)
"""
DEFERRED = """
import sys, time
from fer_jax import stopping
stopping.watch()
with stopping.deferred() as request:
    print(flush=True)
    while not request.asked:
        time.sleep(0.01)
    print("asked", flush=True)
    {then}
"""


def end_of(process, seconds):
    """Returns the output and errors of a process that must end by itself."""
    try:
        return process.communicate(timeout=seconds)
    finally:
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_command_that_is_in_c(number):
    with subprocess.Popen(
        [sys.executable, "-c", IN_C], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        process.send_signal(number)
        _, err = end_of(process, 20)
    assert process.returncode == 75
    assert err.startswith("stopped; ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("then", "again", "status"),
    [
        ("sys.exit(3)", False, 3),  # It has saved in time.
        ("time.sleep(60)", True, 75),  # The second signal ends it.
        ("time.sleep(60)", False, 75),  # It does not answer in time.
        ("request.answered = True; time.sleep(2); sys.exit(4)", False, 4),  # Saving takes long.
    ],
)
def test_a_deferred_signal_is_a_request(then, again, status):
    code = DEFERRED.format(then=then).replace(
        "stopping.watch()", "stopping.PATIENCE = 1.0; stopping.watch()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "asked\n"
        if again:
            process.send_signal(signal.SIGTERM)
        _, err = end_of(process, 30)
    assert process.returncode == status
    assert err == "" if status != 75 else err.startswith("stopped; ")


def catches_sigterm(process) -> bool:
    """Whether the process handles SIGTERM, which Python does not by itself."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = int(re.search(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)[1], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def test_a_run_stops_wherever_it_is_and_goes_on(tiny_data_dir, tmp_path):
    """While it imports, trains, and writes its reports; then it ends by itself."""
    workdir = tmp_path / "run"
    command = [
        *(sys.executable, "-m", "fer_jax.main", "--config=cnn", f"--workdir={workdir}"),
        *(f"--config.data_dir={tiny_data_dir}", "--config.epochs=3", "--config.batch_size=16"),
        *("--config.steps_per_epoch=6", "--config.model.layers=(('conv', 4), 'flatten')"),
        "--config.eval_batch_size=42",
    ]
    phases = {
        "imports": catches_sigterm,
        "training": lambda _: (workdir / "metrics.jsonl").exists(),
        "reports": lambda _: (workdir / "eval").exists(),
    }
    for phase, reached in phases.items():
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            while not reached(process):
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.005)
            process.send_signal(
                signal.SIGINT if phase in ("imports", "reports") else signal.SIGTERM
            )
            started = time.monotonic()
            _, err = end_of(process, 60)
            assert time.monotonic() - started < 10, phase
        assert process.returncode == 75, (phase, err)
        assert err.count("\n") == 1, (phase, err)
        assert "stopped" in err
    assert len(read_history(workdir / "metrics.jsonl")) == 3
    assert not (workdir / "report.html").exists()
    end = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "resuming" in end.stdout
    assert (workdir / "report.html").exists()
    assert not (workdir / ".lock").exists()
    assert os.listdir(workdir / "checkpoints")
