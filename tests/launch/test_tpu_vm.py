"""launch/tpu_vm.sh with a cloud of local processes: a pod that trains, is lost, and resumes."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from stand_ins import FAKES, TRAINING, epochs, until

POD = ["pod", "--zone=us-west4-a"]
CREATE = ["--accelerator_type=v5litepod-8", "--spot"]


def calls(tmp_path: Path) -> list[list[str]]:
    """Returns the calls of gcloud compute tpus, each as its group and command."""
    lines = (tmp_path / "cloud/calls").read_text().splitlines()
    return [json.loads(line)[2:4] for line in lines]


def test_a_pod_survives_a_lost_process_and_a_preemption(launch, machines, forks, records, tmp_path):
    machines["FAKE_FORKS"] = forks
    cloud, workdir = tmp_path / "cloud", tmp_path / "disk/run"
    command = [
        *("launch/tpu_vm.sh", "watch", *POD, *CREATE, f"--source={records}"),
        *(f"--workdir={workdir}", *TRAINING, "--every=0.3"),
    ]
    with subprocess.Popen(command, env=machines, stdout=subprocess.PIPE, text=True) as watch:
        until(lambda: epochs(workdir), watch)
        lost = int((cloud / "pod/hosts/0/fer_jax/run/pid").read_text())
        os.kill(lost, signal.SIGKILL)
        log = cloud / "pod/hosts/0/fer_jax/run/output_host-w-0.log"
        until(lambda: log.read_text().count("--coordinator_address=auto") == 2, watch)
        before = len(epochs(workdir))
        until(lambda: len(epochs(workdir)) > before, watch)
        subprocess.run([FAKES / "gcloud", "preempt", "pod"], env=machines, check=True)
        out, _ = watch.communicate(timeout=240)
    assert watch.returncode == 0, out
    assert out.count("waits for a TPU") == 2, out
    assert "ended with status 137" in out
    assert "pod is SUSPENDED" in out
    assert "costs money until `launch/tpu_vm.sh delete pod --zone=us-west4-a`" in out
    assert epochs(workdir) == list(range(1, 7))
    config = json.loads((workdir / "config.json").read_text())
    assert config["devices"]["processes"] == 2

    fetched = tmp_path / "fetched"
    launch("tpu_vm.sh", "fetch", *POD, f"--workdir={workdir}", f"--to={fetched}").check_returncode()
    assert epochs(fetched / "run") == list(range(1, 7))
    assert (fetched / "logs/output_host-w-1.log").is_file()
    assert "are gone and cost nothing" in launch("tpu_vm.sh", "delete", *POD).stdout
    assert "does not exist" in launch("tpu_vm.sh", "status", *POD).stdout


def active(launch, env) -> None:
    """Creates a pod and waits until it is there."""
    launch("tpu_vm.sh", "create", *POD, *CREATE, env=env).check_returncode()
    while "ACTIVE" not in launch("tpu_vm.sh", "status", *POD, env=env).stdout:
        pass


def test_each_command_on_its_own(launch, stub, wheel, tmp_path):
    env = stub(0, 0)
    active(launch, env)
    status = launch("tpu_vm.sh", "status", *POD, env=env).stdout
    assert "host-w-0: not installed\n" in status
    assert "host-w-1: not installed\n" in status
    assert launch("tpu_vm.sh", "start", *POD, "--config=cnn", env=env).returncode == 2
    installed = launch("tpu_vm.sh", "install", *POD, f"--wheel={wheel}", env=env)
    assert "host-w-1: installed" in installed.stdout
    flags = ("--workdir=runs/x", "--config=cnn", "--data_dir=data/y", "--config.note=a 'b'")
    started = launch("tpu_vm.sh", "start", *POD, *flags, env=env)
    assert started.returncode == 0, started
    for line in (tmp_path / "runs").read_text().splitlines():
        assert line == (
            "-m fer_jax.main --coordinator_address=auto --config=cnn "
            "--workdir=runs/x --config.data_dir=data/y --config.note=a 'b'"
        )
    stopped = launch("tpu_vm.sh", "stop", *POD, env=env).stdout
    assert "host-w-0: ended with status 0\n" in stopped
    assert "host-w-1: ended with status 0\n" in stopped
    assert "pod is still there and costs money until" in stopped
    assert "output of 0" in launch("tpu_vm.sh", "tail", *POD, "--worker=1", env=env).stdout
    launch("tpu_vm.sh", "delete", *POD, env=env).check_returncode()


WATCH = ["watch", *POD, *CREATE, "--config=cnn", "--workdir=gs://b/r", "--every=0.05", "--tries=2"]


@pytest.mark.parametrize(
    ("statuses", "end", "starts", "line"),
    [
        ((0, 0), 0, 2, "The run is done."),
        ((75, -9, 0, 0), 0, 4, "It goes on from its last checkpoint."),
        ((2, 2), 2, 2, "ended with status 2. Starting it again would not help."),
        ((75, 1), 1, 2, "ended with status 1. Starting it again would not help."),
        (6 * (75,), 75, 6, "It was tried 2 times without success"),
    ],
    ids=str,
)
def test_a_watch_starts_again_what_that_helps(
    launch, stub, wheel, tmp_path, statuses, end, starts, line
):
    env = stub(*statuses)
    watch = launch("tpu_vm.sh", *WATCH, f"--wheel={wheel}", "--delete_at_end", env=env)
    assert watch.returncode == end, watch
    assert line in watch.stdout
    assert len((tmp_path / "runs").read_text().splitlines()) == starts
    assert calls(tmp_path)[-1] == ["queued-resources", "delete"]
    assert "pod and its disks are gone" in watch.stdout
    if end in (1, 2):
        assert f"output of {end}" in watch.stdout  # Its last lines, before they are deleted.


def test_a_watch_starts_again_what_was_mended(launch, stub, wheel, tmp_path):
    env = stub(2, 2, 0, 0)
    statuses = [launch("tpu_vm.sh", *WATCH, f"--wheel={wheel}", env=env).returncode for _ in "12"]
    assert statuses == [2, 0]
    assert len((tmp_path / "runs").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("trouble", "line"),
    [
        ({"FAKE_STATE": "FAILED"}, "no capacity\nIt was tried 2 times without success"),
        ({"FAKE_SILENCE": "1"}, "pod did not answer 3 times in a row"),
    ],
    ids=str,
)
def test_a_watch_gives_up_a_tpu_that_does_not_come(launch, stub, tmp_path, trouble, line):
    watch = launch("tpu_vm.sh", *WATCH, "--delete_at_end", env=stub() | trouble)
    assert watch.returncode == 75, watch
    assert f"{line}, and is given up.\n" in watch.stdout
    assert calls(tmp_path)[-1] == ["queued-resources", "delete"]


def test_what_is_not_watched_any_more_is_said_to_cost_money(stub):
    command = ["launch/tpu_vm.sh", *WATCH[:-2], "--every=60"]
    watch = subprocess.Popen(command, env=stub(), stdout=subprocess.PIPE, text=True)
    assert watch.stdout
    assert next(line for line in watch.stdout if "waits for a TPU" in line)
    watch.send_signal(signal.SIGTERM)
    assert "pod is no longer watched and costs money until" in watch.communicate()[0]
    assert watch.returncode == 130


def test_a_dry_run_prints_commands_and_calls_nothing(launch, tmp_path):
    # test_files.py compares every command's with the README.
    run = launch("tpu_vm.sh", *WATCH, f"--source={tmp_path}", "--dry_run")
    assert run.returncode == 0, run
    for line in run.stdout.splitlines():
        assert line.startswith(("# ", "gcloud compute tpus ", "git -C ", "mkdir -p ")), line
    assert f"scp {tmp_path} pod:fer_jax/data/ --recurse --worker=all" in run.stdout
    assert not (tmp_path / "cloud/calls").exists()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["fly", "pod"], "there is no command fly; see tpu_vm.sh help"),
        (["create"], "after create comes the TPU's name: small letters, digits and hyphens"),
        (["create", *POD], "--accelerator_type=VALUE is missing; see tpu_vm.sh help"),
        (["create", *POD, "--accelerator_type=v9-8"], "no runtime is known for --accelerator_type"),
        (["start", *POD], "--config=VALUE is missing; see tpu_vm.sh help"),
        (["start", *POD, "--spot"], "there is no --spot here; there are --zone --project --config"),
        (["delete", *POD, "--config=cnn"], "there is no --config here; there are --zone --project"),
        (["start", *POD, "--config"], "--config needs a value: --config=VALUE"),
        (["create", *POD, "--spot=1"], "--spot takes no value"),
        (["start", *POD, "--config=cnn", "--config=resnet"], "--config is given twice"),
        (
            ["start", *POD, "--data_dir=a", "--config.data_dir=b"],
            "--config.data_dir is given twice",
        ),
        ([*WATCH[:-1], "--tries=x"], "--tries=x is not a number"),
        (["fetch", *POD, "--workdir=s3://b/x", "--to=y"], "--workdir=s3://b/x is not on"),
        (["status", *POD, "us"], "us is not a flag; give flags as --NAME=VALUE"),
        (["data", *POD, "--source=nowhere"], "--source=nowhere is no folder;"),
        (["install", *POD, "--wheel=no.whl"], "--wheel=no.whl is not a wheel;"),
        (["watch", *POD, *CREATE, "--config=cnn", "--workdir=runs/x"], "--workdir=runs/x would be"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_mistake_ends_in_one_line(launch, flags, line):
    run = launch("tpu_vm.sh", *flags)
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr.startswith(f"tpu_vm.sh: {line}")
    assert run.stderr.count("\n") == 1
