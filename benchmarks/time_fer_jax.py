"""Our side of `benchmarks.speed`: times one network, and prints one line of JSON."""

import functools
import json
import platform
import resource
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fer_jax.cli import set_up_jax
from fer_jax.data.augment import Augmentation
from fer_jax.data.pipeline import training_batches
from fer_jax.data.records import Records
from fer_jax.models import create_model
from fer_jax.training.mesh import (
    create_mesh,
    replicated,
    split_over_devices,
    supported_dtype,
    to_devices,
)
from fer_jax.training.optimizer import create_optimizer, create_schedule
from fer_jax.training.prediction import abstract_network, make_predict
from fer_jax.training.step import FiniteLosses, create_state, make_train_step

IMAGES = 20_000

# Dense bfloat16, as the maker states it.
_PEAK_FLOPS = {"NVIDIA H200": 989e12, "NVIDIA H100": 989e12, "NVIDIA A100": 312e12}


class Training:
    """A config's training on random images, ready to be timed.

    Attributes:
      mesh: of all devices.
      flops_per_image: of the network in one step.
    """

    def __init__(self, config: ConfigDict, *, images: int, batch_size: int):
        self._batch_size = batch_size
        self.mesh = create_mesh(batch_size)
        optimizer = create_optimizer(
            config, create_schedule(config, steps_per_epoch=1_000, total_steps=100_000)
        )
        build = functools.partial(
            create_model, config.model, num_classes=7, dtype=supported_dtype(config.dtype)
        )
        graph, params, statistics = abstract_network(build, self.mesh)
        self._state = create_state(build, optimizer, None, seed=0, mesh=self.mesh)
        ones = np.ones(7, np.float32)
        self._step = make_train_step(
            graph, optimizer, label_smoothing=0.0, class_weights=ones, mesh=self.mesh
        )
        # Backward is twice forward: Chowdhery et al., "PaLM", 2022, appendix B. Counted before XLA
        # optimises, which on a GPU turns convolutions into calls that it does not count.
        batch = jax.ShapeDtypeStruct((batch_size, 48, 48, 1), np.uint8)
        forward = make_predict(graph, self.mesh).lower(params, statistics, batch)
        self.flops_per_image = 3 * forward.cost_analysis()["flops"] / batch_size

        rng = np.random.default_rng(0)
        pixels = np.frombuffer(rng.bytes(images * 48 * 48), np.uint8).reshape(-1, 48, 48, 1)
        labels = rng.integers(0, 7, images).astype(np.int32)
        self._batches = training_batches(
            Records(labels, [""] * images, pixels.__getitem__),
            batch_size=batch_size,
            seed=0,
            augmentation=Augmentation.from_config(config),
        )

    def draw(self) -> dict[str, jax.Array]:
        """Returns the next batch, augmented and on the devices."""
        return to_devices(next(self._batches), self.mesh)

    def first_step(self) -> float:
        """Returns the seconds that a step takes when it has yet to be compiled."""
        batch, started = self.draw(), time.perf_counter()
        self._state, _ = jax.block_until_ready(self._step(self._state, batch))
        return time.perf_counter() - started

    def rate(self, draw: Callable[[], dict[str, jax.Array]], seconds: float) -> float:
        """Returns images/s over about `seconds`, after two steps to warm up."""
        losses = FiniteLosses()  # Read late, as in training, which bounds how far ahead we get.
        steps, started = -2, 0.0
        while steps < 1 or time.perf_counter() - started < seconds:
            if steps == 0:
                jax.block_until_ready(self._state)
                started = time.perf_counter()
            self._state, loss = self._step(self._state, draw())
            losses.add(steps, loss)
            steps += 1
        jax.block_until_ready(self._state)
        return steps * self._batch_size / (time.perf_counter() - started)


def main(job: dict) -> None:
    """Times what `job`, of `benchmarks.speed`, asks for."""
    set_up_jax()
    jax.config.update("jax_enable_compilation_cache", False)  # The first step is to compile.
    config = runpy.run_path(job["config"])["get_config"]()
    config.optimizer = "adam"  # As the peers.
    config.dtype = "bfloat16"  # Where the device is made for it.
    training = Training(config, images=IMAGES, batch_size=job["batch_size"])
    first_step, batch = training.first_step(), training.draw()
    row = {
        "first_step": first_step,
        "step": training.rate(lambda: batch, job["seconds"]),
        "end_to_end": training.rate(training.draw, job["seconds"]),
        "peak_mib": _peak_memory() / 2**20,
    }
    result = {
        "rows": {"fer_jax": row},
        "version": f"fer_jax on jax {jax.__version__}",
        "dtype": supported_dtype(config.dtype),
        "hardware": hardware(),
        "flops_per_image": training.flops_per_image,
    }
    if jax.default_backend() == "cpu":
        peak = _measure_peak(training.mesh)
        result["peak"] = f"that of a large float32 product in the same turn, {peak / 1e9:,.0f} here"
        result["memory"] = "the process's"
    else:
        peak = training.mesh.size * _PEAK_FLOPS.get(jax.devices()[0].device_kind, 0)
        result["peak"] = f"the maker's for dense bfloat16, {peak / 1e9:,.0f}"
        result["memory"] = "the device's"
    print(json.dumps(result | {"peak_flops": peak}))


def hardware() -> str:
    """Returns what JAX computes on, in words."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{jax.device_count()} x {device.device_kind}"
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{jax.device_count()} cores of {models[0] if models else platform.machine()}"


def _peak_memory() -> int:
    """Returns bytes: of the device, or on a CPU those that the process held at most."""
    if on_device := jax.devices()[0].memory_stats():
        return on_device["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _measure_peak(mesh: Mesh, size: int = 2048) -> float:
    """Returns the most FLOP/s of five products of matrices, its rows split over the devices."""
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
