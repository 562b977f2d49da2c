"""Our side of `benchmarks.speed`: times one network.

Prints that it is ready, then for each line that it reads one of JSON.
"""

import functools
import json
import resource
import runpy
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh
from ml_collections import ConfigDict

from fer_jax import cli
from fer_jax.data.augment import Augmentation
from fer_jax.data.records import Records
from fer_jax.devices import (
    compiler_options,
    create_mesh,
    device_kind,
    replicated,
    split_over_devices,
    supported_dtype,
    to_devices,
)
from fer_jax.inference.probabilities import make_predict
from fer_jax.kernels.context import convolutions
from fer_jax.models import create_model
from fer_jax.models.functional import abstract_network
from fer_jax.training.ensemble import Members
from fer_jax.training.input import INPUTS
from fer_jax.training.optimizer import create_optimizer, create_schedule
from fer_jax.training.programs import Losses, Programs, steps_per_call
from fer_jax.training.step import FiniteLosses, TrainState, create_state, make_train_step

IMAGES = 20_000

Advance = Callable[[TrainState, int], tuple[TrainState, Losses, int]]
"""Takes steps, see `Programs.advance`."""

# Dense bfloat16, as the maker states it.
_PEAK_FLOPS = {"NVIDIA H200": 989e12, "NVIDIA H100": 989e12, "NVIDIA A100": 312e12}


class Training:
    """A config's training on random images, ready to be timed.

    Attributes:
      members: `members` of them.
      flops_per_image: of the network in one step.
    """

    def __init__(self, config: ConfigDict, *, images: int, batch_size: int, members: int = 1):
        self._batch_size = batch_size
        self.members = Members(members, create_mesh(batch_size, members=members))
        self._augmentation = Augmentation.from_config(config)
        optimizer = create_optimizer(
            config, create_schedule(config, steps_per_epoch=1_000, total_steps=100_000)
        )
        dtype = supported_dtype(config.dtype, training=True)
        build = functools.partial(create_model, config.model, num_classes=7, dtype=dtype)
        graph, _, _ = abstract_network(build, self.members.mesh)
        self._seeds = range(members)
        self._state = create_state(build, optimizer, None, members=self.members, seeds=self._seeds)
        self._step = make_train_step(graph, optimizer, class_weights=np.ones(7, np.float32))
        self.flops_per_image = 3 * _forward_flops(build, batch_size) / batch_size

        rng = np.random.default_rng(0)
        pixels = np.frombuffer(rng.bytes(images * 48 * 48), np.uint8).reshape(-1, 48, 48, 1)
        labels = rng.integers(0, 7, images).astype(np.int32)
        self._records = Records(labels, [""] * images, pixels.__getitem__)

    def feed(self, source: str, options: Mapping[str, str | bool] | None = None) -> Advance:
        """Returns what takes steps as training does with this `config.input`."""
        batches = INPUTS[source](
            self._records,
            batch_size=self._batch_size,
            seeds=self._seeds,
            augmentation=self._augmentation,
            members=self.members,
        )
        programs = Programs(
            self._step, self._state, batches, self.members, ahead=steps_per_call(), options=options
        )
        return programs.advance

    def one_batch(self, compiler_options: Mapping[str, str | bool]) -> Advance:
        """Returns what takes steps, as many by a call as training does, on one and the same batch.

        Of a single member.
        """
        rows, count = np.arange(self._batch_size), steps_per_call()
        batch = {"image": self._records.read(rows), "label": self._records.labels[rows]}
        on_devices = to_devices(batch, split_over_devices(self.members.mesh))

        def steps(state, batch):
            if count > 1:
                return jax.lax.scan(lambda state, _: self._step(state, batch), state, length=count)
            state, loss = self._step(state, batch)
            return state, loss[None]

        compiled = jax.jit(
            steps,
            donate_argnums=0,
            out_shardings=self.members.state_sharding,
            compiler_options=compiler_options,
        )
        return lambda state, _: (*compiled(state, on_devices), count)

    def first_step(self, make: Callable[[], Advance]) -> tuple[Advance, float]:
        """Returns what `make` makes, and the seconds until it has been compiled and has stepped."""
        started = time.perf_counter()
        advance = make()
        self.advance(advance)
        return advance, time.perf_counter() - started

    def advance(self, advance: Advance) -> None:
        """Takes steps by one call, and waits for their end."""
        self._state, *_ = jax.block_until_ready(advance(self._state, steps_per_call()))

    def rate(self, advance: Advance, seconds: float) -> float:
        """Returns images/s, of members together, over about `seconds`, after two calls before."""
        losses = FiniteLosses()  # Read late, as in training, which bounds how far ahead we get.
        calls, steps, started = -2, 0, 0.0
        while calls < 1 or time.perf_counter() - started < seconds:
            if calls == 0:
                jax.block_until_ready(self._state)
                steps, started = 0, time.perf_counter()
            self._state, latest, taken = advance(self._state, steps_per_call())
            losses.add(steps, latest)
            calls, steps = calls + 1, steps + taken
        jax.block_until_ready(self._state)
        images = steps * self._batch_size * self.members.count
        return images / (time.perf_counter() - started)


