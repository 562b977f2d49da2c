"""The networks that are trained together: one by default, or the members of an ensemble.

A single network's arrays have no member axis. The arrays of several members are stacked along a
new first axis, which is split over the mesh's `member` axis. Members exchange nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int
from ml_collections import ConfigDict

from fer_jax.devices import replicated
from fer_jax.errors import UserError
from fer_jax.sweep import KNOBS, parse_sweep


def member_configs(config: ConfigDict) -> list[ConfigDict]:
    """Returns the config of each member, which is that of a single run.

    The members of a setting have the seeds `config.seed`, `config.seed + 1` and so on. Those of
    `config.sweep`'s first setting come first. With `config.learning_rates`, member k has the k-th.

    Raises:
      UserError: there are learning rates, but not one for each member.
    """
    rates = config.learning_rates
    if rates and len(rates) != config.ensemble:
        raise UserError(
            f"learning_rates has {len(rates)} rates for ensemble = {config.ensemble}; "
            "give one for each member, or none"
        )
    configs = []
    for setting in parse_sweep(config.sweep) or [{}]:
        for k in range(config.ensemble):
            member = config.copy_and_resolve_references()
            member.update(seed=config.seed + k, learning_rates=(), sweep="", ensemble=1, **setting)
            if rates:
                member.learning_rate = rates[k]
            configs.append(member)
    return configs


def swept_values(configs: Sequence[ConfigDict]) -> dict[str, list[Any]]:
    """Returns each member's value of the knobs in which the members of a run differ."""
    values = {knob: [config[knob] for config in configs] for knob in KNOBS}
    return {knob: of_members for knob, of_members in values.items() if len(set(of_members)) > 1}


def typed(values: Sequence[Any]) -> list[np.generic]:
    """Returns values of a knob as the devices have them: float32, or bool."""
    return [np.bool_(x) if isinstance(x, bool) else np.float32(x) for x in values]


