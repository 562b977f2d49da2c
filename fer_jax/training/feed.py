"""How batches get to the step: from the host one by one, or from images kept on the devices."""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, override

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, UInt8

from fer_jax.data.augment import Augmentation, augment
from fer_jax.data.contract import IMAGE_SIZE
from fer_jax.data.host_batches import training_batches
from fer_jax.data.records import Records
from fer_jax.devices import compiler_options, on_mesh, to_devices
from fer_jax.errors import UserError
from fer_jax.training.ensemble import Members
from fer_jax.training.step import Batch, Step, TrainState

Losses = Float[Array, "*members steps"]


class Feed(Protocol):
    """Takes training steps, each on the next batch of every member's own stream.

    Every record comes once in each pass over the data, in an order of that pass's own; a batch may
    span two passes, so that no record is dropped. Same seed, same batches. A run hears of an
    interruption only between calls.
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
        ahead: int = 1,
        most: int | None = None,
    ):
        """Compiles what takes `ahead` steps.

        A call takes `most` steps or what is left, by default what suits the devices.
        """
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

        def take_steps(count: int, state: TrainState, batches: Batch) -> tuple[TrainState, Losses]:
            if count > 1:
                return jax.lax.scan(step, state, batches)
            state, loss = step(state, jax.tree.map(lambda array: array[0], batches))
            return state, loss[None]

        def abstract(count: int) -> dict[str, jax.ShapeDtypeStruct]:
            rows = (count, batch_size) if members.count == 1 else (members.count, count, batch_size)
            array = functools.partial(jax.ShapeDtypeStruct, sharding=members.batches_sharding)
            return {
                "image": array((*rows, IMAGE_SIZE, IMAGE_SIZE, 1), np.uint8),
                "label": array(rows, np.int32),
            }

        abstract_state = _abstract(state)

        def compile_for(count: int) -> Callable:
            function = members.each(functools.partial(take_steps, count))
            return _compile(members, function, abstract_state, abstract(count))

        self._programs = _Programs(compile_for, most, ahead)

    @override
    def advance(self, state, most):
        count, program = self._programs.fitting(most)
        drawn = [
            jax.tree.map(lambda *of_steps: np.stack(of_steps), *itertools.islice(stream, count))
            for stream in self._streams
        ]
        batches = jax.tree.map(lambda *of_members: self._members.array(of_members), *drawn)
        on_devices = to_devices(batches, self._members.batches_sharding)
        return *program(state, on_devices), count

    @override
    def positions(self):
        return [stream.get_state() for stream in self._streams]

    @override
    def move_to(self, positions):
        for stream, position in zip(self._streams, positions, strict=True):
            stream.set_state(position)


class DeviceFeed(Feed):
    """A `Feed` that keeps all images on the devices, split over them, and draws batches there.

    Order and augmentation follow from the seed and the number of the step alone: a position is
    nothing that would have to be saved.
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
        ahead: int = 1,
        most: int | None = None,
    ):
        """As `HostFeed`."""
        mesh, length = members.mesh, len(records)
        over = PartitionSpec("data" if members.count > 1 else mesh.axis_names)
        rows = NamedSharding(mesh, over)
        self._seeds = jax.device_put(members.array(seeds).astype(np.int32), members.state_sharding)
        padded = np.arange(-(-length // mesh.size) * mesh.size).clip(max=length - 1)
        self._data = [
            jax.make_array_from_callback(array.shape, rows, array.__getitem__)
            for array in (records.read(padded), records.labels[padded])
        ]

        def take_steps(
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

        abstract_state = _abstract(state)

        def compile_for(count: int) -> Callable:
            function = members.each(functools.partial(take_steps, count), shared=(2, 3))
            return _compile(members, function, abstract_state, self._seeds, *self._data)

        self._programs = _Programs(compile_for, most, ahead)

    @override
    def advance(self, state, most):
        count, program = self._programs.fitting(most)
        return *program(state, self._seeds, *self._data), count

    @override
    def positions(self):
        return [{}] * self._seeds.size

    @override
    def move_to(self, positions):
        del positions


def steps_per_call() -> int:
    """Returns how many steps a call of a feed takes, unless fewer are left.

    On a GPU or TPU 32: a call takes some 100 microseconds of the host, and by a loop whose length
    it does not know a GPU would ask the host after every step whether to go on. On a CPU one:
    within a loop XLA's weight gradients of convolutions are many times as slow there.
    """
    return 1 if jax.default_backend() == "cpu" else 32


class _Programs:
    """What takes `most` steps, and what takes those left over, compiled before needed or then.

    Args:
      compile_for: makes what takes so many steps.
      most: steps of a call; by default those of `steps_per_call`.
      ahead: steps to compile for now.
    """

    def __init__(self, compile_for: Callable[[int], Callable], most: int | None, ahead: int):
        self._compile_for, self._most = compile_for, most or steps_per_call()
        self._compiled: dict[int, Callable] = {}
        while ahead:
            ahead %= self.fitting(ahead)[0]

    def fitting(self, most: int) -> tuple[int, Callable]:
        """Returns the number of steps, at most `most`, and what takes them."""
        count = min(most, self._most)
        if count not in self._compiled:
            self._compiled[count] = self._compile_for(count)
        return count, self._compiled[count]


def _abstract(state: TrainState) -> TrainState:
    """Returns shapes, types and placement, for a program yet to come: the arrays are given away."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )


def _compile(members: Members, function: Callable, *arguments: Any) -> Callable:
    """Compiles ahead of time, so that no epoch's speed includes it.

    Its first argument, the state, is consumed at each call.
    """
    options = compiler_options()
    jitted = jax.jit(
        on_mesh(members.mesh, function),
        donate_argnums=0,
        out_shardings=members.state_sharding,
        compiler_options=options,
    )
    with _without_cache() if options else contextlib.nullcontext():
        return jitted.lower(*arguments).compile()


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
    """Keeps what is compiled meanwhile out of the compilation cache, and takes nothing from it."""
    enabled = jax.config.jax_enable_compilation_cache
    _use_cache(False)
    try:
        yield
    finally:
        _use_cache(enabled)


def _use_cache(enabled: bool) -> None:
    jax.config.update("jax_enable_compilation_cache", enabled)
    compilation_cache.reset_cache()  # Or JAX would go by what it was told at first.


FEEDS: dict[str, Callable[..., Feed]] = {"host": HostFeed, "device": DeviceFeed}


def choose_input(name: str, records: Records) -> str:
    """Returns which of `FEEDS` a `config.input` means.

    "auto" means "device" on a GPU or TPU, which takes steps faster than a host augments, if all
    images are in memory anyway; otherwise "host".

    Raises:
      UserError: there is no such input.
    """
    if name != "auto":
        if name not in FEEDS:
            raise UserError(f"input is {name!r}; choose one of auto, {', '.join(FEEDS)}")
        return name
    return "device" if records.in_memory and jax.default_backend() != "cpu" else "host"
