"""The benchmark of seconds to an accuracy: a short run of ours, beside a stand-in."""

import json
import subprocess
import sys

import commands
import pytest

from benchmarks import record, table
from benchmarks.time_to_accuracy.__main__ import Run, _config_flags, make_figures, missed

LAYERS = '("max_pool","max_pool","max_pool","flatten")'


def test_a_short_run_beside_a_peer(tiny_data_dir, tmp_path):
    """The stand-in misses the accuracy, which any prediction of ours reaches."""
    peer = tmp_path / "python"
    told = json.dumps({"val_accuracy": 0.001, "version": "PyTorch, told"})
    images = "$(echo $2 | grep -o '/[^ ]*images.npz')"
    peer.write_text(f"#!/bin/sh\ntest -s \"{images}\" && echo '{told}'\n")
    peer.chmod(0o755)
    command = [sys.executable, "-m", "benchmarks.time_to_accuracy", "--target=0.01"]
    command += ["--config=published/small_cnn", f"--config.model.layers={LAYERS}"]
    command += ["--config.epochs=1", "--config.steps_per_epoch=1", "--config.batch_size=6"]
    command += [f"--config.data_dir={tiny_data_dir}", f"--results={tmp_path}"]
    result = subprocess.run(
        [*command, f"--torch_python={peer}"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    (found,) = record.read("time_to_accuracy", tmp_path)
    assert table.page(found) in result.stdout
    assert str(tmp_path) not in table.page(found)
    assert found["name"].startswith("small_cnn_1-")
    ours, theirs = table.cells(found)
    assert 0 < ours["seconds to the accuracy"]["median"] < ours["seconds in all"]["median"]
    assert (theirs[""], theirs["seconds to the accuracy"]) == ("PyTorch, told", "not reached")
    phases = [row["phase of fer_jax"] for row in table.cells(found, 1)]
    assert {"imports", "records", "compilation", "training", "evaluation", "reports"} <= {*phases}
    assert abs(sum(found["seconds"].values()) - ours["seconds in all"]["median"]) < 2


def test_a_miss_has_the_best_figure():
    runs = [Run(61.0, 90.0, 0.72, {}), Run(None, 84.0, 0.6512, {})]
    assert missed(runs[:1], 0.7) == ""
    assert missed(runs, 0.7) == (
        "fer_jax did not reach 70.00%; its best is 65.12%, and it ended after 84.0 s; "
        "no record is written"
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--target=70",), "--target is 70.0; give a fraction"),
        (("--target=0.7", "--config.ensemble=2"), "give neither ensemble nor sweep"),
        (("--target=0.7", "--config=resnt"), 'Did you mean "resnet"'),
        (("--target=0.7", "--config=resnet", "--keras_python=x"), "which the sides of PyTorch"),
        (("--target=0.7", "--keras_python=nowhere/python"), "no records in"),
    ],
)
def test_a_mistake_ends_in_one_line_and_status_2(flags, message, tmp_path):
    result = commands.run("benchmarks.time_to_accuracy", *flags, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_command_gets_the_flags_of_the_config():
    given = ["--target=0.7", "--config", "resnet", "--noconfig.flip", "--config.epochs=3", "--x=1"]
    assert _config_flags(given) == ["--config", "resnet", "--noconfig.flip", "--config.epochs=3"]
    assert _config_flags(["--target=0.7"]) == ["--config=published/small_cnn"]


def test_medians_of_the_turns():
    facts = {
        "seconds": {"imports": 2.0, "training": 30.0},
        "config": {
            "file": "resnet",
            "knobs": {
                **{"validation_split": "public_test", "epochs": 70},
                **{"views": "ten_crop", "epoch_views": "one"},
            },
        },
    }
    runs = {
        "fer_jax": [Run(s, 2 * s, 0.72, facts) for s in (40.0, 44.0, 41.0)],
        "PyTorch": [Run(80.0, 90.0, 0.71, {"version": "PyTorch 1"}), Run(None, 1, 0.5, {})],
    }
    figures = make_figures(runs, 0.7, 0.3)
    ours, theirs = table.cells({"figures": figures})
    assert ours["seconds to the accuracy"] == {"median": 41.0, "least": 40.0, "most": 44.0}
    assert theirs["seconds to the accuracy"] == "not reached"
    assert "to 70.00% of public_test, with the 70-epoch schedule of resnet" in figures["about"]
    assert (
        "epoch, through views = one, and fer_jax at the end through views = ten_crop"
        in (figures["about"])
    )
