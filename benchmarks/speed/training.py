"""Training on random images in memory, ready to be timed."""

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, override

import jax
import numpy as np
from jax.sharding import AxisType
from jaxtyping import UInt8
from ml_collections import ConfigDict

from fer_jax.data.augment import Augmentation
from fer_jax.data.contract import IMAGE_SIZE, ImageFormat
from fer_jax.data.records import Records
from fer_jax.devices import create_mesh, split_over_devices, supported_dtype
from fer_jax.inference.probabilities import compile_for_records, make_predict
from fer_jax.kernels.context import convolutions
from fer_jax.models import create_model
from fer_jax.models.functional import abstract_network
from fer_jax.training.ensemble import Members, member_configs, swept_values
from fer_jax.training.input import DeviceInput, HostInput
from fer_jax.training.optimizer import create_optimizer, create_schedule
from fer_jax.training.programs import Programs, steps_per_call
from fer_jax.training.step import STEP_KNOBS, FiniteLosses, create_state, make_train_step


class Training:
    """A config's training on random images, or on given ones.

    Attributes:
      members: number and layout of the networks.
      state: state of all members.
      step: one network's step.
      inputs: functions that open the batches of each `config.input`.
      images_per_step: number of images in a step of all members.
    """

    def __init__(
        self,
        config: ConfigDict,
        *,
        images: int | Records,
        batch_size: int,
        members: int = 1,
    ):
        """Trains `members` networks; with `config.sweep`, as many of each of its settings."""
        config = config.copy_and_resolve_references()
        config.ensemble = members
        configs = member_configs(config)
        swept = swept_values(configs)
        members = len(configs)
        self.members = Members(members, create_mesh(batch_size, members=members))
        schedule = create_schedule(config, steps_per_epoch=1_000, total_steps=100_000)
        optimizer = create_optimizer(config, schedule, swept)
        build = _build(config)
        graph, _, _ = abstract_network(build, self.members.mesh)
        self._graph = graph
        seeds = range(members)
        self.state = create_state(
            *(build, optimizer, None),
            members=self.members,
            seeds=seeds,
            rate_scales=[rate / config.learning_rate for rate in swept.get("learning_rate", ())],
            knobs={knob: swept[knob] for knob in STEP_KNOBS if knob in swept},
        )
        self.step = make_train_step(graph, optimizer, class_weights=np.ones(7, np.float32))

        records = random_records(images) if isinstance(images, int) else images
        self.inputs = {
            name: functools.partial(
                create,
                records,
                batch_size=batch_size,
                seeds=seeds,
                augmentation=[Augmentation.from_config(member) for member in configs],
                members=self.members,
            )
            for name, create in (("host", _HostInput), ("device", DeviceInput))
        }
        self.images_per_step = batch_size * members

    def evaluation_rate(self, images: UInt8[np.ndarray, "batch size size 1"], views: str) -> float:
        """Returns images/s of a single network's evaluation, from four batches of `images`."""
        batch = jax.device_put(images, split_over_devices(self.members.mesh))
        network = self.state.network
        predict = compile_for_records(
            make_predict(self._graph, self.members.mesh, views),
            *((network["params"], network["statistics"]), len(images), ImageFormat()),
            batch_size=len(images),
            mesh=self.members.mesh,
        )
        jax.block_until_ready(predict(network["params"], network["statistics"], batch))
        started = time.perf_counter()
        for _ in range(4):
            found = predict(network["params"], network["statistics"], batch)
        jax.block_until_ready(found)
        return 4 * len(images) / (time.perf_counter() - started)


def random_records(images: int) -> Records:
    """Returns random images and labels, in memory."""
    rng = np.random.default_rng(0)
    shape = (-1, IMAGE_SIZE, IMAGE_SIZE, 1)
    pixels = np.frombuffer(rng.bytes(images * IMAGE_SIZE**2), np.uint8).reshape(shape)
    labels = rng.integers(0, 7, images).astype(np.int32)
    return Records(labels, [""] * images, pixels.__getitem__)


