"""Processes start together, agree, and end together; their workers exchange numbers, without JAX.

The workers of a real run use JAX besides: see `tests/launch/test_several_processes.py`.
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

import pytest

from fer_jax.errors import UserError
from fer_jax.processes.hub import describe_difference
from fer_jax.processes.worker import wait_for

SCRIPT = """
import json, os, sys, time
from pathlib import Path
from fer_jax import cli
from fer_jax.errors import UserError
from fer_jax.processes import hub, supervisor, worker
from fer_jax.processes.cluster import Cluster
from fer_jax.stopping import Stopped
from fer_jax.training.interruption import Interruption

place, facts, limits, log_dir = json.loads(os.environ["OPTIONS"])
hub.SILENCE_TOLD, hub.SILENCE_ENDS, supervisor.PATIENCE, supervisor._TOLD_AFTER = limits
supervisor.SILENCE_TOLD, supervisor.SILENCE_ENDS, supervisor._VERDICT = *limits[:2], 1

def check():
    if facts.get("unusable") == place[3] == 0:
        raise UserError("--workdir cannot be used")

def main(arguments):
    if not worker.is_worker():
        log = log_dir and Path(log_dir)
        if "no_disk" in facts:
            supervisor.tempfile.tempdir = "/nowhere"
        sys.exit(supervisor.supervise(Cluster(*place), facts, log, check))
    if "mistake" in facts and place[3] == 1:
        raise UserError("no records here; make some")
    if "closed" in facts and place[3] == 1:
        raise BrokenPipeError("a closed pipe")
    if "bug" in facts and place[3] == 1:
        os.write(2, b"noise of a library\\n")
        raise RuntimeError("a bug")
    print("worker", os.getpid(), flush=True)
    print(worker.share("word", lambda: f"from {place[3]}"), flush=True)
    step = 0
    with Interruption() as interruption:
        while step < facts.get("steps", 10**9):
            step += 1
            worker.gather("gradients", step)
            if interruption.asked():
                interruption.answer()
                raise Stopped(f"stopped at step {step}")
            time.sleep(0.001 * place[3])

