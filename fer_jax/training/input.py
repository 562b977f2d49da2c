"""Where the batches of a training program come from: the host, or images kept on the devices."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, override

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from fer_jax.data.augment import Augmentation
from fer_jax.data.device_batches import Batch, draw_batches, place
from fer_jax.data.host_batches import training_batches
from fer_jax.data.records import Records
from fer_jax.errors import UserError
from fer_jax.training.ensemble import Members, typed

Draw = Callable[[Int[Array, ""], Any], Batch]
"""Function from a step's number and item to its batch; traced inside the program."""


class Input(Protocol):
    """Batches for all members, each from a stream of its own.

    Each pass over the data has every record once, in its own order. A batch may span two passes,
    so that no record is dropped. The same seed gives the same batches.

    Attributes:
      shared: positions of the program's arguments that all members share; the state has position 0.
    """

    shared: Sequence[int]

    def next(self, count: int) -> Sequence[Any]:
        """Returns the arguments, besides the state, of the program for the next `count` steps."""

    def abstract(self, count: int) -> Sequence[Any]:
        """Returns the shapes, types and placement of these arguments; they may have values."""

    def trace(self, count: int, step: Int[Array, ""], *arguments: Any) -> tuple[Any, Draw]:
        """Returns an item for each of `count` steps from `step` on, and a `Draw` for these steps.

        It is traced inside the program, with one member's arguments.
        """

    def positions(self) -> list[Any]:
        """Returns each member's position in its stream, ready for JSON."""

    def move_to(self, positions: Sequence[Any]) -> None:
        """Moves each stream to its position, as returned by `positions`."""


class HostInput(Input):
    """Batches that Grain reads and augments on the host while the devices compute."""

    shared = ()

    def __init__(
        self,
        records: Records,
        *,
        batch_size: int,
        seeds: Sequence[int],
        augmentation: Augmentation | Sequence[Augmentation],
        members: Members,
    ):
        """Opens the streams of the members on this process's devices.

        Args:
          records: split to read.
          batch_size: rows of a member's batch.
          seeds: seed of each member.
          augmentation: ranges of the augmentation, of all members or of each.
          members: number and layout of the members.
        """
        self._batch_size, self._members = batch_size, members
        first = np.arange(1)
        self._example = {"image": records.read(first), **records.answers(first)}
        self._rows = members.local_rows(batch_size)
        self._streams = {
            member: training_batches(
                records,
                batch_size=batch_size,
                seed=seeds[member],
                augmentation=_of_each(augmentation, members)[member],
                rows=rows,
            )
            for member, rows in self._rows.items()
        }

    @override
    def next(self, count):
        drawn = {
            member: jax.tree.map(lambda *steps: np.stack(steps), *itertools.islice(stream, count))
            for member, stream in self._streams.items()
        }
        [abstract] = self.abstract(count)

        def part(name: str, index: tuple[slice, ...]) -> np.ndarray:
            of_members, rows = self._members.split_index(index)
            start, stop, _ = rows.indices(self._batch_size)
            arrays = []
            for member in range(self._members.count)[of_members]:
                first = self._rows[member].start
                arrays.append(drawn[member][name][:, start - first : stop - first])
            return self._members.array(arrays)

        return [
            {
                name: jax.make_array_from_callback(
                    array.shape, array.sharding, functools.partial(part, name)
                )
                for name, array in abstract.items()
            }
        ]

    @override
    def abstract(self, count):
        members = () if self._members.count == 1 else (self._members.count,)
        rows = (*members, count, self._batch_size)

        def of_batch(one: np.ndarray) -> jax.ShapeDtypeStruct:
            sharding = self._members.batches_sharding
            return jax.ShapeDtypeStruct((*rows, *one.shape[1:]), one.dtype, sharding=sharding)

        return [jax.tree.map(of_batch, self._example)]

    @override
    def trace(self, count, step, batches):
        return batches, lambda step, batch: batch

    @override
    def positions(self):
        # All streams advance together, also those of other processes.
        return [next(iter(self._streams.values())).get_state()] * self._members.count

    @override
    def move_to(self, positions):
        for member, stream in self._streams.items():
            stream.set_state(positions[member])


class DeviceInput(Input):
    """Batches drawn and augmented on the devices, where all images stay, split over the devices."""

    shared = (2, 3)  # Images and answers; each member has a seed of its own.

    def __init__(
        self,
        records: Records,
        *,
        batch_size: int,
        seeds: Sequence[int],
        augmentation: Augmentation | Sequence[Augmentation],
        members: Members,
    ):
        """Copies all images to the devices; arguments as for `HostInput`."""
        mesh = members.mesh
        spec = PartitionSpec("data" if members.count > 1 else mesh.axis_names)
        rows = NamedSharding(mesh, spec)
        images, answers = place(records, rows)
        seed = jax.device_put(members.array(seeds).astype(np.int32), members.state_sharding)
        of_each = _of_each(augmentation, members)
        kinds = sorted({one.kind for one in of_each})
        swept = {
            name: typed(values)
            for name in (field.name for field in dataclasses.fields(Augmentation))
            if len(set(values := [getattr(one, name) for one in of_each])) > 1
        }
        if len(kinds) > 1:
            swept["kind"] = [np.int32(kinds.index(one.kind)) for one in of_each]
        own = {
            name: jax.device_put(members.array(values), members.state_sharding)
            for name, values in swept.items()
        }
        self._arguments = [seed, images, answers, own]
        self._members = members.count
        self._augmentation = of_each[0]
        self._draw = functools.partial(
            draw_batches,
            length=len(records),
            batch_size=batch_size,
            kinds=kinds,
            # Inside a member's part of the mesh only axis names can be given.
            sharding=rows if members.count == 1 else spec,
        )

    @override
    def next(self, count):
        return self._arguments

    @override
    def abstract(self, count):
        return self._arguments

    @override
    def trace(self, count, step, seed, images, answers, own):
        places = jnp.arange(count)
        ranges = {name: value for name, value in own.items() if name != "kind"}
        draw = self._draw(
            *(seed, step, images, answers),
            steps=count,
            augmentation=dataclasses.replace(self._augmentation, **ranges),
            kind=own.get("kind", 0),
        )
        return places, draw

    @override
    def positions(self):
        return [{}] * self._members

    @override
    def move_to(self, positions):
        del positions


def _of_each(
    augmentation: Augmentation | Sequence[Augmentation], members: Members
) -> Sequence[Augmentation]:
    if isinstance(augmentation, Augmentation):
        return [augmentation] * members.count
    return augmentation


INPUTS: dict[str, Callable[..., Input]] = {"host": HostInput, "device": DeviceInput}


def choose_input(name: str, records: Records) -> str:
    """Returns the key of `INPUTS` that a `config.input` stands for.

    "auto" stands for "device" on a GPU or TPU, where a step is faster than a host's augmentation,
    if all images are decoded in memory anyway. Otherwise it stands for "host".

    Raises:
      UserError: there is no such input.
    """
    if name != "auto":
        if name not in INPUTS:
            raise UserError(f"input is {name!r}; choose one of auto, {', '.join(INPUTS)}")
        return name
    return "device" if records.in_memory and jax.default_backend() != "cpu" else "host"
