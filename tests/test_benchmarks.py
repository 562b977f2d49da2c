"""The benchmarks of speed: a short run of our side, beside stand-ins with given figures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import commands
import pytest

from benchmarks import record, table
from benchmarks.speed.__main__ import make_figures
from benchmarks.speed.convolution import CHOICES, measure
from benchmarks.speed.huge_pages import measure as measure_pages
from benchmarks.speed.sides import make_job
from benchmarks.speed.training import forward_flops
from fer_jax.config import load_config
from fer_jax.devices import supported_dtype

LAYERS = '("max_pool", ("conv", 8), ("conv", 16), "max_pool", "max_pool", "flatten")'


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """The file of a config with a network that compiles fast."""
    path = tmp_path_factory.mktemp("configs") / "tiny.py"
    lines = ["from ml_collections import ConfigDict", "from fer_jax.config import default_config"]
    lines += ["def get_config():", "    config = default_config()"]
    lines += [f'    config.model = ConfigDict(dict(name="cnn", channels=3, layers={LAYERS}))']
    path.write_text("\n".join([*lines, "    return config", ""]))
    return path


@pytest.fixture
def interpreter(tmp_path):
    """Makes a stand-in for an interpreter, which runs the given code instead of its arguments."""

    def make(*lines):
        path = tmp_path / "python"
        path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
        path.chmod(0o755)
        return path

    return make


def cells_of(figures, network, framework):
    (found,) = figures["tables"]
    (cells,) = [row[2:] for row in found["rows"] if row[:2] == [network, framework]]
    return cells


def turn(name, *, step, end_to_end, **more):
    figures = {"step": step, "end_to_end": end_to_end, "first_step": 1.5, "peak_mib": 512.0}
    return {"version": f"{name} 1.0", "rows": {name: figures}, **more}


def test_speed_times_our_side_and_sets_the_peers_beside_it(tiny, interpreter, tmp_path):
    told = turn("PyTorch, told", step=100.0, end_to_end=50.0)
    limited = 'test "$ATEN_CPU_CAPABILITY $ONEDNN_MAX_CPU_ISA" = "avx2 AVX2" || exit 1'
    answer = f"while read turn; do echo '{json.dumps(told)}'; done"
    peer = interpreter(limited, "echo ready", answer)
    flags = ("--rounds=1", "--seconds=0.1", "--batch_size=8", "--at_once", "--isa=AVX2")
    files = (f"--configs={tiny}", f"--torch_python={peer}", f"--results={tmp_path / 'results'}")
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed", files[0], *flags, *files[1:]],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},  # A single device compiles fastest.
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    (found,) = record.read("speed", tmp_path / "results")
    assert table.page(found) in result.stdout
    assert found["hardware"]["instructions"] == "AVX2"
    assert f"--configs=…/{tiny.name} --rounds=1 " in found["command"]
    assert found["command"].endswith(" --torch_python=PYTHON")
    assert found["versions"]["PyTorch, told"] == "1.0"
    (ours,) = [
        json.loads(line.removeprefix("tiny fer_jax "))
        for line in result.stdout.splitlines()
        if line.startswith("tiny fer_jax ")
    ]
    figures = ours["rows"]["fer_jax"]
    # Multiplications and additions of two convolutions (without taps beyond the edge) and a dense
    # layer: once forward and twice backward. Pooling and ReLU add a little.
    convolutions = sum(2 * (3 * 24 - 2) ** 2 * a * b for a, b in ((3, 8), (8, 16)))
    by_hand = 3 * (convolutions + 2 * 6 * 6 * 16 * 7)
    assert by_hand < ours["flops_per_image"] < 1.05 * by_hand

    page = found["figures"]
    n, step, step_ratio, end_to_end, end_ratio, share, *_ = cells_of(page, "tiny", "fer_jax")
    assert (n, step_ratio, end_ratio) == (1, 1, 1)
    assert step["median"] == figures["step"]
    assert end_to_end["median"] == figures["end_to_end"]
    assert share == figures["end_to_end"] / figures["step"]
    theirs = cells_of(page, "tiny", "PyTorch, told")
    assert theirs[2] == figures["step"] / 100
    assert theirs[4] == figures["end_to_end"] / 50
    assert theirs[8] == pytest.approx(ours["flops_per_image"] * 100 / 1e9)
    assert cells_of(page, "tiny", "Keras")[:2] == [0, "not measured"]


def test_ratios_are_of_turns_next_to_each_other():
    steps = {"fer_jax": (200, 400, 100), "PyTorch": (50, 100, 400)}  # Medians: 200 and 100.
    facts = {
        **{"dtype": "float32", "memory": "of paper", "peak": "far away"},
        **{"flops_per_image": 1e9, "peak_flops": 1e12},
    }
    turns = {
        "net": {
            "fer_jax": [turn("fer_jax", step=n, end_to_end=n, **facts) for n in steps["fer_jax"]],
            "PyTorch": [turn("PyTorch", step=n, end_to_end=n / 2) for n in steps["PyTorch"]],
            "Keras": [],
        }
    }
    (made,) = make_figures(turns, batch_size=64)["tables"]
    (line,) = [line for line in table.lines(made) if "| PyTorch |" in line]
    assert line == (
        "| net | PyTorch | 3 | 100 (50 to 400) | 4.00 | 50 (25 to 200) | 8.00 | 50% | 1.5 | 512 "
        "| 100 | 10.0% |"
    )


def test_a_peer_that_fails_ends_in_one_line_and_status_2(interpreter):
    broken = interpreter("echo one >&2", "echo no module named torch >&2", "exit 3")
    for python, message in ((broken, "no module named torch"), ("nowhere/python", "cannot run")):
        command = [sys.executable, "-m", "benchmarks.speed", f"--torch_python={python}"]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 2, result.stderr
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
        assert message in result.stderr


def test_flops_are_those_of_convolutions_by_their_definition():
    """A multiplication and an addition are two."""
    flops = forward_flops(load_config("published/large_cnn"), batch_size=64) / 64 / 2
    sizes = [(48, 1, 32), (48, 32, 64), (24, 64, 128), (22, 128, 256), (11, 256, 512)]
    convolutions = sum(9 * size**2 * a * b for size, a, b in [*sizes, (11, 512, 512)])
    dense = 5 * 5 * 512 * 1024 + 1024 * 7
    # Less at the edges, where a kernel reaches beyond, and more for the other operations.
    assert flops == pytest.approx(convolutions + dense, rel=0.1)


def test_convolutions_are_timed_by_each_choice(tiny):
    rows = list(measure(str(tiny), steps=2, batch_size=2))
    known = [name for name, (*_, dtype) in CHOICES.items() if dtype == _supported(dtype)]
    assert [choice for choice, _, _ in rows] == known
    assert known[:4] == list(CHOICES)[:4]
    assert rows[0][2] == 1
    assert all(speed_up > 0 for _, _, speed_up in rows)


def _supported(dtype):
    return supported_dtype(dtype, training=True)


def test_training_is_timed_with_pages_of_both_sizes(tiny, interpreter):
    """The stand-in reports 2 and 3 images/s without huge pages, 8 and 6 with them."""
    sizes = {
        size: json.dumps(turn("fer_jax", step=step, end_to_end=end_to_end, hardware="an abacus"))
        for size, step, end_to_end in (("0", 2, 3), ("1", 8, 6))
    }
    told = (f"*hugetlb={size}) echo '{line}';;" for size, line in sizes.items())
    python = interpreter(
        *("echo ready", "while read turn", "do case $GLIBC_TUNABLES in", *told, "esac; done")
    )
    job = make_job(str(tiny), batch_size=4, seconds=0.1, host_only=True)
    figures = measure_pages([job], rounds=2, python=str(python))["figures"]
    for pages, step, end_to_end in (("small", 2, 3), ("large", 8, 6)):
        found = cells_of(figures, "tiny", pages)
        assert [found[0]["median"], found[2]["median"]] == [step, end_to_end]
        assert found[1:4:2] == [step / 2, end_to_end / 3]


@pytest.mark.parametrize("benchmark", ["speed", "speed.convolution", "speed.huge_pages"])
def test_a_config_that_is_no_file_ends_in_one_line_and_status_2(benchmark):
    result = commands.run(f"benchmarks.{benchmark}", "--configs=nowhere.py")
    assert result.returncode == 2
    assert result.stderr.startswith("error: 'nowhere.py' is neither config nor file")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("benchmark", ["speed", "speed.huge_pages"])
def test_help_lists_the_flags_that_commands_share(benchmark):
    result = commands.run(f"benchmarks.{benchmark}", "--help")
    assert result.returncode == 0
    assert "--configs: " in result.stdout
    assert "--results: " in result.stdout


def test_a_page_shows_the_command_without_this_machines_folders(monkeypatch):
    flags = ["--workdir", "runs/mine", "--keras_python=env/bin/python", "--results=/home/me/x"]
    flags += ["--config=configs/resnet.py", "--config.data_dir=/data/fer2013"]
    monkeypatch.setattr(sys, "argv", ["ablation.py", *flags])
    assert table.command("accuracy.ablation") == (
        "python -m benchmarks.accuracy.ablation --workdir=DIR --keras_python=PYTHON "
        "--config=configs/resnet.py --config.data_dir=…/fer2013"
    )
