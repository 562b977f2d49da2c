"""The README is short; `test_docs.py` has its commands and links, `test_wheel.py` its Python."""

import re
import shlex
from pathlib import Path

import commands
import pytest
import small_sets
from PIL import Image

pytestmark = pytest.mark.usefixtures("cached_programs")

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_it_is_short():
    assert len(README.splitlines()) <= 150


def test_the_two_commands_stand_first():
    first = re.search(r"```bash\n(.*?)```", README, re.DOTALL)
    assert first
    assert first[1].splitlines() == [
        "pip install uv && uv run python -m fer_jax.main --config=configs/quickstart.py",
        "uv run pytest",
    ]


def test_its_python_is_short():
    """`test_wheel.py` runs it."""
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(code.splitlines()) <= 10


def test_your_own_faces_as_written(tmp_path):
    """The commands of the section, on 90 drawn faces of 30 persons and three classes."""
    small_sets.write_people(tmp_path / "faces", people=30)
    Image.new("RGB", (90, 120), "tan").save(tmp_path / "new.jpg")
    section = README.partition("## Your own faces")[2]
    (block,) = re.findall(r"```bash\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    for command in block.replace("\\\n", " ").splitlines():
        uv, run, python, m, module, *arguments = shlex.split(command)
        assert (uv, run, python, m) == ("uv", "run", "python", "-m")
        if "--config.data_dir=data/moods" in arguments:
            arguments.append("--config.epochs=2")
        done = commands.run(module, *arguments, cwd=tmp_path, pictures=False)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "data/moods/audit.html").exists()
    assert "data/moods" in (tmp_path / "runs/moods/config.json").read_text()
    assert re.search(r"(bored|confused|happy) +new\.jpg", done.stdout)
