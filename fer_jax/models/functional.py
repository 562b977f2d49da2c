"""Networks in functional form, for plain JAX: structure, parameters and statistics."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from fer_jax.devices import replicated

Graph = Any  # nnx.GraphDef[Classifier]: the structure of a network, without its arrays.


def split(model: nnx.Module) -> tuple[Graph, nnx.State, nnx.State]:
    """Splits a network into its structure, its parameters, and all other state ("statistics")."""
    graph, params, statistics = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]
    return graph, params, statistics


def leaf_name(key: tuple) -> str:
    """Returns the name of an array in a state, such as "features.layers.0.conv.kernel"."""
    return jax.tree_util.keystr(key, simple=True, separator=".").removesuffix(".value")


def abstract_network(
    build: Callable[..., nnx.Module], mesh: Mesh
) -> tuple[Graph, nnx.State, nnx.State]:
    """Returns a network's structure, and its parameters and statistics without values.

    Args:
      build: function from `rngs` to the network.
      mesh: mesh over which the values will be replicated.
    """
    graph, params, statistics = split(nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))))

    def place(state: nnx.State) -> nnx.State:
        sharding = replicated(mesh)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state
        )

    return graph, place(params), place(statistics)
