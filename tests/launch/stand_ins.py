"""What the tests of launching share: the stand-ins' folder, a short run, and how to wait for it."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from compiling import XLAS_OWN

FAKES = Path(__file__).parent / "fakes"
# What the fakes' machines have: JAX believes in a TPU, but computes on one core.
ENVIRONMENT = {
    "JAX_FORCE_TPU_INIT": "1",
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": "1",
    "XLA_FLAGS": XLAS_OWN,
    # Otherwise training starts a new process for its huge pages.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0",
    "FAKE_PYTHON": str(FAKES / "python"),
}
TRAINING = [
    *("--config=cnn", "--config.epochs=6", "--config.steps_per_epoch=2"),
    *("--config.batch_size=16", "--config.eval_batch_size=14"),
    *("--config.train_split=train", "--config.validation_split=public_test"),
    "--config.model.layers=(('conv', 4), ('max_pool', 8), 'flatten')",
]
"""A run of 6 short epochs: long enough to lose a host in."""


def until(
    reached: Callable[[], object], process: subprocess.Popen | None = None, seconds: float = 240
) -> None:
    """Waits for something, which must come while a process runs."""
    end = time.monotonic() + seconds
    while not reached():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.05)


def epochs(workdir: Path) -> list[int]:
    """Returns the epochs that a run has written."""
    file = workdir / "metrics.jsonl"
    if not file.is_file():
        return []
    return [json.loads(line)["epoch"] for line in file.read_text().splitlines()]
