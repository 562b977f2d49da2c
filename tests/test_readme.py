"""README.md says nothing that does not work: its Python is run, its commands and links exist."""

import importlib.util
import re
from pathlib import Path

README = Path("README.md").read_text()


def test_every_file_and_module_named_exists():
    for module in set(re.findall(r"python -m ([\w.]+)", README)):
        assert importlib.util.find_spec(module), module
    for path in set(
        re.findall(r"\]\(([\w./-]+)\)|`((?:configs|benchmarks|fer_jax)/[\w./]+)`", README)
    ):
        assert Path(path[0] or path[1]).exists(), path


def test_its_python_runs(tiny_data_dir, tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(code.splitlines()) <= 10
    monkeypatch.setenv("FER2013_DIR", str(tiny_data_dir))
    face = next(tiny_data_dir.rglob("samples.png"))
    code = code.replace("runs/quickstart", str(tmp_path)).replace("face.png", str(face))
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "eval/public_test/report.json").exists()
