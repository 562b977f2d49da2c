"""launch/local.sh: several processes on this machine, their status and their signals."""

import os
import re
import signal
import subprocess
import time

import pytest


def starts(tmp_path) -> list[str]:
    return (tmp_path / "runs").read_text().splitlines()


@pytest.mark.parametrize(
    ("statuses", "status"),
    [
        ((0, 0), 0),
        ((75, 75), 75),
        ((2, 2), 2),
        ((75, 2), 2),
        ((1, 75), 1),
        ((-9, 75), 75),
        ((0, -9), 137),
    ],
    ids=str,
)
def test_ends_with_the_status_of_the_run(launch, stub, statuses, status):
    assert launch("local.sh", 2, "--config=cnn", env=stub(*statuses)).returncode == status


def test_the_processes_find_one_another_and_share_the_cores(launch, stub, tmp_path):
    env = stub(0, 0)
    env.pop("JAX_NUM_CPU_DEVICES")
    run = launch("local.sh", 2, "--config=cnn", "--workdir=w", "--log_dir=l", env=env)
    assert "the logs of the others are in l." in run.stdout
    lines = sorted(starts(tmp_path))
    for k, line in enumerate(lines):
        assert line.startswith("-m fer_jax.main --config=cnn --workdir=w --log_dir=l ")
        assert line.endswith(f"--num_processes=2 --process_id={k}")
    assert len({line.split("--coordinator_address=")[1].split()[0] for line in lines}) == 1
    dry = launch("local.sh", 2, "--config=cnn", "--dry_run", env=env).stdout
    assert f"env JAX_NUM_CPU_DEVICES={max(1, os.cpu_count() // 2)} " in dry


def test_starts_again_as_often_as_asked(launch, stub, tmp_path):
    run = launch("local.sh", 1, "--config=cnn", "--restarts=2", env=stub(75, 75, 75, 75))
    assert run.returncode == 75
    assert len(starts(tmp_path)) == 3
    for status in (75, -9):
        env = stub(status, 0)
        assert launch("local.sh", 1, "--config=cnn", "--restarts=2", env=env).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=str)
def test_a_signal_stops_all_processes_and_starts_none_again(machines, tmp_path, number):
    python = tmp_path / "python"
    python.write_text(
        "#!/usr/bin/env bash\n[[ $1 != -c ]] || { echo 1234; exit; }\n"
        f"trap 'echo stopped >>{tmp_path}/stopped; exit 75' TERM\n"
        f"echo >>{tmp_path}/runs; while true; do sleep 0.05; done\n"
    )
    python.chmod(0o755)
    command = ["launch/local.sh", "2", "--config=cnn", "--restarts=3"]
    with subprocess.Popen(command, env=machines | {"PYTHON": str(python)}) as run:
        while not (tmp_path / "runs").exists() or len(starts(tmp_path)) < 2:
            time.sleep(0.01)
        run.send_signal(number)
        assert run.wait(60) == 75
    assert (tmp_path / "stopped").read_text() == "stopped\nstopped\n"


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["two", "--config=cnn"], "two is not a number of processes; see local.sh help"),
        (["0", "--config=cnn"], "0 is not a number of processes; see local.sh help"),
        (["2"], "--config=VALUE is missing; see local.sh help"),
        (["2", "--config=cnn", "--restarts=x"], "--restarts=x is not a number"),
        (["2", "--conf=cnn"], "there is no --conf here; there are --config --workdir"),
    ],
    ids=str,
)
def test_a_mistake_ends_in_one_line(launch, flags, line):
    run = launch("local.sh", *flags)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith(f"local.sh: {line}")
    assert run.stderr.count("\n") == 1


def test_gpus_are_shared(launch, machines, tmp_path):
    machines["PATH"] = f"{tmp_path}:{machines['PATH']}"
    machines.pop("CUDA_VISIBLE_DEVICES", None)
    (tmp_path / "nvidia-smi").write_text(
        '#!/bin/sh\necho "GPU 0"; echo "GPU 1"; echo "GPU 2"; echo "GPU 3"\n'
    )
    (tmp_path / "nvidia-smi").chmod(0o755)
    out = launch("local.sh", 2, "--config=cnn", "--dry_run").stdout
    assert "CUDA_VISIBLE_DEVICES=0,1 " in out
    assert "CUDA_VISIBLE_DEVICES=2,3 " in out
    machines["CUDA_VISIBLE_DEVICES"] = "1,3"
    out = launch("local.sh", 2, "--config=cnn", "--dry_run").stdout
    assert re.findall("CUDA_VISIBLE_DEVICES=([0-9,]+) ", out) == ["1", "3"]
    del machines["CUDA_VISIBLE_DEVICES"]
    run = launch("local.sh", 3, "--config=cnn", "--dry_run")
    assert run.returncode == 2
    assert "4 GPUs cannot be shared by 3 processes" in run.stderr
