"""Machines for the launch scripts: fakes of cloud, SLURM and ssh that run commands as processes."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_records import make_records
from stand_ins import ENVIRONMENT, FAKES, until


@pytest.fixture(scope="session")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    labels = {"train": 48, "public_test": 14, "private_test": 7}
    folder = tmp_path_factory.mktemp("data") / "noise"
    return make_records(folder, {name: [k % 7 for k in range(n)] for name, n in labels.items()})


@pytest.fixture(scope="session")
def forks() -> Iterator[str]:
    """The socket of a process that has imported fer_jax, for fakes/python."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/forks"
        command = [sys.executable, "tests/launch/forks.py", path]
        paths = os.pathsep.join(["tests", os.environ.get("PYTHONPATH", "")])
        environment = os.environ | ENVIRONMENT | {"PYTHONPATH": paths}
        with subprocess.Popen(command, env=environment) as server:
            until(lambda: Path(path).exists(), server)
            yield path
            server.send_signal(signal.SIGKILL)


@pytest.fixture
def machines(tmp_path: Path) -> dict[str, str]:
    """The environment in which scripts meet the fakes, with a stub for Python.

    The stub ends with the statuses in `statuses`, one a start and process.
    """
    (tmp_path / "cloud").mkdir()
    return (
        os.environ
        | ENVIRONMENT
        | {
            "PATH": f"{FAKES}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "FAKE_CLOUD": str(tmp_path / "cloud"),
            "FAKE_HOSTS": "2",
        }
    )


@pytest.fixture
def stub(machines: dict[str, str], tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Returns an environment whose runs end at once with these statuses, one after another."""

    def make(*statuses: int) -> dict[str, str]:
        python = tmp_path / "python"
        python.write_text(
            "#!/usr/bin/env bash\n"
            f'[[ $1 != -c ]] || exec {sys.executable} "$@"\n'
            f'exec {{lock}}>{tmp_path}/lock; flock "$lock"\n'
            f'printf "%s\\n" "$*" >>{tmp_path}/runs\n'
            f"status=$(head -n 1 {tmp_path}/statuses); sed -i 1d {tmp_path}/statuses\n"
            'echo "output of $status"; [[ $status != -9 ]] || kill -9 $$\n'
            'exit "$status"\n'
        )
        python.chmod(0o755)
        (tmp_path / "statuses").write_text("".join(f"{status}\n" for status in statuses))
        return machines | {"FAKE_PYTHON": str(python), "PYTHON": str(python)}

    return make


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A file that only looks like one: quicker to copy than the checkout."""
    file = tmp_path / "fer_jax-0.1.0-py3-none-any.whl"
    file.write_bytes(b"")
    return file


@pytest.fixture
def launch(machines: dict[str, str]) -> Callable[..., subprocess.CompletedProcess]:
    """Runs a script of launch/ to its end."""

    def run(script: str, *flags: object, env: dict[str, str] | None = None):
        command = [f"launch/{script}", *map(str, flags)]
        return subprocess.run(command, env=env or machines, capture_output=True, text=True)

    return run