class Members:
    """The number of networks, and the layout of the arrays of all of them.

    Attributes:
      count: number of networks.
      mesh: mesh of the devices.
      turns: number of program calls in which all members take a step, see `in_turn`.
      state_sharding: layout of the members' states.
      batches_sharding: layout of the members' batches for several steps.
    """

    def __init__(self, count: int, mesh: Mesh, *, vectorize: bool | None = None):
        """Lays out `count` members on `mesh`.

        `vectorize`: whether to compute all members of a device together, by `jax.vmap`. The default
        is False on a CPU, where XLA is slow at convolutions of several images by several kernels,
        and at convolutions inside a loop over the members. See `benchmarks/speed/members.md`.
        """
        self.count, self.mesh = count, mesh
        if vectorize is None:
            vectorize = jax.default_backend() != "cpu"
        self._vectorize = vectorize
        self.turns = 1 if vectorize else count // mesh.shape["member"]
        self.state_sharding = replicated(mesh)
        self.batches_sharding = NamedSharding(mesh, PartitionSpec(None, mesh.axis_names))
        if count > 1:
            self.state_sharding = NamedSharding(mesh, PartitionSpec("member"))
            self.batches_sharding = NamedSharding(mesh, PartitionSpec("member", None, "data"))
        self._pick = jax.jit(
            lambda tree, member: jax.tree.map(lambda leaf: leaf[member], tree),
            out_shardings=replicated(mesh),
        )

    def each(self, function: Callable, *, shared: Sequence[int] = ()) -> Callable:
        """Turns a function of one member's arrays into a function of all members' arrays.

        Args:
          function: takes positional arguments.
          shared: positions of the arguments that are the same for all members.
        """
        if self.count == 1:
            return function

        def of_all(*arguments: Any) -> Any:
            axes = [None if number in shared else 0 for number in range(len(arguments))]
            return self._on_their_devices(jax.vmap(function, axes), shared)(*arguments)

        return of_all

    def in_turn(self, function: Callable, *, shared: Sequence[int] = ()) -> Callable:
        """Turns a function that advances one member's state into one that advances all, in turns.

        Args:
          function: takes a state and other arguments; returns the next state and a result.
          shared: positions of the arguments that are the same for all members; the state has 0.

        Returns:
          A function of a turn, from 0 to `turns`, all members' states and arguments. It returns all
          states, and the results of those whose turn it is: one of each part of the mesh along its
          axis `member`, or all if there is one turn.
        """
        if self.count == 1 or self._vectorize:
            advance = self.each(function, shared=shared)

            def advance_all(turn: Int[Array, ""], *arguments: Any) -> Any:
                return advance(*arguments)

            advance_all.__name__ = function.__name__  # That of the compiled program.
            return advance_all

        def advance_one(turn: Int[Array, ""], states: Any, *arguments: Any) -> tuple[Any, Any]:
            def own(tree: Any) -> Any:
                index = jax.lax.dynamic_index_in_dim
                return jax.tree.map(lambda leaf: index(leaf, turn, keepdims=False), tree)

            def put(leaf: Array, latest: Array) -> Array:
                return jax.lax.dynamic_update_index_in_dim(leaf, latest, turn, 0)

            arguments = tuple(
                argument if number in shared else own(argument)
                for number, argument in enumerate(arguments, start=1)
            )
            # The barrier lets XLA write into the states in place; otherwise it copies them all.
            states, state = jax.lax.optimization_barrier((states, own(states)))
            state, result = function(state, *arguments)
            return jax.tree.map(put, states, state), jax.tree.map(lambda x: x[None], result)

        advance_one.__name__ = function.__name__
        return self._on_their_devices(advance_one, [0, *(number + 1 for number in shared)])

    def _on_their_devices(self, function: Callable, shared: Sequence[int]) -> Callable:
        """Applies a function of several members' arrays to those of each part of the mesh.

        Without shard_map the compiler would gather all members on every device.
        """

        def of_all(*arguments: Any) -> Any:
            return jax.shard_map(
                function,
                mesh=self.mesh,
                in_specs=tuple(
                    PartitionSpec() if number in shared else PartitionSpec("member")
                    for number in range(len(arguments))
                ),
                out_specs=PartitionSpec("member"),
                axis_names={"member"},
                check_vma=False,
            )(*arguments)

        of_all.__name__ = function.__name__
        return of_all

    def local_rows(self, batch_size: int) -> dict[int, slice]:
        """Returns which rows of which members' batches are on devices of this process."""
        shape = (self.count, 1, batch_size)[0 if self.count > 1 else 1 :]
        found: dict[int, slice] = {}
        for index in self.batches_sharding.addressable_devices_indices_map(shape).values():
            of_members, rows = self.split_index(index or ())
            start, stop, _ = rows.indices(batch_size)
            for member in range(self.count)[of_members]:
                known = found.get(member, slice(start, stop))
                found[member] = slice(min(known.start, start), max(known.stop, stop))
        return dict(sorted(found.items()))

    def split_index(self, index: Sequence[slice]) -> tuple[slice, slice]:
        """Returns the members and the rows of an index into the members' batches."""
        return (index[0] if self.count > 1 else slice(1)), index[self.count > 1 :][1]

    def array(self, arrays: Sequence[Any]) -> np.ndarray:
        """Stacks one number or array of each member along the member axis, if there is one."""
        return np.asarray(arrays[0] if self.count == 1 else arrays)

    def stack(self, trees: Sequence[Any]) -> Any:
        """Stacks one tree of arrays for each member into one tree on the devices."""
        if self.count == 1:
            return trees[0]
        stack = jax.jit(
            lambda *trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees),
            out_shardings=self.state_sharding,
        )
        return stack(*trees)

    def pick(self, tree: Any, member: int) -> Any:
        """Returns the arrays of one member, replicated on every device."""
        return tree if self.count == 1 else self._pick(tree, member)
