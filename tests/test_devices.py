"""The kernels that compute a training step's convolutions."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from fer_jax.devices import has_bfloat16, supported_dtype
from fer_jax.workdir import read_history

COMPILE = """
from fer_jax import cli
cli.set_up_jax()
import jax, jax.numpy as jnp
from fer_jax.devices import compiler_options
x, kernel = jnp.ones((2, 8, 8, 16)), jnp.ones((3, 3, 16, 16))
convolve = lambda: jax.lax.conv_general_dilated(
    x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
program = jax.jit(convolve, compiler_options=compiler_options()).lower().compile()
print(program.as_text().count("onednn$convolution"))
"""

TRAIN = f"""
import sys
sys.path.append({str(Path(__file__).parent)!r})
import pictures, runpy
pictures.leave_empty()
runpy.run_module("fer_jax.main", run_name="__main__", alter_sys=True)
"""

OFF = "--xla_cpu_experimental_onednn_custom_call=false"

pytestmark = pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"),
    reason="other machines have other libraries",
)


def python(flags, *arguments):
    """Runs Python with these XLA_FLAGS, or none, on one device, which compiles fastest."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment["JAX_NUM_CPU_DEVICES"] = "1"
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment | ({"XLA_FLAGS": flags} if flags else {}),
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.mark.parametrize(("flags", "count"), [(None, "1"), (OFF, "0")])
def test_convolutions_are_onednns_unless_xla_flags_say_otherwise(flags, count):
    assert python(flags, "-c", COMPILE).stdout.strip() == count


def train(tiny_data_dir, workdir, flags, dtype="float32"):
    """Returns a run's output, and the mean loss of its three steps."""
    fast = "--xla_backend_optimization_level=0"  # As in `conftest.py`.
    result = python(
        f"{fast} {flags}",
        *("-c", TRAIN, "--config=configs/cnn.py", f"--workdir={workdir}"),
        *(f"--config.data_dir={tiny_data_dir}", "--config.batch_size=16", "--config.epochs=1"),
        *("--config.steps_per_epoch=3", f"--config.dtype={dtype}"),
        "--config.model.layers=(('conv',8),'max_pool',('conv',16),'max_pool','flatten')",
    )
    assert result.stderr == ""
    return result.stdout, read_history(workdir / "metrics.jsonl")[0]["train_loss"]


@pytest.fixture(scope="module")
def by_xla(tiny_data_dir, tmp_path_factory):
    """Output and loss of a run with bfloat16 requested and XLA's own kernels."""
    return train(tiny_data_dir, tmp_path_factory.mktemp("run") / "xla", OFF, "bfloat16")


def test_a_run_with_onednns_kernels_learns_the_same_and_says_nothing_of_caches(
    by_xla, tiny_data_dir, tmp_path
):
    printed, expected = by_xla
    assert "parameters, float32, on" in printed
    _, loss = train(tiny_data_dir, tmp_path / "onednn", "")
    assert loss == pytest.approx(expected, rel=1e-4)


@pytest.mark.skipif(not has_bfloat16(), reason="the processor is not made for bfloat16")
def test_bfloat16_is_what_a_step_computes_in_where_the_processor_is_made_for_it(
    by_xla, tiny_data_dir, tmp_path
):
    printed, loss = train(tiny_data_dir, tmp_path / "onednn", "", "bfloat16")
    assert "parameters, bfloat16, on" in printed
    assert loss != by_xla[1]
    assert loss == pytest.approx(by_xla[1], rel=1e-2)


def test_what_is_no_training_step_computes_in_float32(monkeypatch):
    """All other programs have XLA's own kernels, which are slow in bfloat16 and gave NaN."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert supported_dtype("bfloat16") == "float32"
    in_training = supported_dtype("bfloat16", training=True)
    assert in_training == ("bfloat16" if has_bfloat16() else "float32")
    monkeypatch.setenv("XLA_FLAGS", OFF)
    assert supported_dtype("bfloat16", training=True) == "float32"
