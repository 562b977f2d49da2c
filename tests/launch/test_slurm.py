"""launch/slurm.sbatch: its directives, and jobs that are stopped and put back into the queue."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from stand_ins import TRAINING, epochs, until

SCRIPT = Path("launch/slurm.sbatch")
# The long options that the script uses, with what https://slurm.schedmd.com/sbatch.html allows.
GRAMMAR = {
    "job-name": r"\w+",
    "nodes": r"\d+(-\d+)?",
    "ntasks-per-node": r"\d+",
    "gpus-per-node": r"(\w+:)?\d+",
    "cpus-per-task": r"\d+",
    "time": r"(\d+-)?\d+(:\d\d){0,2}",
    "signal": r"([RB]{1,2}:)?[A-Z0-9]+(@\d+)?",
    "requeue": None,
    "open-mode": "append|truncate",
    "output": r"[\w.%/-]+",
}


def test_sbatch_reads_every_directive():
    lines = SCRIPT.read_text().splitlines()
    # SLURM reads directives up to the first command.
    first = next(k for k, line in enumerate(lines) if line and not line.startswith("#"))
    directives = dict.fromkeys(GRAMMAR, 0)
    for number, line in enumerate(lines):
        if line.startswith("#SBATCH"):
            assert number < first, line
            match = re.fullmatch(r"#SBATCH --([a-z-]+)(?:=(\S+))?", line)
            assert match, line
            name, value = match.groups()
            if GRAMMAR[name] is None:
                assert value is None, line
            else:
                assert re.fullmatch(GRAMMAR[name], value), line
            directives[name] += 1
    assert set(directives.values()) == {1}


@pytest.fixture
def cluster(machines, tmp_path):
    """Submits jobs of two tasks, each in a folder of its own."""

    class Cluster:
        folder = tmp_path / "cluster"

        def submit(self, *flags, env=machines):
            self.folder.mkdir()
            env = env | {"FAKE_CLUSTER": str(self.folder)}
            nodes = ["--nodes=2", "--ntasks-per-node=1"]
            command = ["sbatch", *nodes, f"--output={tmp_path}/%j.out", SCRIPT.resolve(), *flags]
            run = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
            assert run.returncode == 0, run
            self.job = run.stdout.split()[-1]

        def ended(self) -> bool:
            return (self.folder / "ended").exists()

        def end(self) -> tuple[list[int], str]:
            until(self.ended)
            statuses = [int(line) for line in (self.folder / "statuses").read_text().split()]
            return statuses, (tmp_path / f"{self.job}.out").read_text()

    return Cluster()


def test_a_job_that_its_time_limit_stops_goes_on(cluster, machines, forks, records, tmp_path):
    workdir = tmp_path / "run"
    cluster.submit(
        *(*TRAINING, f"--workdir={workdir}", f"--config.data_dir={records}"),
        env=machines | {"FAKE_FORKS": forks, "PYTHON": machines["FAKE_PYTHON"]},
    )
    until(lambda: epochs(workdir) or cluster.ended())
    assert not cluster.ended(), cluster.end()
    for task in cluster.folder.glob("task_*"):  # As --signal=TERM@120 does.
        os.kill(int(task.read_text()), signal.SIGTERM)
    statuses, out = cluster.end()
    assert statuses == [75, 0], out
    assert "goes on when the job starts again" in out
    assert (tmp_path / f"logs/{cluster.job}/process_1.log").is_file()
    assert epochs(workdir) == list(range(1, 7))


@pytest.mark.parametrize(
    ("ends", "statuses"),
    [
        ((2, 2), [2]),
        ((75, 1), [75, 0]),  # The highest counts: only its log has the 1. The next start tells.
        ((75, -9), [137, 0]),
    ],
    ids=str,
)
def test_a_job_is_requeued_on_75_and_for_a_killed_process(cluster, stub, ends, statuses):
    env = stub(*ends, 0, 0)
    cluster.submit("--config=cnn", env=env)
    assert cluster.end()[0] == statuses


def test_a_job_is_not_requeued_for_ever(cluster, stub):
    cluster.submit(env=stub(*(8 * [75])) | {"MOST_RESTARTS": "2"})
    statuses, out = cluster.end()
    assert statuses == 3 * [75]
    assert "given up with status 75" in out
