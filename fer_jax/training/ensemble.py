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
from ml_collections import ConfigDict

from fer_jax.devices import replicated
from fer_jax.errors import UserError


def member_configs(config: ConfigDict) -> list[ConfigDict]:
    """Returns the config of each member, which is that of a single run.

    Member k has the seed `config.seed + k`, and the k-th of `config.learning_rates` if there are
    any.

    Raises:
      UserError: there are learning rates, but not one for each member.
    """
    rates = config.learning_rates or [config.learning_rate] * config.ensemble
    if len(rates) != config.ensemble:
        raise UserError(
            f"learning_rates has {len(rates)} rates for ensemble = {config.ensemble}; "
            "give one for each member, or none"
        )
    configs = [config.copy_and_resolve_references() for _ in rates]
    for k, (member, rate) in enumerate(zip(configs, rates, strict=True)):
        member.update(seed=config.seed + k, learning_rate=rate, learning_rates=(), ensemble=1)
    return configs


class Members:
    """The number of networks, and the layout of the arrays of all of them.

    Attributes:
      count: number of networks.
      mesh: mesh of the devices.
      state_sharding: layout of the members' states.
      batches_sharding: layout of the members' batches for several steps.
    """

    def __init__(self, count: int, mesh: Mesh, *, vectorize: bool | None = None):
        """Lays out `count` members on `mesh`.

        `vectorize`: whether to compute all members of a device together, by `jax.vmap`. The default
        is False on a CPU, where XLA is slow at convolutions of several images by several kernels.
        """
        self.count, self.mesh = count, mesh
        if vectorize is None:
            vectorize = jax.default_backend() != "cpu"
        self._map = jax.vmap if vectorize else _map_one_by_one
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
            specs = [PartitionSpec("member")] * len(arguments)
            axes: list[int | None] = [0] * len(arguments)
            for number in shared:
                specs[number], axes[number] = PartitionSpec(), None
            # Without shard_map the compiler would gather all members on every device.
            return jax.shard_map(
                self._map(function, tuple(axes)),
                mesh=self.mesh,
                in_specs=tuple(specs),
                out_specs=PartitionSpec("member"),
                axis_names={"member"},
                check_vma=False,
            )(*arguments)

        return of_all

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


def _map_one_by_one(function: Callable, axes: Sequence[int | None]) -> Callable:
    """Equals `jax.vmap`, but with a copy of the function's operations for each element."""

    def mapped(*arguments: Any) -> Any:
        of_each = [x for x, axis in zip(arguments, axes, strict=True) if axis is not None]
        results = [
            function(
                *(
                    x if axis is None else jax.tree.map(lambda leaf, k=k: leaf[k], x)
                    for x, axis in zip(arguments, axes, strict=True)
                )
            )
            for k in range(len(jax.tree.leaves(of_each)[0]))
        ]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)

    return mapped
