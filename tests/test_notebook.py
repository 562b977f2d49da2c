"""The Colab notebook, executed from top to bottom against a small run."""

from pathlib import Path

import nbclient
import nbformat
import pytest

from fer_jax.config import default_config
from fer_jax.train import train

pytestmark = pytest.mark.usefixtures("cached_programs")

NOTEBOOK = Path("launch/evaluate_in_colab.ipynb")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_runs_from_top_to_bottom(tiny_data_dir, tmp_path, no_pictures):
    config = default_config()
    config.data_dir = str(tiny_data_dir)
    config.model.layers = (("conv", 4), ("max_pool", 4), "flatten")
    config.batch_size = 16
    config.epochs = 1
    train(config, tmp_path / "run")

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace('workdir = ""', f'workdir = "{tmp_path / "run"}"')
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(o.get("text", "") or o["data"].get("text/plain", "") for o in outputs)
    assert "weighted F1" in printed
    assert printed.count("left to right: 1") == 2  # for either model
    assert printed.count("█") > 40
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 4
    assert (tmp_path / "run/eval/public_test/report.html").exists()


def test_is_kept_without_outputs():
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
