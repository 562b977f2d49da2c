"""From images to probabilities: one compiled function, and its run over any number of images."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, UInt8

from fer_jax.data.host_batches import evaluation_batches
from fer_jax.data.records import Records
from fer_jax.devices import on_mesh, replicated, split_over_devices, to_devices
from fer_jax.inference.views import choose_views
from fer_jax.models.functional import Graph
from fer_jax.models.layers import to_unit_range

Function = Callable[[nnx.State, nnx.State, UInt8[Array, "batch 48 48 1"]], Any]
"""From parameters, statistics and images to arrays with a row for each image."""


def make_predict(graph: Graph, mesh: Mesh, views: str = "one") -> Function:
    """Returns the compiled function to probabilities, Float[batch, classes].

    Args:
      graph: the network's structure.
      mesh: of the devices.
      views: of each image, whose probabilities are averaged: a key of `VIEWS`.

    Raises:
      UserError: there are no such views.
    """
    to_views = choose_views(views)

    def predict(params, statistics, images):
        model = nnx.merge(graph, params, statistics)
        model.eval()
        # One view after another: a batch of all of them is no faster, and takes as many times the
        # memory.
        probabilities = jax.lax.map(
            lambda view: jax.nn.softmax(model(view)), to_views(to_unit_range(images))
        )
        return probabilities.mean(axis=0)

    return compile_for(mesh, predict)


def compile_for(mesh: Mesh, function: Function) -> Function:
    """Jits a function of images that are split over the devices.

    Its results are replicated on every device of every process.
    """
    return jax.jit(
        on_mesh(mesh, function),
        in_shardings=(replicated(mesh), replicated(mesh), split_over_devices(mesh)),
        out_shardings=replicated(mesh),
    )


def predict_records(
    function: Function,
    params: nnx.State,
    statistics: nnx.State,
    records: Records,
    *,
    batch_size: int,
    mesh: Mesh,
) -> Any:
    """Returns NumPy arrays of the function's results for every record, in order, on every process.

    Fewer records than a batch are filled up to the next power of two for each device, so that few
    images do not cost a whole batch, and few sizes are ever compiled.
    """
    each = math.ceil(len(records) / mesh.size)
    batches = evaluation_batches(
        records,
        batch_size=min(batch_size, mesh.size * 2 ** math.ceil(math.log2(each))),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    sharding = split_over_devices(mesh)
    # All batches are under way before the first result is waited for.
    on_devices = (to_devices(batch, sharding)["image"] for batch in batches)
    results = [function(params, statistics, images) for images in on_devices]
    return jax.tree.map(lambda *parts: np.concatenate(parts)[: len(records)], *results)