cli.run(main)
"""


class Team:
    """Processes of the script above, with their output in files."""

    def __init__(self, folder: Path, limits=(30, 120, 300, 10)):
        self.folder, self.limits, self.processes = folder, limits, {}
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.port = server.getsockname()[1]

    def start(self, *numbers, count=3, log_dir=None, **facts):
        for number in numbers:
            place = ("localhost", self.port, count, number)
            options = json.dumps((place, facts, self.limits, log_dir and str(log_dir)))
            with (
                self._file(number, "out").open("w") as out,
                self._file(number, "err").open("w") as err,
            ):
                self.processes[number] = subprocess.Popen(
                    [sys.executable, "-c", SCRIPT],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    env=os.environ | {"OPTIONS": options},
                )

    def _file(self, number, name):
        return self.folder / f"{name}.{number}"

    def out(self, number):
        return self._file(number, "out").read_text()

    def err(self, number):
        return self._file(number, "err").read_text()

    def wait_until(self, number, text, name="out"):
        """Waits until a process has printed something that matches; returns the match."""
        end = time.monotonic() + 60
        while not (found := re.search(text, self._file(number, name).read_text())):
            assert time.monotonic() < end
            assert self.processes[number].poll() is None, self.err(number)
            time.sleep(0.01)
        return found

    def connect(self):
        """Connects with the hub as soon as it listens, and after process 0."""
        while True:
            try:
                socket.create_connection(("localhost", self.port)).close()
                time.sleep(0.2)
                return socket.create_connection(("localhost", self.port))
            except ConnectionRefusedError:
                time.sleep(0.01)

    def workers(self):
        """Waits until all workers exchange numbers; returns their process ids, in order."""
        found = {k: self.wait_until(k, r"worker (\d+)\n.*from 0") for k in self.processes}
        return {k: int(match[1]) for k, match in found.items()}

    def ends(self, seconds=25):
        """Returns the status of every process, all of which must end in time."""
        end = time.monotonic() + seconds
        return {k: p.wait(max(0.1, end - time.monotonic())) for k, p in self.processes.items()}

    def close(self):
        for process in self.processes.values():
            process.kill()
            process.wait()


@pytest.fixture
def team(tmp_path):
    team = Team(tmp_path)
    yield team
    team.close()


def test_they_agree_and_end_and_only_the_first_prints(team, tmp_path):
    log_dir = tmp_path / "logs"
    team.start(2, 1, 0, steps=20, log_dir=log_dir)
    assert team.ends() == {0: 0, 1: 0, 2: 0}
    assert f"all processes but 0 write to {log_dir}/process_<id>.log" in team.out(0)
    for number in (1, 2):
        assert team.out(number) == team.err(number) == ""
        log = (log_dir / f"process_{number}.log").read_text()
        assert f"process {number} of 3 on" in log
        assert "from 0" in log


@pytest.mark.parametrize(("what", "victim"), [("supervisor", 0), ("supervisor", 1), ("worker", 1)])
def test_when_one_is_killed_all_end_with_a_line_that_names_it(team, victim, what):
    team.start(0, 1, 2)
    workers = team.workers()
    os.kill(workers[victim] if what == "worker" else team.processes[victim].pid, signal.SIGKILL)
    statuses = team.ends()
    assert statuses.pop(victim) == (75 if what == "worker" else -signal.SIGKILL)
    assert set(statuses.values()) == {75}
    for number in statuses:
        assert re.fullmatch(
            rf"process {victim} of 3 on \S+( died|: it was ended by SIGKILL); start the same "
            r"command again, and it goes on from its latest checkpoint\n",
            team.err(number),
        )
    for pid in workers.values():  # None is left alone.
        end = time.monotonic() + 20
        while Path(f"/proc/{pid}").exists():
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.mark.parametrize("what", ["supervisor", "worker", "all"])
def test_a_signal_to_one_stops_all_at_the_same_step(team, what):
    team.start(0, 1, 2)
    workers = team.workers()
    signalled = {
        "supervisor": [team.processes[2].pid],
        "worker": [workers[1]],
        "all": [*workers.values(), *(process.pid for process in team.processes.values())],
    }
    for pid in signalled[what]:
        os.kill(pid, signal.SIGTERM)
    assert set(team.ends().values()) == {75}
    lines = {team.err(number) for number in team.processes}
    assert len(lines) == 1
    assert re.fullmatch(r"stopped at step \d+\n", lines.pop())


@pytest.mark.parametrize(("what", "victim"), [("worker", 1), ("supervisor", 1), ("supervisor", 0)])
def test_a_process_without_a_sign_of_life_is_told_and_then_all_others_end(team, victim, what):
    team.limits = (2, 3, 300, 10)
    team.start(0, 1, 2)
    workers = team.workers()
    os.kill(workers[victim] if what == "worker" else team.processes[victim].pid, signal.SIGSTOP)
    line = rf"process {victim} of 3 on \S+ has given no sign of life for"
    team.wait_until(2, f"warning: {line} 2 seconds; all wait for it, for 3 seconds in all", "err")
    others = {k: process for k, process in team.processes.items() if k != victim}
    assert {process.wait(15) for process in others.values()} == {75}
    for number in others:
        assert re.search(f"\n{line} 3 seconds; end it, and start the same", team.err(number))
    team.processes[victim].send_signal(signal.SIGCONT)
    assert team.ends()[victim] == 75


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ({"mistake": True, "no_disk": True}, "no records here; make some"),
        ({"closed": True}, "nobody reads the output any more; start the same command again"),
    ],
)
def test_a_mistake_of_one_is_told_by_all(team, facts, line):
    team.start(0, 1, 2, **facts)
    assert set(team.ends().values()) == {2}
    assert team.err(1) == f"error: {line}\n"
    for number in (0, 2):
        assert re.fullmatch(rf"error: process 1 of 3 on \S+: {line}\n", team.err(number))


def test_a_bug_of_one_shows_its_traceback_there_and_one_line_elsewhere(team):
    team.start(0, 1, 2, bug=True)
    assert set(team.ends().values()) == {1}
    assert "Traceback" in team.err(1)
    assert "RuntimeError: a bug" in team.err(1)
    assert re.fullmatch(r"process 1 of 3 on \S+: RuntimeError: a bug\n", team.err(0))


def test_processes_with_another_config_are_refused_with_the_difference(team):
    team.start(0, 1, learning_rate=0.1, shift=0.0)
    team.start(2, learning_rate=0.01, shift=0.0)
    assert set(team.ends().values()) == {2}
    for number in range(3):
        line = r"error: process 2 of 3 on \S+ differs from process 0: learning_rate is 0.01, there "
        assert re.match(line + "0.1; start all with the same command", team.err(number))
        assert team.out(number) == ""


def test_a_process_of_another_number_of_processes_is_refused(team):
    team.start(0, count=2)
    team.start(1, count=3)
    assert set(team.ends().values()) == {2}
    assert "differs from process 0: number of processes is 3, there 2; start all" in team.err(0)


@pytest.mark.parametrize("number", [0, 2])
def test_what_one_cannot_write_to_is_told_by_all_before_they_train(team, tmp_path, number):
    (tmp_path / "file").touch()
    for k in range(3):
        team.start(k, log_dir=tmp_path / "file" if k == 2 == number else None, unusable=number)
    assert set(team.ends().values()) == {2}
    reason = "--workdir cannot be used" if number == 0 else "--log_dir=.* cannot be written to"
    for k in range(3):
        name = "" if k == number else rf"process {number} of 3 on \S+: "
        assert re.fullmatch(f"error: {name}{reason}.*\n", team.err(k))


def test_two_processes_with_one_number_and_strangers_change_nothing(team):
    team.start(0, 1, steps=50)
    for text, answer in (
        (b"GET / HTTP/1.1\r\n\r\n", ""),
        (b'{"hello": 0, "host": "x", "facts": {}}\n', "process 0 is here already, on "),
    ):
        with team.connect() as stranger, stranger.makefile() as lines:
            stranger.sendall(text)
            assert answer in lines.readline()
    team.start(2, steps=50)
    assert set(team.ends().values()) == {0}


def test_late_starters_are_waited_for_and_missing_ones_named(team):
    team.limits = (2.5, 120, 4, 1)  # While they wait, they give signs of life.
    team.start(2)
    team.wait_until(2, "process 2 of 3 waits for process 0 at localhost:", "err")
    team.start(0)
    team.wait_until(0, "waiting for process 1 of 3, for 4 seconds at most", "err")
    assert set(team.ends().values()) == {75}  # A scheduler may still find a place for it.
    for number in (0, 2):
        assert "process 1 of 3 did not come within 4 seconds; start the same" in team.err(number)
        assert "no sign of life" not in team.err(number)


def test_an_address_where_nobody_is_and_a_port_in_use_are_one_line(team):
    team.limits = (30, 120, 0, 1)
    team.start(1)
    assert team.ends() == {1: 75}
    line = f"--coordinator_address=localhost:{team.port}: .*; give the address at which"
    assert re.match(line, team.err(1))
    with socket.create_server(("", team.port)):
        team.start(0)
        assert team.ends()[0] == 2
    assert re.match(r"error: .*in use; .* with a free port\n", team.err(0))
    assert team.err(0).count("\n") == 1


def test_a_stop_before_all_are_here_ends_those_that_are(team):
    team.limits = (30, 120, 300, 2)
    team.start(0, 1)
    team.wait_until(0, "waiting for process", "err")
    team.processes[1].terminate()
    assert set(team.ends().values()) == {75}
    assert team.err(1) == "stopped before it began; start the same command again\n"


def test_differences_are_counted_when_there_are_many():
    ours = {f"knob_{k}": k for k in range(8)}
    text = describe_difference(ours, dict.fromkeys(ours, -1))
    assert text.startswith("knob_0 is 0, there -1; ")
    assert "; and 3 more; " in text
    assert not describe_difference(ours, dict(ours))


def test_an_unreachable_coordinator_of_jax_is_told():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        wait_for(address, 0.0)
    with pytest.raises(UserError, match=f"JAX's coordinator, {address}, .* open"):
        wait_for(address, 0.0)
