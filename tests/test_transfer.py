"""Tables of runs from ImageNet's weights and from random ones."""

import json

from small_runs import make_run

from benchmarks import table
from benchmarks.accuracy import random_backbones, transfer


def finished(workdir, peak: float | None = 512.0):
    run = make_run(workdir, batch_size=64)
    report = run / "eval/validation_20/report.json"
    report.parent.mkdir(parents=True)
    report.write_text(
        json.dumps({"accuracy": 0.5, "macro_f1": 0.4, "n": 100, "checkpoint_step": 1200})
    )
    if peak:
        resources = {"starts": 1, "seconds": {"training": 9.0}, "total_seconds": 9.0}
        resources["peak_memory_mib"] = {"host": peak, "device": None}
        (run / "resources.json").write_text(json.dumps(resources))
    return run


def test_each_size_and_start_has_a_row(tmp_path):
    finished(tmp_path / "frozen-48")
    finished(tmp_path / "random-48", peak=None)
    found = transfer.make_figures(tmp_path, ["frozen-48", "random-48"])
    assert "after 1,200 steps of 64 images of train_80, one run each, seed 0" in found["about"]
    heading, _, *rows = table.lines(found["tables"][0])
    assert "validation_20 (n = 100), %" in heading
    assert rows[0] == "| 48 | frozen | 50.00 ± 5.00 | 40.0 | 512 |"
    assert rows[1].endswith("| 40.0 |  |")


def test_random_backbones_show_the_first_and_the_last_loss(tmp_path):
    for name in random_backbones.RUNS:
        finished(tmp_path / name)
    _, _, *rows = table.lines(
        random_backbones.make_figures(tmp_path, random_backbones.RUNS)["tables"][0]
    )
    assert rows[0] == "| `resnet50_transfer` | 64 | 1,200 | 2.000 | 0.167 | 1065.0 | 512 |"
