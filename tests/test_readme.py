"""The README is short; `test_docs.py` has its commands and links, `test_wheel.py` its Python."""

import re
from pathlib import Path

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
