"""What lets XLA use a CPU well, and which CPU it is."""

import os
import platform
from pathlib import Path

import jax


def use_cores() -> None:
    """Makes each core a device; call it before JAX is used.

    XLA runs many small kernels on one core whatever the number of its threads; one device a core
    on the data axis trained a small network 1.4 times as fast. `JAX_NUM_CPU_DEVICES` and
    `XLA_FLAGS` go before.
    """
    forced = "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if "JAX_NUM_CPU_DEVICES" not in os.environ and not forced:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        jax.config.update("jax_num_cpu_devices", cores)


def device_kind() -> str:
    """Returns what JAX computes on by its name, such as "NVIDIA H200" or "AMD EPYC"."""
    kind = jax.devices()[0].device_kind
    if kind != "cpu":
        return kind
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
