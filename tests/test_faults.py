"""The benchmarks of faults and of long runs: what they see, compare and print."""

import json
import math
import shutil
import subprocess
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from benchmarks import soak, table
from benchmarks.faults import __main__ as faults
from benchmarks.faults import phases
from benchmarks.faults.results import _arrays, difference
from benchmarks.faults.trial import Fault, Trial
from benchmarks.processes import look
from fer_jax.errors import UserError


@pytest.fixture
def copied(trained_workdir, tmp_path):
    """A copy of a finished run."""
    workdir = tmp_path / "copied"
    shutil.copytree(trained_workdir, workdir)
    return workdir


def test_a_run_equals_its_copy_but_for_the_times(trained_workdir, copied):
    path = copied / "metrics.jsonl"
    epochs = [json.loads(line) for line in path.read_text().splitlines()]
    slower = [{**epoch, "seconds": 9e9, "images_per_second": 0.1} for epoch in epochs]
    path.write_text("".join(json.dumps(epoch) + "\n" for epoch in slower))
    assert difference(trained_workdir, copied) == ""


@pytest.mark.parametrize("item", ["model", "training"])
def test_one_bit_of_a_checkpoint_is_a_difference(trained_workdir, copied, item):
    folder = max((copied / "checkpoints").iterdir(), key=lambda path: int(path.name)) / item
    arrays = _arrays(folder)
    name, array = max(arrays.items(), key=lambda pair: pair[1].size)
    array.view(np.uint32).flat[0] ^= 1
    with ocp.PyTreeCheckpointer() as writer:
        tree = writer.metadata(folder).item_metadata.tree
        leaves = [
            arrays[jax.tree_util.keystr(path)]
            for path, _ in jax.tree_util.tree_leaves_with_path(tree)
        ]
        writer.save(folder, jax.tree.unflatten(jax.tree.structure(tree), leaves), force=True)
    assert difference(trained_workdir, copied).endswith(f"{item}{name} differs")


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("metrics.jsonl", '"val_loss": ', '"val_loss": 1'),
        ("eval/validation_20/predictions.csv", "0.", "1."),
    ],
)
def test_history_and_predictions_are_compared(trained_workdir, copied, file, old, new):
    path = copied / file
    path.write_text(path.read_text().replace(old, new, 1))
    assert difference(trained_workdir, copied) == f"{file} differs"
    path.unlink()
    assert difference(trained_workdir, copied) == f"{file} is in one run only"


def test_the_stack_of_a_running_module_is_read(tmp_path):
    environment = phases.environment(tmp_path / "stacks")
    command = [sys.executable, "-m", "timeit", "-n1", "-r1", "import time; time.sleep(60)"]
    with subprocess.Popen(command, env=environment) as process:
        while not (stack := phases._ask(process, tmp_path / "stacks")) or "inner" not in stack:
            assert process.poll() is None
        process.kill()
    assert "_run_module_as_main" in stack
    assert phases.classify(stack, saving=False, training=False, trained=False) == phases.PHASES[0]


STACK = 'File "/x/{}", line 9 in {}\n'


@pytest.mark.parametrize(
    ("frames", "known", "phase"),
    [
        ([("re/_parser.py", "_compile"), ("fer_jax/main.py", "main")], {}, "start and imports"),
        ([("fer_jax/training/programs.py", "_compile")], {}, "compilation"),
        ([("fer_jax/training/programs.py", "advance")], {"training": True}, "within an epoch"),
        ([("fer_jax/inference/probabilities.py", "predict_records")], {}, "start and imports"),
        (
            [("fer_jax/inference/probabilities.py", "predict_records")],
            {"training": True},
            "validation",
        ),
        ([("fer_jax/training/run.py", "add_epoch")], {"training": True}, "saving"),
        ([("fer_jax/training/programs.py", "advance")], {"saving": True}, "saving"),
        ([("fer_jax/training/run.py", "restore")], {}, "restoring"),
        ([("fer_jax/training/run.py", "write_reports")], {}, "final evaluation and reports"),
        ([("matplotlib/text.py", "draw")], {"trained": True}, "final evaluation and reports"),
        ([], {"training": True}, "exit"),
    ],
)
def test_a_stack_belongs_to_a_phase(frames, known, phase):
    stack = "".join(STACK.format(*frame) for frame in frames)
    facts = {"saving": False, "training": bool(known), "trained": False} | known
    assert phases.classify(stack, **facts) == phase
    assert phase in phases.PHASES


def test_the_page_counts_faults_by_run_and_by_phase():
    trials = [
        Trial("plain", [Fault("SIGKILL", "saving", 0.0, -9)], ""),
        Trial("plain", [Fault("SIGTERM", "saving", 2.5, 75)] * 2, "metrics.jsonl differs"),
        Trial("ensemble", [Fault("SIGKILL", "exit", 0.0, -9)], ""),
    ]
    figures = faults.make_figures(trials)
    lines = [line for made in figures["tables"] for line in table.lines(made)]
    assert "| plain | saving | 2 | 1 | 2 | 1 of 2 |" in lines
    assert "| ensemble | exit | 1 | 1 | 0 | 1 of 1 |" in lines
    assert "| saving | 1 | 2 | 75 | 2.5 |" in lines
    assert figures["problems"] == [
        "- plain: SIGTERM in saving, SIGTERM in saving; metrics.jsonl differs"
    ]
    assert figures["about"].startswith("4 faults in 3 runs, 2 of which ended equal")


LASTS = ["timeit", "-n1", "-r1", "import time; time.sleep(60)"]
LEAKS = [
    *("timeit", "-n1", "-r1"),
    "import os, time\nfor _ in range(200): os.dup(1); time.sleep(0.02)",
]


def test_a_soak_sees_files_that_stay_open(tmp_path):
    looks = soak.soak({"lasts": LASTS, "leaks": LEAKS}, seconds=1.5, every=0.1, logs=tmp_path)
    growth = {name: soak.growth_per_hour(seen)[1][1] for name, seen in looks.items()}
    assert growth["lasts"] == pytest.approx(0, abs=1e-6)
    assert growth["leaks"] > 10_000  # 50 a second.
    (made,) = soak.make_figures(looks)["tables"]
    assert ["leaks", "open files"] in [row[:2] for row in made["rows"]]
    assert soak.to_png(soak.plot(looks)).startswith(b"\x89PNG")


def test_a_soak_says_which_process_has_ended(tmp_path):
    with pytest.raises(UserError, match="No module named no_such_module"):
        soak.soak({"it": ["no_such_module"]}, seconds=9, every=0.1, logs=tmp_path)


def test_growth_is_the_slope_after_the_warm_up():
    minutes = np.arange(0, 61)
    memory = np.where(minutes < 10, 5 * minutes, 50 + minutes / 60)  # 1 MiB an hour.
    seen = np.stack([minutes, memory, np.full(61, 4), np.full(61, 20)], axis=1)
    n, slopes = soak.growth_per_hour(seen.astype(float))
    assert n == 51
    np.testing.assert_allclose(slopes, [1, 0, 0], atol=1e-6)


def test_an_ended_process_holds_nothing():
    with subprocess.Popen(["true"]) as process:
        while process.poll() is None:
            pass
    assert look(process.pid) is None
    assert not math.isnan(look(1).resident_mib)
