"""Our side of `benchmarks.speed`: times one network.

It prints that it is ready, then one line of JSON for each line that it reads.
"""

import json
import resource
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from benchmarks import record
from benchmarks.speed.training import Training, Way, forward_flops
from fer_jax import cli
from fer_jax.config import load_config
from fer_jax.devices import compiler_options, replicated, split_over_devices

IMAGES = 20_000

# For dense bfloat16, as stated by the maker.
_PEAK_FLOPS = {"NVIDIA H200": 989e12, "NVIDIA H100": 989e12, "NVIDIA A100": 312e12}


def main(job: Mapping[str, Any]) -> None:
    """Times a job, see `benchmarks.speed.sides`."""
    cli.use_huge_pages()
    cli.set_up_jax()
    jax.config.update("jax_enable_compilation_cache", False)  # The first step includes compilation.
    config = load_config(job["config"])
    # As the peers: they augment by shift and flip alone, and PyTorch has AMP on a GPU.
    config.optimizer = "adam"
    config.rotation, config.crop, config.erasing = 0.0, 1.0, 0.0
    config.dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    size, seconds = job["batch_size"], job["seconds"]
    training = Training(config, images=IMAGES, batch_size=size)
    options = compiler_options()
    if job.get("without_ynnpack"):
        options["xla_cpu_experimental_ynn_fusion_type"] = ""
    ways = {"fer_jax": Way(training, "host", options)}
    if not job.get("host_only"):
        ways['fer_jax, input = "device"'] = Way(training, "device", options)
        if jax.default_backend() == "gpu":
            ways['fer_jax, input = "device", XLA\'s options'] = Way(training, "device", {})
        if job.get("members", 1) > 1 and jax.default_backend() != "cpu":
            members = job["members"]
            ensemble = Training(config, images=IMAGES, batch_size=size, members=members)
            ways[f'fer_jax, input = "device", {members} members'] = Way(ensemble, "device")
    facts = {
        "version": f"fer_jax on jax {jax.__version__}",
        "dtype": config.dtype,
        "hardware": record.machine(),
        "flops_per_image": 3 * forward_flops(config, size) / size,
    }
    print("ready", flush=True)
    for _ in sys.stdin:
        step = ways["fer_jax"].rate(seconds, repeat=True)
        rows = {
            name: {
                "first_step": way.first_step,
                "step": step,
                "end_to_end": way.rate(seconds),
                "peak_mib": _peak_memory() / 2**20,
            }
            for name, way in ways.items()
        }
        print(json.dumps({"rows": rows, **facts, **_limits(training.members.mesh)}), flush=True)


def _limits(mesh: Mesh) -> dict[str, Any]:
    """Returns the devices' peak FLOP/s, and how this peak and the peak memory are defined."""
    if jax.default_backend() == "cpu":
        peak = _measure_peak(mesh)
        words = f"that of a large float32 product in the same turn, {peak / 1e9:,.0f} here"
        return {"peak_flops": peak, "peak": words, "memory": "the process's"}
    kind = jax.devices()[0].device_kind
    peak = mesh.size * next((flops for name, flops in _PEAK_FLOPS.items() if name in kind), 0)
    words = f"the maker's for dense bfloat16, {peak / 1e9:,.0f}"
    return {"peak_flops": peak, "peak": words, "memory": "the device's"}


def _peak_memory() -> int:
    """Returns the peak memory of the device, in bytes; on a CPU, that of the process."""
    if on_device := jax.devices()[0].memory_stats():
        return on_device["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _measure_peak(mesh: Mesh, size: int = 2048) -> float:
    """Returns the FLOP/s of the fastest of five matrix products, with rows split over devices."""
    placements = (split_over_devices(mesh), replicated(mesh))
    product = jax.jit(jnp.matmul, in_shardings=placements, out_shardings=placements[0])
    matrices = [jax.device_put(np.ones((size, size), np.float32), place) for place in placements]
    jax.block_until_ready(product(*matrices))
    times = []
    for _ in range(5):
        started = time.perf_counter()
        jax.block_until_ready(product(*matrices))
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
