"""Refuses a run that needs more memory than there is: first by an estimate, then by XLA's plan.

The estimate is made before any work, and is low, so that a run that fits is never refused. It
counts the state, and what a step keeps of each image for the gradients. For six of the shipped
networks on a CPU, XLA's plan of the latter is 1.06 to 3.5 times as large (jax 0.12.0).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fer_jax.data.contract import ImageFormat
from fer_jax.devices import free_memory
from fer_jax.errors import UserError
from fer_jax.models import default_arguments
from fer_jax.models.functional import Graph
from fer_jax.training.ensemble import Members

_KEPT_PER_PIXEL = 32 << 10
"""Bytes that a step keeps for each pixel of an image, at most, with layers of `_FEATURES`."""
_FEATURES = 2048

_RECOMPUTED = 0.5
"""Largest share of what automatic differentiation keeps that XLA does not."""


def check_memory(
    config: ConfigDict,
    optimizer: optax.GradientTransformation,
    members: Members,
    graph: Graph,
    params: nnx.State,
    statistics: nnx.State,
    images: ImageFormat,
) -> None:
    """Raises `UserError` if a run needs more memory than a device has, or than a CPU's machine has.

    Args:
      config: every knob.
      optimizer: the optimiser.
      members: number and layout of the members.
      graph, params, statistics: the network, without values.
      images: format of the data's images.
    """
    limit = free_memory()
    if limit is None:
        return
    mesh, sharing = members.mesh, _sharing(members.mesh)
    together = members.count // mesh.shape["member"]
    optimizer_state = _bytes(jax.eval_shape(optimizer.init, params))
    networks = (2 if config.ema_decay else 1) * (_bytes(params) + _bytes(statistics))
    state = sharing * together * (networks + optimizer_state)
    if state > limit:
        raise UserError(
            f"model needs about {_gib(state)} of memory for its parameters and the optimiser's "
            f"state, but {_gib(limit)} are free; choose a smaller network"
        )

    network = (graph, params, statistics)
    features = max(leaf.shape[-1] for leaf in jax.tree.leaves((params, statistics)) if leaf.shape)
    model = {**default_arguments(config.model.name), **config.model}
    kept = _KEPT_PER_PIXEL * max(1, features / _FEATURES)
    in_step = 1 if jax.default_backend() == "cpu" else together  # A CPU takes members in turn.
    for knob, parts, at_once, most, measure in (
        ("batch_size", mesh.shape["data"] * config.accumulate, in_step, kept, _kept),
        ("eval_batch_size", mesh.size, 1, 4 * features, _largest),
    ):
        rows = -(-config[knob] // parts)
        if state + sharing * at_once * rows * most * model["image_size"] ** 2 <= limit:
            continue  # Most runs need no trace of their network.
        batch = sharing * at_once * measure(*network, _images(rows, images))
        if state + batch > limit:
            fitting = int((limit - state) / batch * rows) * parts
            advice = f"give {fitting:,} or less" if fitting else "choose a smaller network"
            if fitting and knob == "batch_size":
                advice += ", or a larger accumulate"
            raise UserError(
                f"{knob} is {config[knob]:,}, which needs about {_gib(state + batch)} of memory, "
                f"by estimate, but {_gib(limit)} are free; {advice}"
            )


def check_program(program: jax.stages.Compiled, mesh: Mesh) -> None:
    """Raises `UserError` if a compiled training step needs more memory than is free."""
    plan, free = program.memory_analysis(), free_memory()
    if plan is None or free is None:
        return
    # The arguments have their memory already, and so have the outputs that take their place.
    needed = plan.temp_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
    needed *= _sharing(mesh)
    if needed > free:
        raise UserError(
            f"a training step needs {_gib(needed)} of memory, but {_gib(free)} are free; "
            "give a smaller batch_size or network"
        )


def _sharing(mesh: Mesh) -> int:
    """Returns how many devices share the memory: on a CPU, all of the host."""
    return len(mesh.local_devices) if jax.default_backend() == "cpu" else 1


def _kept(
    graph: Graph, params: nnx.State, statistics: nnx.State, images: jax.ShapeDtypeStruct
) -> int:
    """Returns the bytes that a step keeps of a batch until it has the gradients."""

    def residuals(params: nnx.State, statistics: nnx.State, images: jax.Array) -> Any:
        return jax.vjp(lambda params: _logits(graph, params, statistics, images), params)[1]

    kept = _bytes(jax.eval_shape(residuals, params, statistics, images))
    # The parameters are among it.
    return max(0, int((1 - _RECOMPUTED) * (kept - _bytes(params))))


def _largest(
    graph: Graph, params: nnx.State, statistics: nnx.State, images: jax.ShapeDtypeStruct
) -> int:
    """Returns the bytes of the largest array in the evaluation of a batch."""
    logits = functools.partial(_logits, graph, training=False)
    traced = jax.make_jaxpr(logits)(params, statistics, images)
    return max(
        _bytes([variable.aval for variable in equation.outvars]) for equation in traced.jaxpr.eqns
    )


def _logits(
    graph: Graph, params: nnx.State, statistics: nnx.State, images: jax.Array, training: bool = True
) -> jax.Array:
    model = nnx.merge(graph, params, statistics, copy=True)
    model.train() if training else model.eval()
    return model(images, rngs=nnx.Rngs(dropout=jax.random.key(0)))


def _images(rows: int, images: ImageFormat) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((rows, *images.shape), jnp.float32)


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _gib(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB"
