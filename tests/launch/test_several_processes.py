"""Runs of several processes, started by the command that users give on each host.

Where that is not what is tested, the processes are forks of one that has imported fer_jax.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from stand_ins import ENVIRONMENT, FAKES
from test_train import read_history

from fer_jax.config import default_config
from fer_jax.evaluate import evaluate
from fer_jax.reporting.evaluation import read_predictions
from fer_jax.train import train

pytestmark = pytest.mark.usefixtures("cached_programs")

LAYERS = (("conv", 8), "batch_norm", ("max_pool", 8), "flatten")


@pytest.fixture
def config(tiny_data_dir):
    config = default_config()
    config.data_dir = str(tiny_data_dir)
    config.model.layers = LAYERS
    config.batch_size = 16
    config.eval_batch_size = 32
    config.steps_per_epoch = 7
    config.epochs = 3
    return config


class Processes:
    """The processes of one run, each of which has one device."""

    def __init__(self, config, workdir: Path, count: int, forks: str = "", flags=None):
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = f"localhost:{server.getsockname()[1]}"
        knobs = ("data_dir", "batch_size", "eval_batch_size", "steps_per_epoch", "epochs", "input")
        python, environment = sys.executable, {"JAX_NUM_CPU_DEVICES": "1"}
        if forks:
            python, environment = str(FAKES / "python"), ENVIRONMENT | {"FAKE_FORKS": forks}
        command = [
            *(python, "-m", "fer_jax.main", "--config=cnn", f"--workdir={workdir}"),
            *(f"--config.{knob}={config[knob]}" for knob in knobs),
            f"--config.model.layers={tuple(config.model.layers)!r}",
            *(f"--coordinator_address={address}", f"--num_processes={count}"),
        ]
        self.processes = [
            subprocess.Popen(
                [*command, f"--process_id={number}", *(flags or {}).get(number, [])],
                env=os.environ | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(count)
        ]

    def ends(self, seconds=200):
        """Returns each process's status, output and errors, once all have ended."""
        try:
            outputs = [process.communicate(timeout=seconds) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        return [(p.returncode, *texts) for p, texts in zip(self.processes, outputs, strict=True)]


def assert_equal(history, expected):
    for epoch, other in zip(history, expected, strict=True):
        for key in ("train_loss", "val_loss"):
            assert epoch[key] == pytest.approx(other[key], abs=1e-5), (epoch["epoch"], key)


@pytest.mark.usefixtures("no_pictures")
def test_a_run_moves_from_two_processes_to_one_to_four(config, forks, tmp_path):
    """Its losses over 21 steps equal those of an unbroken run of one process."""
    whole = train(config, tmp_path / "whole")["history"]
    workdir = tmp_path / "moved"
    for epochs, count in enumerate((2, 1, 4), start=1):
        config.epochs = epochs
        if count == 1:
            train(config, workdir)
            continue
        first, *others = Processes(config, workdir, count, forks).ends()
        assert first[0] == 0, first
        assert "best checkpoint" in first[1]
        assert all(other == (0, "", "") for other in others), others
    assert_equal(read_history(workdir), whole)
    run = json.loads((workdir / "config.json").read_text())
    assert run["devices"]["processes"] == 2  # Those that it began with.
    # Each of 42 images counts once, on four processes as on one.
    runs = (tmp_path / "moved", tmp_path / "whole")
    ours, theirs = (read_predictions(folder, "validation_20") for folder in runs)
    assert len(ours.labels) == 42
    np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-5)
    assert evaluate(workdir, "public_test")["n"] == 35


@pytest.mark.usefixtures("no_pictures")
def test_a_run_goes_on_after_its_first_process_was_killed(config, tmp_path):
    """The other ends by itself, without JAX's dump of the stack; images are on the devices."""
    config.update(input="device", epochs=20)
    workdir = tmp_path / "run"
    processes = Processes(config, workdir, 2)
    while not (workdir / "metrics.jsonl").exists():
        assert processes.processes[0].poll() is None
        time.sleep(0.01)
    os.kill(processes.processes[0].pid, signal.SIGKILL)
    (killed, _, _), (status, out, err) = processes.ends(seconds=30)
    assert (killed, status, out) == (-signal.SIGKILL, 75, "")
    assert re.fullmatch(r"process 0 of 2 on \S+ died; start the same command again, .*\n", err)
    saved = len(read_history(workdir))
    resumed = train(config, workdir)["history"]
    assert 1 <= saved < len(resumed) == 20
    config.epochs = saved  # As one process has them.
    assert_equal(resumed[:saved], train(config, tmp_path / "alone")["history"])


@pytest.mark.usefixtures("no_pictures")
def test_processes_with_other_pretrained_weights_are_refused(config, forks, tmp_path):
    config.update(epochs=1, steps_per_epoch=1)
    flags = {}
    for seed in range(2):
        config.seed = seed
        train(config, tmp_path / f"{seed}")
        flags[seed] = [f"--config.pretrained.file={tmp_path}/{seed}"]
    for status, _, err in Processes(config, tmp_path / "run", 2, forks, flags).ends():
        assert status == 2
        assert "process 1 of 2 differs from process 0: digest of pretrained weights is" in err


@pytest.mark.parametrize("number", [0, 1])
def test_a_process_without_records_ends_all(config, forks, tmp_path, number):
    nothing = {number: [f"--config.data_dir={tmp_path}/nothing"]}
    ends = Processes(config, tmp_path / "run", 2, forks, nothing).ends(seconds=60)
    assert [status for status, _, _ in ends] == [2, 2]
    for _, _, err in ends:
        assert "no records in" in err
        assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()
