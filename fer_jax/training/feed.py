"""How batches get to the step: from the host one by one, or from images kept on the devices."""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol, override

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, UInt8

from data_prep.contract import IMAGE_SIZE
from fer_jax.data.augment import Augmentation, augment
from fer_jax.data.pipeline import training_batches
from fer_jax.data.records import Records
from fer_jax.models.convolution import kernels
from fer_jax.training.members import Members
from fer_jax.training.mesh import to_devices
from fer_jax.training.step import Batch, Step, TrainState

Losses = Float[Array, "*members steps"]


class Feed(Protocol):
    """Takes training steps, each on the next batch of every member's own stream.

    Every record comes once in each pass over the data, in an order of that pass's own; a batch may
    span two passes, so that no record is dropped. Same seed, same batches.
    """

    def advance(self, state: TrainState, most: int) -> tuple[TrainState, Losses, int]:
        """Takes one step or more; it consumes the state.

        Args:
          state: which `step` of the feed takes and returns.
          most: how many steps to take, at most.

        Returns:
          The next state; losses of the steps; and the number of steps.
        """

    def positions(self) -> list[Any]:
        """Returns each member's place in its stream, to be saved as JSON."""

    def move_to(self, positions: Sequence[Any]) -> None:
        """Goes to what `positions` returned."""


class HostFeed(Feed):
    """A `Feed` of batches that Grain reads and augments on the host, while the devices compute."""

    def __init__(
        self,
        step: Step,
        state: TrainState,
        records: Records,
        *,
        batch_size: int,
        seeds: Sequence[int],
        augmentation: Augmentation,
        members: Members,
    ):
        self._members = members
        self._streams = [
            training_batches(
                records,
                batch_size=batch_size,
                seed=seed,
                augmentation=augmentation,
                process_index=jax.process_index(),
                process_count=jax.process_count(),
            )
            for seed in seeds
        ]

        def one_step(state: TrainState, batch: Batch) -> tuple[TrainState, Losses]:
            state, loss = step(state, batch)
            return state, loss[None]

        rows = (batch_size,) if members.count == 1 else (members.count, batch_size)
        of_batch = functools.partial(jax.ShapeDtypeStruct, sharding=members.batch_sharding)
        batch = {
            "image": of_batch((*rows, IMAGE_SIZE, IMAGE_SIZE, 1), np.uint8),
            "label": of_batch(rows, np.int32),
        }
        self._step = _compile(members, members.each(one_step), state, batch)

    @override
    def advance(self, state, most):
        del most
        batch, *others = (next(stream) for stream in self._streams)
        if others:
            batch = {name: np.stack([one[name] for one in (batch, *others)]) for name in batch}
        state, losses = self._step(state, to_devices(batch, self._members.batch_sharding))
        return state, losses, 1

    @override
    def positions(self):
        return [stream.get_state() for stream in self._streams]

    @override
    def move_to(self, positions):
        for stream, position in zip(self._streams, positions, strict=True):
            stream.set_state(position)


class DeviceFeed(Feed):
    """A `Feed` that keeps all images on the devices, split over them, and draws batches there.

    Many steps are taken by one call, whose order and augmentation follow from the seed and the
    number of the step alone: a position is nothing that would have to be saved. Of fewer steps than
    that each is a call of its own: of a loop whose length it does not know a GPU asks the host
    after every step whether to go on.

    A run hears of an interruption only between calls. On a CPU a call takes a single step, since
    XLA's weight gradients of convolutions are many times as slow there within a loop.
    """

    def __init__(
        self,
        step: Step,
        state: TrainState,
        records: Records,
        *,
        batch_size: int,
        seeds: Sequence[int],
        augmentation: Augmentation,
        members: Members,
        most: int | None = None,
    ):
        """As `HostFeed`; a call takes `most` steps or one, by default what suits the devices."""
        most = most or (1 if jax.default_backend() == "cpu" else 32)
        mesh, length = members.mesh, len(records)
        over = PartitionSpec("data" if members.count > 1 else mesh.axis_names)
        rows = NamedSharding(mesh, over)
        self._seeds = jax.device_put(members.array(seeds).astype(np.int32), members.state_sharding)
        padded = np.arange(-(-length // mesh.size) * mesh.size).clip(max=length - 1)
        self._data = [
            jax.make_array_from_callback(array.shape, rows, array.__getitem__)
            for array in (records.read(padded), records.labels[padded])
        ]

        def take(
            count: int,
            state: TrainState,
            seed: Int[Array, ""],
            images: UInt8[Array, "n 48 48 1"],
            labels: Int[Array, " n"],
        ) -> tuple[TrainState, Losses]:
            order_key, augmentation_key = jax.random.split(jax.random.key(seed))
            first_pass, offset = jnp.divmod(state.step * batch_size, length)
            order = jnp.concatenate(
                [
                    jax.random.permutation(jax.random.fold_in(order_key, first_pass + k), length)
                    for k in range(1 + -(-count * batch_size // length))
                ]
            )

            def one_step(
                state: TrainState, k: int | Int[Array, ""]
            ) -> tuple[TrainState, Float[Array, ""]]:
                wanted = jax.lax.dynamic_slice_in_dim(order, offset + k * batch_size, batch_size)
                key = jax.random.fold_in(augmentation_key, state.step)
                uniforms = jax.random.uniform(key, (batch_size, augmentation.draws))
                image = augment(images[wanted], uniforms, augmentation)
                batch = {"image": image, "label": labels[wanted]}
                batch = jax.lax.with_sharding_constraint(
                    batch, rows if members.count == 1 else over
                )
                return step(state, batch)

            if count == 1:
                state, loss = one_step(state, 0)
                return state, loss[None]
            return jax.lax.scan(one_step, state, jnp.arange(count))

        self._steps = {
            count: _compile(
                members,
                members.each(functools.partial(take, count), shared=(2, 3)),
                state,
                self._seeds,
                *self._data,
            )
            for count in {most, 1}
        }

    @override
    def advance(self, state, most):
        count = max(count for count in self._steps if count <= most)
        return *self._steps[count](state, self._seeds, *self._data), count

    @override
    def positions(self):
        return [{}] * self._seeds.size

    @override
    def move_to(self, positions):
        del positions


def _compile(members: Members, function: Callable, state: TrainState, *arguments: Any) -> Callable:
    """Compiles ahead of time, so that no epoch's speed includes it; the state is consumed."""
    jitted = jax.jit(
        function,
        donate_argnums=0,
        out_shardings=members.state_sharding,
        compiler_options=kernels(),
    )
    with warnings.catch_warnings():  # With these kernels no program can be kept.
        warnings.filterwarnings("ignore", "Error writing persistent compilation cache entry")
        return jitted.lower(state, *arguments).compile()


FEEDS: dict[str, Callable[..., Feed]] = {"host": HostFeed, "device": DeviceFeed}
"""What `config.input` may say."""
