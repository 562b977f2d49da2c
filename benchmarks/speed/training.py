"""Training on random images in memory, ready to be timed."""

import functools
import time
from collections.abc import Callable, Mapping
from typing import override

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from ml_collections import ConfigDict

from fer_jax.data.augment import Augmentation
from fer_jax.data.contract import IMAGE_SIZE
from fer_jax.data.records import Records
from fer_jax.devices import create_mesh, split_over_devices, supported_dtype, to_devices
from fer_jax.inference.probabilities import make_predict
from fer_jax.kernels.context import convolutions
from fer_jax.models import create_model
from fer_jax.models.functional import abstract_network
from fer_jax.training.ensemble import Members
from fer_jax.training.input import INPUTS, Input
from fer_jax.training.optimizer import create_optimizer, create_schedule
from fer_jax.training.programs import Losses, Programs, steps_per_call
from fer_jax.training.step import FiniteLosses, TrainState, create_state, make_train_step

Advance = Callable[[TrainState, int], tuple[TrainState, Losses, int]]
"""Takes steps, see `Programs.advance`."""


class Training:
    """A config's training on random images.

    Attributes:
      members: the networks that are trained together.
    """

    def __init__(self, config: ConfigDict, *, images: int, batch_size: int, members: int = 1):
        self.members = Members(members, create_mesh(batch_size, members=members))
        schedule = create_schedule(config, steps_per_epoch=1_000, total_steps=100_000)
        optimizer = create_optimizer(config, schedule)
        build = _build(config)
        graph, _, _ = abstract_network(build, self.members.mesh)
        seeds = range(members)
        self._state = create_state(build, optimizer, None, members=self.members, seeds=seeds)
        self._step = make_train_step(graph, optimizer, class_weights=np.ones(7, np.float32))

        rng = np.random.default_rng(0)
        shape = (-1, IMAGE_SIZE, IMAGE_SIZE, 1)
        pixels = np.frombuffer(rng.bytes(images * IMAGE_SIZE**2), np.uint8).reshape(shape)
        labels = rng.integers(0, 7, images).astype(np.int32)
        self._inputs = {
            name: functools.partial(
                create,
                Records(labels, [""] * images, pixels.__getitem__),
                batch_size=batch_size,
                seeds=seeds,
                augmentation=Augmentation.from_config(config),
                members=self.members,
            )
            for name, create in {**INPUTS, "one batch": OneBatch}.items()
        }
        self._images_per_step = batch_size * members

    def compile(self, source: str, options: Mapping[str, str | bool] | None = None) -> Advance:
        """Compiles the program that a run has.

        Args:
          source: a `config.input`, or "one batch".
          options: options of the compiler, see `Programs`.
        """
        return Programs(
            self._step,
            self._state,
            self._inputs[source](),
            self.members,
            ahead=steps_per_call(),
            options=options,
        ).advance

    def call(self, advance: Advance) -> float:
        """Returns the seconds that the steps of one call take."""
        started = time.perf_counter()
        self._state, *_ = jax.block_until_ready(advance(self._state, steps_per_call()))
        return time.perf_counter() - started

    def rate(self, advance: Advance, seconds: float) -> float:
        """Returns images/s of all members over about `seconds`, after two calls to warm up."""
        losses = FiniteLosses()  # As in a run, late reads bound how far the host gets ahead.
        calls, steps, started = -2, 0, 0.0
        while calls < 1 or time.perf_counter() - started < seconds:
            if calls == 0:
                jax.block_until_ready(self._state)
                steps, started = 0, time.perf_counter()
            self._state, latest, taken = advance(self._state, steps_per_call())
            losses.add(steps, latest)
            calls, steps = calls + 1, steps + taken
        jax.block_until_ready(self._state)
        return steps * self._images_per_step / (time.perf_counter() - started)


class OneBatch(Input):
    """The first batch over and over, for a single network: what remains is the step itself."""

    shared = ()

    def __init__(self, records: Records, *, batch_size: int, members: Members, **_: object):
        rows = np.arange(batch_size)
        batch = {"image": records.read(rows), "label": records.labels[rows]}
        self._arguments = [to_devices(batch, split_over_devices(members.mesh))]

    @override
    def next(self, count):
        return self._arguments

    @override
    def abstract(self, count):
        return self._arguments

    @override
    def trace(self, count, step, batch):
        return jnp.arange(count), lambda step, item: batch


def forward_flops(config: ConfigDict, batch_size: int) -> float:
    """Returns XLA's count of a forward pass; a backward pass takes twice as many.

    Chowdhery et al., "PaLM", 2022, appendix B. Convolutions count by their definition, however few
    multiplications our forms of them take. The count is always a CPU's: only there XLA counts
    before it optimises, which turns convolutions into calls that it does not count.
    """
    devices = jax.devices("cpu")[:1]
    mesh = jax.make_mesh((1, 1), ("member", "data"), 2 * (AxisType.Auto,), devices=devices)
    graph, params, statistics = abstract_network(_build(config), mesh)
    batch = jax.ShapeDtypeStruct((batch_size, IMAGE_SIZE, IMAGE_SIZE, 1), np.uint8)
    with convolutions():
        lowered = make_predict(graph, mesh).lower(params, statistics, batch)  # type: ignore[attr-defined]
    return lowered.cost_analysis()["flops"]


def _build(config: ConfigDict) -> Callable:
    dtype = supported_dtype(config.dtype, training=True)
    return functools.partial(create_model, config.model, num_classes=7, dtype=dtype)
