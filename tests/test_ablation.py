"""The ablation of a config, from a command to a table."""

import json
import os
import subprocess
import sys

import commands
import pytest

from benchmarks import record, table
from benchmarks.accuracy.ablation import make_figures
from fer_jax.config import load_config
from fer_jax.data.records import open_data_set
from fer_jax.inference.trained import load_trained

pytestmark = pytest.mark.usefixtures("cached_programs")


def ablate(*flags):
    command = [sys.executable, "-m", "benchmarks.accuracy.ablation", *map(str, flags)]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}  # A single device compiles fastest.
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def ablation(tiny_data_dir, tmp_path_factory):
    """The folder of a baseline that erases, a run that does not, and their table."""
    folder = tmp_path_factory.mktemp("ablation")
    result = ablate(
        *(f"--workdir={folder}", f"--results={folder / 'results'}", "--only=erasing,views"),
        *("--config=configs/cnn.py", f"--config.data_dir={tiny_data_dir}", "--config.epochs=1"),
        *("--config.batch_size=16", "--config.eval_batch_size=64", "--config.erasing=0.25"),
        "--config.steps_per_epoch=1",
        "--config.model.layers=('max_pool','max_pool','flatten',('dense',8))",
    )
    assert result.returncode == 0, result.stderr
    (found,) = record.read("ablation", folder / "results")
    assert table.page(found) in result.stdout
    return folder


def test_leaves_out_one_option_and_changes_nothing_else(ablation):
    baseline, changed = (
        json.loads((ablation / name / "config.json").read_text())["config"]
        for name in ("baseline", "erasing")
    )
    assert baseline["epochs"] == 1
    assert baseline["erasing"] == 0.25
    assert changed == baseline | {"erasing": 0.0}


def test_the_table_has_what_an_evaluation_has(ablation, tiny_data_dir):
    (found,) = record.read("ablation", ablation / "results")
    assert found["command"].startswith("python -m benchmarks.accuracy.ablation --workdir=DIR ")
    assert f"--workdir={ablation}" not in found["command"]
    lines = table.lines(found["figures"]["tables"][0])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    assert rows[0][2:4] == ["validation_20 (n = 42), %", "public_test (n = 35), %"]
    assert [row[:2] for row in rows[2:]] == [
        ["baseline", "as it stands"],
        ["erasing", "erasing 0.25 → 0.0"],
        ["views", "views one → flip"],
        ["views", "views one → ten_crop"],
    ]
    for row in rows[2:4]:
        report = json.loads((ablation / row[0] / "eval/validation_20/report.json").read_text())
        assert row[2].split(" ± ")[0] == f"{100 * report['accuracy']:.2f}"
        assert float(row[4]) < 600
    records = open_data_set(tiny_data_dir).load("public_test")
    model = load_trained(ablation / "baseline", views="flip")
    right = model.probabilities(records).argmax(axis=1) == records.labels
    error = 100 * (right.mean() * (1 - right.mean()) / 35) ** 0.5
    assert rows[4][3:] == [f"{100 * right.mean():.2f} ± {error:.2f}", ""]


def test_a_split_stands_in_one_column_though_it_chose_the_epoch(ablation):
    config = load_config("cnn")
    config.validation_split = "public_test"
    (made,) = make_figures(config, ablation, {"baseline": {}}, views=False)["tables"]
    assert list(made["columns"]) == ["option", "change", "public_test (n = 35), %", "seconds"]
    assert [len(row) for row in made["rows"]] == [4]


def test_names_an_option_that_there_is_not(tmp_path):
    result = commands.run(
        "benchmarks.accuracy.ablation", f"--workdir={tmp_path}", "--only=crop,luck"
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: --only has luck; choose from crop, erasing, ")
