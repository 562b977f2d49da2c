"""The benchmarks as commands: our side for real and short, a peer that says what it is told to."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks.speed.time_fer_jax import Training
from fer_jax.config import load_config


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, **options
    )


@pytest.fixture
def interpreter(tmp_path):
    """Makes what stands in for a peer's interpreter: it does this, whatever it is to run."""

    def make(*lines):
        path = tmp_path / "python"
        path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
        path.chmod(0o755)
        return path

    return make


def cells_of(page, network, framework):
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {network} | {framework} ")]
    return [cell.strip() for cell in line.strip("|").split("|")][2:]


def turn(name, *, step, end_to_end, **more):
    figures = {"step": step, "end_to_end": end_to_end, "first_step": 1.5, "peak_mib": 512.0}
    return {"version": f"{name} 1.0", "rows": {name: figures}, **more}


def test_speed_times_our_side_and_sets_the_peers_beside_it(interpreter, tmp_path):
    told = turn("PyTorch, told", step=100.0, end_to_end=50.0)
    peer = interpreter("echo ready", f"while read turn; do echo '{json.dumps(told)}'; done")
    result = run(
        *("-m", "benchmarks.speed", "--networks=small_cnn", "--rounds=1", "--seconds=0.1"),
        *("--batch_size=8", "--at_once", f"--torch_python={peer}"),
        f"--output={tmp_path / 'speed.md'}",
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},  # One is the soonest compiled.
    )
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "speed.md").read_text()
    assert page in result.stdout
    assert str(tmp_path) not in page.replace(str(tmp_path / "speed.md"), "")
    (ours,) = [
        json.loads(line.removeprefix("small_cnn "))
        for line in result.stdout.splitlines()
        if line.startswith('small_cnn {"rows": {"fer_jax"')
    ]
    figures = ours["rows"]["fer_jax"]
    # Multiplications and additions of three convolutions, whose taps beyond the edge are not
    # counted, and two dense layers; forward and twice backward. Pooling and ReLU add a little.
    convolutions = sum(
        2 * (3 * side - 2) ** 2 * inputs * outputs
        for side, inputs, outputs in ((48, 3, 16), (24, 16, 32), (12, 32, 64))
    )
    by_hand = 3 * (convolutions + 2 * 128 * (2304 + 7))
    assert by_hand < ours["flops_per_image"] < 1.03 * by_hand

    n, step, step_ratio, end_to_end, end_ratio, share, *_ = cells_of(page, "small_cnn", "fer_jax")
    assert n == "1"
    assert (step_ratio, end_ratio) == ("1.00", "1.00")
    assert step == f"{figures['step']:,.0f}"
    assert end_to_end == f"{figures['end_to_end']:,.0f}"
    assert share == f"{figures['end_to_end'] / figures['step']:.0%}"
    theirs = cells_of(page, "small_cnn", "PyTorch, told")
    assert theirs[2] == f"{figures['step'] / 100:.2f}"
    assert theirs[4] == f"{figures['end_to_end'] / 50:.2f}"
    assert theirs[8] == f"{ours['flops_per_image'] * 100 / 1e9:,.0f}"
    assert cells_of(page, "small_cnn", "Keras")[:2] == ["0", "not measured"]


def test_ratios_are_of_turns_next_to_each_other():
    steps = {"fer_jax": (200, 400, 100), "PyTorch": (50, 100, 400)}  # Medians: 200 and 100.
    facts = {
        **{"hardware": "an abacus", "dtype": "float32", "memory": "of paper", "peak": "far away"},
        **{"flops_per_image": 1e9, "peak_flops": 1e12},
    }
    turns = {
        "net": {
            "fer_jax": [turn("fer_jax", step=n, end_to_end=n, **facts) for n in steps["fer_jax"]],
            "PyTorch": [turn("PyTorch", step=n, end_to_end=n / 2) for n in steps["PyTorch"]],
            "Keras": [],
        }
    }
    code = (
        "import json, sys; from absl import flags; import benchmarks.speed.__main__ as speed;"
        "flags.FLAGS(['speed']); print(speed.page(json.load(sys.stdin)))"
    )
    result = run("-c", code, input=json.dumps(turns))
    assert result.returncode == 0, result.stderr
    theirs = cells_of(result.stdout, "net", "PyTorch")
    assert theirs == [
        *("3", "100 (50 to 400)", "4.00", "50 (25 to 200)", "8.00", "50%"),
        *("1.5", "512", "100", "10.0%"),
    ]
    assert "fer_jax 1.0; PyTorch 1.0; an abacus" in result.stdout


def test_a_peer_that_fails_ends_in_one_line_and_status_2(interpreter):
    broken = interpreter("echo one >&2", "echo no module named torch >&2", "exit 3")
    for python, message in ((broken, "no module named torch"), ("nowhere/python", "cannot run")):
        result = run("-m", "benchmarks.speed", f"--torch_python={python}")
        assert result.returncode == 2, result.stderr
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
        assert message in result.stderr


def test_flops_are_those_of_convolutions_by_their_definition(monkeypatch):
    """Three of each multiplication and addition: forward, and for the two gradients."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # Or there are none but these here.
    config = load_config("published/large_cnn")
    flops = Training(config, images=64, batch_size=64).flops_per_image / 6
    sizes = [(48, 1, 32), (48, 32, 64), (24, 64, 128), (22, 128, 256), (11, 256, 512)]
    convolutions = sum(9 * size**2 * a * b for size, a, b in [*sizes, (11, 512, 512)])
    dense = 5 * 5 * 512 * 1024 + 1024 * 7
    # Less at the edges, where a kernel reaches beyond, and more for whatever else there is.
    assert flops == pytest.approx(convolutions + dense, rel=0.1)


def test_convolutions_are_timed_by_each_choice(tmp_path):
    page = tmp_path / "convolution.md"
    result = run(
        *("-m", "benchmarks.speed.convolution", "--configs=configs/published/small_cnn.py"),
        *("--steps=2", "--batch_size=4", f"--output={page}"),
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
    )
    assert result.returncode == 0, result.stderr
    rows = [line.split("|") for line in page.read_text().splitlines() if "| small_cnn" in line]
    choices = ["XLA's own", "oneDNN", "oneDNN, our gradients", "oneDNN, our gradients, Winograd"]
    assert [row[2].strip() for row in rows] == choices
    assert float(rows[0][4]) == 1
    assert all(float(row[4]) > 0 for row in rows)


def test_training_is_timed_with_pages_of_both_sizes(tmp_path):
    page = tmp_path / "huge_pages.md"
    result = run(
        *("-m", "benchmarks.speed.huge_pages", "--configs=configs/published/small_cnn.py"),
        *("--rounds=1", "--seconds=0.1", "--batch_size=4", f"--output={page}"),
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
    )
    assert result.returncode == 0, result.stderr
    small, large = (cells_of(page.read_text(), "small_cnn", pages) for pages in ("small", "large"))
    assert (small[1], small[3]) == ("1.00", "1.00")
    steps = [float(row[0].split()[0].replace(",", "")) for row in (small, large)]
    assert float(large[1]) == pytest.approx(steps[1] / steps[0], abs=0.02)


@pytest.mark.parametrize("benchmark", ["convolution", "huge_pages"])
def test_a_config_that_is_no_file_ends_in_one_line_and_status_2(benchmark):
    result = run("-m", f"benchmarks.{benchmark}", "--configs=nowhere.py")
    assert result.returncode == 2
    assert result.stderr.startswith("error: --configs has nowhere.py")
    assert result.stderr.count("\n") == 1
