"""The machine: its devices as one mesh, its cores, its number types and the compiler's options.

The same code runs on a CPU, a GPU or a pod. The mesh has two axes: batches are split over `data`,
and the members of an ensemble over `member`, which has length 1 for a single network.
"""

import contextlib
import ctypes
import functools
import math
import os
import platform
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fer_jax.errors import UserError


def use_cores() -> None:
    """Makes each core a device; call it before JAX is used.

    XLA runs many small kernels on one core, however many threads it has. With one device per core
    a small network trained 1.4 times as fast. `JAX_NUM_CPU_DEVICES` and `XLA_FLAGS` take
    precedence.
    """
    forced = "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if "JAX_NUM_CPU_DEVICES" not in os.environ and not forced:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        jax.config.update("jax_num_cpu_devices", cores)


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16, by AVX512-BF16 or AMX."""
    flags = _processor("flags").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def device_kind() -> str:
    """Returns the name of the hardware that JAX uses, such as "NVIDIA H200" or "AMD EPYC"."""
    kind = jax.devices()[0].device_kind
    return kind if kind != "cpu" else _processor("model name") or platform.machine()


def _processor(what: str) -> str:
    """Returns one entry of Linux's description of the first core, or ""."""
    lines = _read(Path("/proc/cpuinfo")).splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(what)), "")


def describe_devices() -> dict[str, Any]:
    """Returns the kind and count of the devices, and the count of processes, for config.json."""
    return {
        "kind": device_kind(),
        "count": jax.device_count(),
        "processes": jax.process_count(),
    }


def compiler_options() -> dict[str, str | bool]:
    """Returns the compiler options with which XLA computes a training step fastest.

    * On a CPU, x86-64 under Linux: oneDNN for convolutions, YNNPACK for products and sums, see
      `benchmarks/speed/convolution.md`; and the order of operations that takes the least memory.
      By default XLA starts operations as early as their inputs allow, for cores that would be
      idle. Here each core is a device, and none is idle.
    * On a GPU: one CUDA graph of all kernels, and independent kernels in parallel inside it. By
      default XLA leaves convolutions and loops out of the graph. See
      `benchmarks/speed/speed_gpu.md`.
    * Elsewhere, or where `XLA_FLAGS` names one of these options: none.

    Programs with these options are not kept in the compilation cache, see `compile_outside_cache`.
    So the options do not pay off in programs that compile for longer than they run.
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
        "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
    },
    "gpu": {
        "xla_gpu_enable_command_buffer": (
            "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,DYNAMIC_SLICE_FUSION,CONVOLUTION,WHILE"
        ),
        "xla_gpu_command_buffer_scheduling_mode": "CONCURRENT",
    },
}


def compile_outside_cache(
    lowered: jax.stages.Lowered, options: Mapping[str, str | bool]
) -> jax.stages.Compiled:
    """Compiles with options of `compiler_options`; without any, JAX's compilation cache is used.

    On a CPU the calls to oneDNN cannot be stored. On a GPU a CUDA graph cannot capture a cuDNN
    kernel that has not run yet in this process, because CUDA loads it lazily. Autotuning runs it,
    and a cached program skips autotuning.
    """
    with _without_cache() if options else contextlib.nullcontext():
        return lowered.compile(compiler_options=dict(options))


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
    """Compiles without JAX's compilation cache; one thread after the other."""
    with _setting:
        enabled = jax.config.jax_enable_compilation_cache
        _use_cache(False)
        try:
            yield
        finally:
            _use_cache(enabled)


def _use_cache(enabled: bool) -> None:
    jax.config.update("jax_enable_compilation_cache", enabled)
    compilation_cache.reset_cache()  # Otherwise JAX keeps the setting that it read first.


_setting = threading.Lock()


def supported_dtype(dtype: str, *, training: bool = False) -> str:
    """Returns the type to compute in; on most CPUs bfloat16 falls back to float32.

    On a CPU only oneDNN's kernels are fast in bfloat16, on a processor that supports it, and only
    training steps use them. XLA's own kernels are slow, and under jit gave NaN for some ResNets
    (jax 0.12.0). Parameters are float32 in either case, so a network can be trained in one type
    and used in the other.

    Args:
      dtype: the config's type.
      training: whether the type is for a training step.

    Raises:
      UserError: `dtype` is neither float32 nor bfloat16.
    """
    if dtype not in ("float32", "bfloat16"):
        raise UserError(f"dtype is {dtype!r}; choose float32 or bfloat16")
    supported = jax.default_backend() != "cpu" or (
        training and compiler_options() and has_bfloat16()
    )
    return dtype if supported else "float32"


def free_memory() -> int | None:
    """Returns the bytes of memory that a run can still have, or None if that is unknown.

    On a GPU or TPU: those of one device. On a CPU: those of the machine that are available, with
    swap, but at most those of the container.
    """
    if jax.default_backend() != "cpu":
        facts = jax.local_devices()[0].memory_stats() or {}
        return (
            facts["bytes_limit"] - facts.get("bytes_in_use", 0) if "bytes_limit" in facts else None
        )
    limits = [
        int(text)
        for path in ("memory.max", "memory/memory.limit_in_bytes")
        if (text := _read(Path("/sys/fs/cgroup", path)).strip()).isdecimal()
    ]
    free = re.findall(r"^(?:MemAvailable|SwapFree): *(\d+) kB", _read(Path("/proc/meminfo")), re.M)
    if free:
        limits.append(1024 * sum(map(int, free)))
    return min(limits, default=None)


def return_freed_memory() -> None:
    """Gives the system the memory that was freed; only the GNU C library keeps it otherwise."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


@contextlib.contextmanager
def memory_errors(advice: str) -> Iterator[None]:
    """Turns an error of a device or host that has no memory left into a `UserError` with advice."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        reason = " ".join(str(error).split())
        if not isinstance(error, MemoryError) and not _OUT_OF_MEMORY.search(reason):
            raise
        raise UserError(f"memory ran out: {reason[:200]}; {advice}") from error


_OUT_OF_MEMORY = re.compile("RESOURCE_EXHAUSTED|[Oo]ut of memory")


def create_mesh(*batch_sizes: int, members: int = 1, accumulate: int = 1) -> Mesh:
    """Returns the mesh of all devices of all processes, over which batches of these sizes divide.

    The length of the axis `member` is the greatest common divisor of `members` and the number of
    devices; the axis `data` has the rest. On the CPU of a single process, where each device is a
    core, the mesh takes the largest number of cores that divides all batches. The first batch is
    computed in `accumulate` micro-batches, each of which divides over the devices.

    Raises:
      UserError: a batch does not divide over the devices.
    """
    devices = jax.devices()
    common = int(np.gcd.reduce([batch_sizes[0] // accumulate, *batch_sizes[1:]]))
    if jax.default_backend() == "cpu" and jax.process_count() == 1:
        count = max(n for n in range(1, len(devices) + 1) if common % n == 0)
        devices = devices[:count]
    if common % len(devices):
        names = [str(size) for size in batch_sizes]
        if accumulate > 1:
            names[0] += f" / {accumulate}"
        raise UserError(
            f"batches of {' and '.join(names)} do not divide over "
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
    """Returns `function`, traced in the context of a mesh, so that kernels can read the mesh."""

    @functools.wraps(function)
    def traced(*arguments: Any) -> T:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*arguments)

    return traced


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that replicates an array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_over_devices(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: rows split over all devices."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def to_devices(batch: Mapping[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """Returns the global batch, made from each process's own rows, with this sharding."""
    return {
        name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()
    }
