"""The README is short, and its Python runs; `test_docs.py` has its commands and links."""

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


def test_its_python_runs(tiny_data_dir, tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(code.splitlines()) <= 10
    monkeypatch.setenv("FER2013_DIR", str(tiny_data_dir))
    face = next(tiny_data_dir.rglob("samples.png"))
    code = code.replace("runs/quickstart", str(tmp_path)).replace("face.png", str(face))
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "eval/public_test/report.json").exists()
