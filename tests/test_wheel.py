"""The wheel, installed into an environment of its own, does all its work in an empty folder."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UV = os.environ.get("UV") or shutil.which("uv")
CHECKOUT = Path.cwd()

SHORT = ("--config.epochs=1", "--config.model.layers=max_pool,flatten")
SHORT_FILE = """
from fer_jax.config import load_config

def get_config():
    config = load_config("quickstart")
    config.epochs, config.model.layers = 1, ("max_pool", "flatten")
    return config
"""


def uv(*arguments):
    """Runs uv from its cache if possible, else from the registries."""
    for offline in (["--offline"], []):
        result = subprocess.run(
            [UV, *map(str, arguments), *offline], capture_output=True, text=True, cwd=CHECKOUT
        )
        if result.returncode == 0:
            return
    raise AssertionError(result.stderr)


@pytest.fixture(scope="module")
def binaries(tmp_path_factory):
    """The folder of commands of an environment with the wheel and its dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    uv("build", "--wheel", "--out-dir", folder, CHECKOUT)
    uv("venv", "--python", sys.executable, folder / "environment")
    (wheel,) = folder.glob("*.whl")
    python = folder / "environment/bin/python"
    uv("pip", "install", "--python", python, wheel)
    return python.parent


@pytest.mark.skipif(not UV, reason="uv is not installed")
def test_the_wheel_does_all_its_work_in_an_empty_folder(binaries, tiny_source, tmp_path):
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    environment.pop("PYTHONPATH", None)

    def run(*command):
        result = subprocess.run(
            [binaries / command[0], *map(str, command[1:])],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    run("fer_jax", "prepare", f"--source={tiny_source}", "--data_dir=data/fer2013")
    # The quickstart draws its own faces unless it finds data.
    environment["FER2013_DIR"] = "data/fer2013"
    run("fer_jax", "train", "--config=quickstart", *SHORT)
    assert (tmp_path / "runs/quickstart/report.html").exists()
    run("fer_jax", "evaluate", "--workdir=runs/quickstart", "--split=private_test")
    assert (tmp_path / "runs/quickstart/eval/private_test/report.html").exists()
    face = next(tiny_source.rglob("*.png"))
    assert face.name in run("fer_jax", "predict", "--workdir=runs/quickstart", face)
    summary = run("fer_jax", "summary", "--config=published/medium_cnn", "--format=json")
    assert '"total": 4496903' in summary

    # The Python of docs/train.md, with a config file by path; the run above is trained.
    (tmp_path / "short.py").write_text(SHORT_FILE)
    code = python("docs/train.md").replace('"quickstart"', '"short.py"')
    printed = run("python", "-c", code + "import fer_jax; print(fer_jax.__file__)")
    assert re.search(r"^0\.\d+$", printed, re.MULTILINE)
    assert printed.splitlines()[-1].startswith(str(binaries.parent))

    # README.md's Python, with the model that the wheel brings along, on the photograph that
    # matplotlib does.
    (photo,) = binaries.parent.glob("lib/*/site-packages/matplotlib/**/grace_hopper.jpg")
    printed = run("python", "-c", python("README.md").replace("photo.jpg", str(photo)))
    assert re.search(r"^Box\(.*\) \w+ \[", printed)


def python(page):
    """Returns the only block of Python of a page."""
    (code,) = re.findall(r"```python\n(.*?)```", (CHECKOUT / page).read_text(), re.DOTALL)
    return code
