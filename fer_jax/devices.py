"""One mesh of all devices: the same code for a CPU, a GPU or a pod.

Its axes are `data`, over which batches are split, and `member`, over which the members of an
ensemble are; that one is of length 1 where a single network is trained.
"""

import functools
import math
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fer_jax.errors import UserError


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


def has_bfloat16() -> bool:
    """Returns whether the processor multiplies bfloat16: by AVX512-BF16 or AMX."""
    flags = _processor("flags").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def device_kind() -> str:
    """Returns what JAX computes on by its name, such as "NVIDIA H200" or "AMD EPYC"."""
    kind = jax.devices()[0].device_kind
    return kind if kind != "cpu" else _processor("model name") or platform.machine()


def _processor(what: str) -> str:
    """Returns what Linux says of the first core, or nothing."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(what)), "")


def describe_devices() -> dict[str, Any]:
    """Returns the kind of the devices, their count and that of processes, as config.json has it."""
    return {
        "kind": device_kind(),
        "count": jax.device_count(),
        "processes": jax.process_count(),
    }


def compiler_options() -> dict[str, str | bool]:
    """Returns the compiler's options for a training step, by which XLA computes it fastest.

    On a CPU, x86-64 under Linux: oneDNN for convolutions, YNNPACK for products and sums, see
    `benchmarks/convolution.md`. What calls them cannot be kept in the compilation cache.

    On a GPU: one CUDA graph of all kernels, where XLA by itself leaves out convolutions and loops,
    and kernels that do not need one another side by side in it, see `benchmarks/speed_gpu.md`. It
    must not come from the cache, nor may its choice of algorithms: what of cuDNN's has not run in
    this process yet cannot be recorded, and the choosing is what runs it.

    So they are not worth it for a program that starts often, or compiles longer than it computes,
    such as an evaluation.

    `XLA_FLAGS` goes before where it names one of these. Elsewhere none.
    """
    backend = jax.default_backend()
    known = backend != "cpu" or (platform.system(), platform.machine()) == ("Linux", "x86_64")
    options = _OPTIONS.get(backend, {}) if known else {}
    given = os.environ.get("XLA_FLAGS", "")
    return {} if any(name in given for name in options) else dict(options)


_OPTIONS: dict[str, dict[str, str | bool]] = {
    "cpu": {
        "xla_cpu_experimental_onednn_custom_call": True,
        "xla_cpu_experimental_ynn_fusion_type": (
            "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"
        ),
    },
    "gpu": {
        "xla_gpu_enable_command_buffer": (
            "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,DYNAMIC_SLICE_FUSION,CONVOLUTION,WHILE"
        ),
        "xla_gpu_command_buffer_scheduling_mode": "CONCURRENT",
    },
}


def supported_dtype(dtype: str, *, training: bool = False) -> str:
    """Returns the type to compute in: of bfloat16 on a CPU most often float32.

    There only oneDNN's kernels, which a training step has, are fast at bfloat16, on a processor
    made for it. XLA's own are slow, and under jit gave NaN for some ResNets (jax 0.12.0). As
    parameters are float32 all the same, a network may be trained in one and used in the other.

    Args:
      dtype: of the config.
      training: whether it is for a training step.

    Raises:
      UserError: `dtype` is neither float32 nor bfloat16.
    """
    if dtype not in ("float32", "bfloat16"):
        raise UserError(f"dtype is {dtype!r}; choose float32 or bfloat16")
    supported = jax.default_backend() != "cpu" or (
        training and compiler_options() and has_bfloat16()
    )
    return dtype if supported else "float32"


def create_mesh(*batch_sizes: int, members: int = 1) -> Mesh:
    """Returns the mesh of all devices of all processes, over which these batches must divide.

    As many devices as divide `members` are along its axis `member`, the others along `data`. On
    CPU, where a device is only a way to use a core, the cores left over by a batch are left out.

    Raises:
      UserError: a batch does not divide over the devices.
    """
    devices = jax.devices()
    common = int(np.gcd.reduce(batch_sizes))
    if jax.default_backend() == "cpu" and jax.process_count() == 1:
        count = max(n for n in range(1, len(devices) + 1) if common % n == 0)
        devices = devices[:count]
    if common % len(devices):
        raise UserError(
            f"batches of {' and '.join(map(str, batch_sizes))} do not divide over "
            f"{len(devices)} devices; choose multiples of {len(devices)}"
        )
    along = math.gcd(members, len(devices))
    return jax.make_mesh(
        (along, len(devices) // along),
        ("member", "data"),
        (AxisType.Auto, AxisType.Auto),
        devices=devices,
    )


def on_mesh[T](mesh: Mesh, function: Callable[..., T]) -> Callable[..., T]:
    """Returns `function` as it is traced for a mesh, so that kernels can read the mesh."""

    @functools.wraps(function)
    def traced(*arguments: Any) -> T:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*arguments)

    return traced


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def split_over_devices(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: rows split over all devices."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def to_devices(batch: Mapping[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """Makes the global batch of every process's own rows, laid out as `sharding` says."""
    return {
        name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()
    }