def main(job: dict) -> None:
    """Times what `job`, of `benchmarks.speed`, asks for."""
    cli.use_huge_pages()
    cli.set_up_jax()
    jax.config.update("jax_enable_compilation_cache", False)  # The first step is to compile.
    config = runpy.run_path(job["config"])["get_config"]()
    # As the peers, of which PyTorch has AMP on a GPU; they augment by shift and flip alone.
    config.optimizer = "adam"
    config.rotation, config.crop, config.erasing = 0.0, 1.0, 0.0
    config.dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    size, seconds = job["batch_size"], job["seconds"]
    training = Training(config, images=IMAGES, batch_size=size)
    one_batch, _ = training.first_step(lambda: training.one_batch(compiler_options()))
    trained = {name: (training, training.first_step(make)) for name, make in _ways(training)}
    if job["members"] > 1 and jax.default_backend() != "cpu":
        ensemble = Training(config, images=IMAGES, batch_size=size, members=job["members"])
        first = ensemble.first_step(lambda: ensemble.feed("device"))
        trained[f'fer_jax, input = "device", {job["members"]} members'] = (ensemble, first)
    print("ready", flush=True)
    for _ in sys.stdin:
        step = training.rate(one_batch, seconds)
        rows = {}
        for name, (who, (advance, first_step)) in trained.items():
            rows[name] = {
                "first_step": first_step,
                "step": step,
                "end_to_end": who.rate(advance, seconds),
                "peak_mib": _peak_memory() / 2**20,
            }
        print(json.dumps({"rows": rows, **_facts(config, training)}), flush=True)


def _ways(training: Training) -> Iterator[tuple[str, Callable[[], Advance]]]:
    """Yields the name of each way to train, and what makes it."""
    yield "fer_jax", lambda: training.feed("host")
    yield 'fer_jax, input = "device"', lambda: training.feed("device")
    if jax.default_backend() == "gpu":
        yield 'fer_jax, input = "device", XLA\'s options', lambda: training.feed("device", {})


def _facts(config: ConfigDict, training: Training) -> dict[str, Any]:
    """Returns what was timed on what."""
    mesh = training.members.mesh
    result: dict[str, Any] = {
        "version": f"fer_jax on jax {jax.__version__}",
        "dtype": config.dtype,
        "hardware": hardware(),
        "flops_per_image": training.flops_per_image,
    }
    if jax.default_backend() == "cpu":
        peak = _measure_peak(mesh)
        result["peak"] = f"that of a large float32 product in the same turn, {peak / 1e9:,.0f} here"
        result["memory"] = "the process's"
    else:
        kind = jax.devices()[0].device_kind
        peak = mesh.size * next((flops for name, flops in _PEAK_FLOPS.items() if name in kind), 0)
        result["peak"] = f"the maker's for dense bfloat16, {peak / 1e9:,.0f}"
        result["memory"] = "the device's"
    return result | {"peak_flops": peak}


def _forward_flops(build: Callable[..., nnx.Module], batch_size: int) -> float:
    """Returns what XLA counts of a forward pass; backward is twice as much.

    Chowdhery et al., "PaLM", 2022, appendix B. For the CPU, whatever else there is: only there are
    operations counted before XLA optimises, which turns convolutions into calls it does not count.
    By their definition, however few multiplications our own take.
    """
    axes, types = ("member", "data"), 2 * (AxisType.Auto,)
    mesh = jax.make_mesh((1, 1), axes, types, devices=jax.devices("cpu")[:1])
    graph, params, statistics = abstract_network(build, mesh)
    batch = jax.ShapeDtypeStruct((batch_size, 48, 48, 1), np.uint8)
    with convolutions():
        return make_predict(graph, mesh).lower(params, statistics, batch).cost_analysis()["flops"]


def hardware() -> str:
    """Returns what JAX computes on, in words."""
    return f"{jax.device_count()} x {device_kind()}"


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
