"""The memory that a command holds while it runs. Linux only."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

_INTERVAL = 0.05  # seconds between two measurements


def watch(
    command: Sequence[str], at: Callable[[], float] = time.perf_counter
) -> Float[np.ndarray, "looks 2"]:
    """Runs a command to its end, without its standard output.

    If it fails, this process ends with its exit status.

    Returns:
      The value of `at` and the resident MiB at each measurement.
    """
    looks = []
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        if "VmRSS:" in status:  # Missing once the command has ended.
            looks.append((at(), int(status.split("VmRSS:")[1].split()[0]) / 1024))
        time.sleep(_INTERVAL)
    if process.returncode:
        sys.exit(process.returncode)
    return np.array(looks)