class Way:
    """A way to take a training's steps: the programs of a run, and an input.

    Attributes:
      first_step: seconds from the compilation to the end of the first step.
    """

    def __init__(
        self,
        training: Training,
        source: str,
        options: Mapping[str, str | bool] | None = None,
        *,
        meet: Callable[[], None] = lambda: None,
    ):
        """Compiles for a `config.input`, with `options` as for `Programs`, and takes one call.

        Before the call it waits until `meet` returns, for processes that compile side by side.
        """
        started = time.perf_counter()
        self._training = training
        self._batches: Any = training.inputs[source]()
        self._programs = Programs(
            *(training.step, training.state, self._batches, training.members),
            ahead=steps_per_call(),
            options=options,
        )
        meet()
        self.call()
        self.first_step = time.perf_counter() - started

    def call(self, *, repeat: bool = False) -> float:
        """Returns the seconds that the steps of one call take; arguments as for `rate`."""
        started = time.perf_counter()
        self._take(repeat)
        jax.block_until_ready(self._training.state)
        return time.perf_counter() - started

    def rate(self, seconds: float, *, repeat: bool = False) -> float:
        """Returns images/s of all members, after two calls to warm up.

        Args:
          seconds: about how long it takes.
          repeat: whether to repeat the last batches from the host instead of drawing new ones.
        """
        losses = FiniteLosses()  # As in a run, late reads bound how far the host gets ahead.
        calls, steps, started = -2, 0, 0.0
        while calls < 1 or time.perf_counter() - started < seconds:
            if calls == 0:
                jax.block_until_ready(self._training.state)
                steps, started = 0, time.perf_counter()
            latest, taken = self._take(repeat)
            losses.add(steps, latest)
            calls, steps = calls + 1, steps + taken
        jax.block_until_ready(self._training.state)
        return steps * self._training.images_per_step / (time.perf_counter() - started)

    def seconds(self, calls: int, *, repeat: bool = False) -> float:
        """Returns the seconds that some calls take; arguments as for `rate`."""
        losses = FiniteLosses()
        jax.block_until_ready(self._training.state)
        started = time.perf_counter()
        for call in range(calls):
            losses.add(call, self._take(repeat)[0])
        jax.block_until_ready(self._training.state)
        return time.perf_counter() - started

    def text(self) -> str:
        """Returns the compiled program of one call, in XLA's language."""
        _, program = self._programs._fitting(steps_per_call())
        return program.as_text()

    def _take(self, repeat: bool) -> tuple[jax.Array, int]:
        self._batches.repeat = repeat
        state, losses, count = self._programs.advance(self._training.state, steps_per_call())
        self._training.state = state
        return losses, count


class _HostInput(HostInput):
    """Batches from the host as in a run, or the last ones again and again."""

    repeat = False

    @override
    def next(self, count):
        if not self.repeat:
            self._last = super().next(count)
        return self._last


def forward_flops(config: ConfigDict, batch_size: int) -> float:
    """Returns XLA's count of a batch's forward pass; a backward pass takes twice as many.

    Chowdhery et al., "PaLM", 2022, appendix B. A convolution counts by its definition, even if our
    form of it takes fewer multiplications. The count is always for a CPU, where XLA counts before
    it optimises. Optimisation turns convolutions into calls that XLA does not count.
    """
    devices = jax.devices("cpu")[:1]
    mesh = jax.make_mesh((1, 1), ("member", "data"), 2 * (AxisType.Auto,), devices=devices)
    graph, params, statistics = abstract_network(_build(config), mesh)
    batch = jax.ShapeDtypeStruct((batch_size, IMAGE_SIZE, IMAGE_SIZE, 1), np.uint8)
    with convolutions():
        lowered = make_predict(graph, mesh).lower(params, statistics, batch)
    return lowered.cost_analysis()["flops"]


def _build(config: ConfigDict) -> Callable:
    dtype = supported_dtype(config.dtype, training=True)
    return functools.partial(create_model, config.model, num_classes=7, dtype=dtype)
