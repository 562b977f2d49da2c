"""The clock of phases, and resources.json."""

import subprocess
import sys
import time

import pytest

from fer_jax.training.resources import Clock
from fer_jax.workdir import RESOURCES, read_resources


@pytest.fixture
def seconds(monkeypatch):
    """Sets the time that the clock reads."""

    def at(now):
        monkeypatch.setattr(time, "monotonic", lambda: float(now))

    at(100)
    return at


def test_every_second_belongs_to_one_phase(seconds, tmp_path):
    clock = Clock(started=97)
    for now, phase in ((101, "training"), (105, "saving"), (106, "training"), (110, "reports")):
        seconds(now)
        clock.begin(phase)
    seconds(112)
    clock.write(tmp_path)
    facts = read_resources(tmp_path)
    assert facts["seconds"] == {
        **{"imports": 3, "training": 8, "saving": 1, "reports": 2},
        **{"other": 1},
    }
    assert list(facts["seconds"])[-1] == "other"
    assert (facts["starts"], facts["total_seconds"]) == (1, 15)
    assert facts["peak_memory_mib"]["host"] > 10
    assert [path.name for path in tmp_path.iterdir()] == [RESOURCES]
    assert str(clock) == (
        "15.0 seconds: imports 3.0, training 8.0, saving 1.0, reports 2.0, other 1.0"
    )


def test_a_resumed_run_adds(seconds, tmp_path):
    for began, phase in ((100, "evaluation"), (200, "training")):
        seconds(began)
        clock = Clock(started=began)
        clock.resume(tmp_path)
        clock.begin(phase)
        seconds(began + began / 10)
        clock.write(tmp_path)
    facts = read_resources(tmp_path)
    assert facts["seconds"] == {"imports": 0, "evaluation": 10, "training": 20, "other": 0}
    assert (facts["starts"], facts["total_seconds"]) == (2, 30)
    assert "30.0 seconds in 2 starts: evaluation 10.0, training 20.0" in str(clock)


@pytest.mark.parametrize("content", ["", "[]", '{"starts": 1}', '{"starts": NaN}', "\xff"])
def test_a_damaged_file_counts_as_none(tmp_path, content):
    (tmp_path / RESOURCES).write_text(content, encoding="latin-1")
    assert read_resources(tmp_path) is None
    clock = Clock()
    clock.resume(tmp_path)
    assert clock.facts()["starts"] == 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_command_starts_before_its_imports():
    code = (
        "import time; time.sleep(0.3); from fer_jax.training.resources import Clock, command_start;"
        "print(Clock(command_start()).facts()['seconds']['imports'])"
    )
    began = time.monotonic()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 0.3 <= float(result.stdout) <= time.monotonic() - began + 0.1, result.stderr
