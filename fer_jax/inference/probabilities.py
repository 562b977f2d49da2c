"""The compiled function from images to probabilities, and its application to many images."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, UInt8

from fer_jax.data.contract import ImageFormat
from fer_jax.data.evaluation_batches import evaluation_batches
from fer_jax.data.records import Records
from fer_jax.devices import (
    compile_outside_cache,
    compiler_options,
    on_mesh,
    replicated,
    split_over_devices,
    to_devices,
)
from fer_jax.inference.views import choose_views
from fer_jax.models.functional import Graph
from fer_jax.models.layers import to_unit_range

Function = Callable[[nnx.State, nnx.State, UInt8[Array, "batch size size channels"]], Any]
"""A function from parameters, statistics and images to arrays with one row per image."""


def make_predict(
    graph: Graph, mesh: Mesh, views: str = "one", temperature: float = 1.0
) -> Function:
    """Returns the jitted function from images to probabilities, Float[batch, classes].

    Args:
      graph: structure of the network.
      mesh: devices that share the batch.
      views: a key of `VIEWS`; the probabilities of the views are averaged.
      temperature: divides the logits.

    Raises:
      UserError: no views have this name.
    """
    logits = _logits_of_views(graph, views)

    def predict(params, statistics, images):
        return jax.nn.softmax(logits(params, statistics, images) / temperature).mean(axis=0)

    return compile_for(mesh, predict)


def make_logits(graph: Graph, mesh: Mesh, views: str = "one") -> Function:
    """Returns the jitted function from images to logits, Float[batch, views, classes].

    Its arguments are those of `make_predict`.
    """
    logits = _logits_of_views(graph, views)
    return compile_for(mesh, lambda *arguments: jnp.moveaxis(logits(*arguments), 0, 1))


def _logits_of_views(graph: Graph, views: str) -> Function:
    """Returns the function from images to logits, Float[views, batch, classes]."""
    to_views = choose_views(views)

    def logits(params, statistics, images):
        model = nnx.merge(graph, params, statistics)
        model.eval()
        # One view at a time: a batch of all views is no faster and multiplies the memory.
        return jax.lax.map(model, to_views(to_unit_range(images)))

    return logits


def compile_for(mesh: Mesh, function: Function) -> Function:
    """Jits a function: images are sharded over the devices, results are replicated."""
    return jax.jit(
        on_mesh(mesh, function),
        in_shardings=(replicated(mesh), replicated(mesh), split_over_devices(mesh)),
        out_shardings=replicated(mesh),
    )


def rows_of_batch(records: int, batch_size: int, mesh: Mesh) -> int:
    """Returns the rows of a batch: `batch_size`, or enough for all of a few records.

    These are then padded to the next power of two per device. Few images then do not cost a whole
    batch, and few batch sizes are compiled.
    """
    each = math.ceil(records / mesh.size)
    return min(batch_size, mesh.size * 2 ** math.ceil(math.log2(each)))


def compile_for_records(
    function: Function,
    network: tuple[nnx.State, nnx.State],
    records: int,
    images: ImageFormat,
    *,
    batch_size: int,
    mesh: Mesh,
) -> jax.stages.Compiled:
    """Compiles a jitted function for `predict_records`.

    On a CPU it has the compiler options of a training step, with which small networks are faster
    and large ones take less memory. It is not in the compilation cache.

    Args:
      function: function to compile.
      network: parameters and statistics, or their shapes.
      records: number of records.
      images: their format.
      batch_size: rows of a batch, unless there are fewer records.
      mesh: devices that share a batch.
    """
    shape = (rows_of_batch(records, batch_size, mesh), *images.shape)
    batch = jax.ShapeDtypeStruct(shape, np.uint8, sharding=split_over_devices(mesh))
    jitted: Any = function
    options = compiler_options() if jax.default_backend() == "cpu" else {}
    return compile_outside_cache(jitted.lower(*network, batch), options)


def predict_records(
    function: Function,
    params: nnx.State,
    statistics: nnx.State,
    records: Records,
    *,
    batch_size: int,
    mesh: Mesh,
) -> Any:
    """Returns the function's results for all records in order, as NumPy arrays on every process.

    The batches have `rows_of_batch` rows.
    """
    batches = evaluation_batches(
        records,
        batch_size=rows_of_batch(len(records), batch_size, mesh),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    sharding = split_over_devices(mesh)
    # All batches are dispatched before the first result is awaited.
    on_devices = (to_devices(batch, sharding)["image"] for batch in batches)
    results = [function(params, statistics, images) for images in on_devices]
    return jax.tree.map(lambda *parts: np.concatenate(parts)[: len(records)], *results)
