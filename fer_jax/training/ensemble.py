"""The networks that are trained together: one as a rule, or the members of an ensemble.

One network's arrays are what they are. Those of several are stacked along a new first axis, which
is split over the mesh's `member` axis; nothing goes from one member to another.
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
    """Returns the configs of the single runs that the members of `config` are.

    Member k has the seed `config.seed + k` and, if there are any, the k-th of the learning rates.

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
    """How many networks there are, and how arrays of all of them are laid out.

    Attributes:
      count: of the networks.
      mesh: of the devices.
      state_sharding: of arrays of which every member has its own.
      batches_sharding: of batches of several steps, of which every member has its own.
    """

    def __init__(self, count: int, mesh: Mesh, *, vectorize: bool | None = None):
        """`vectorize` says whether a device's members are one computation, unless it is to decide.

        On a CPU they are not: XLA convolves several images by several kernels slowly there.
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
        """Returns `function`, of one member's arrays, as one of all members' arrays.

        Args:
          function: of positional arguments.
          shared: numbers of the arguments which are the same for all members.
        """
        if self.count == 1:
            return function

        def of_all(*arguments: Any) -> Any:
            specs = [PartitionSpec("member")] * len(arguments)
            axes: list[int | None] = [0] * len(arguments)
            for number in shared:
                specs[number], axes[number] = PartitionSpec(), None
            # Left to itself the compiler would gather all members on every device.
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
        """Returns one number or array of each member as the arrays of all are laid out."""
        return np.asarray(arrays[0] if self.count == 1 else arrays)

    def stack(self, trees: Sequence[Any]) -> Any:
        """Returns one tree of all members' arrays, of one tree for each member."""
        if self.count == 1:
            return trees[0]
        stack = jax.jit(
            lambda *trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees),
            out_shardings=self.state_sharding,
        )
        return stack(*trees)

    def pick(self, tree: Any, member: int) -> Any:
        """Returns the arrays of one member, whole on every device."""
        return tree if self.count == 1 else self._pick(tree, member)


def _map_one_by_one(function: Callable, axes: Sequence[int | None]) -> Callable:
    """As `jax.vmap`, by a copy of the function's operations for each element."""

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
