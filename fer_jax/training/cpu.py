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


def kernels() -> dict[str, str | bool]:
    """Returns the compiler's options for a training step, by which XLA computes it fastest.

    On x86-64 under Linux: oneDNN for convolutions, YNNPACK for products and sums, see
    `benchmarks/convolution.md`. `XLA_FLAGS` goes before where it names either. Elsewhere none.

    What is compiled by them cannot be kept in the compilation cache: not worth it for a program
    that starts often, or compiles longer than it computes, such as an evaluation.
    """
    products_and_sums = "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    options: dict[str, str | bool] = {
        "xla_cpu_experimental_onednn_custom_call": True,
        "xla_cpu_experimental_ynn_fusion_type": products_and_sums,
    }
    given = os.environ.get("XLA_FLAGS", "")
    known = (platform.system(), platform.machine()) == ("Linux", "x86_64")
    if jax.default_backend() != "cpu" or not known or any(name in given for name in options):
        return {}
    return options


def device_kind() -> str:
    """Returns what JAX computes on by its name, such as "NVIDIA H200" or "AMD EPYC"."""
    kind = jax.devices()[0].device_kind
    if kind != "cpu":
        return kind
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
