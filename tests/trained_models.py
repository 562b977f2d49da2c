"""Models with weights as training leaves them, at once and without training."""

import functools
import zlib

import jax
import numpy as np
from ml_collections import ConfigDict

from fer_jax.data.contract import CLASS_NAMES, ImageFormat
from fer_jax.data.records import Records
from fer_jax.devices import create_mesh
from fer_jax.inference.trained import TrainedModel
from fer_jax.models import create_model
from fer_jax.models.functional import abstract_network, leaf_name


def make_model(
    config: ConfigDict, *, members: int = 1, temperature: float = 1.0, gain: float = 1.0
) -> TrainedModel:
    """Returns a model of a config. Its statistics, scales and biases differ from their start.

    `gain` multiplies the kernels, so that images matter beside the biases.
    """
    classes = tuple(config.classes or CLASS_NAMES)
    config.ensemble = members
    mesh = create_mesh(1)
    build = functools.partial(create_model, config.model, num_classes=len(classes), dtype="float32")
    graph, *states = abstract_network(build, mesh)

    def draw(member, key, leaf):
        random = np.random.default_rng((member, zlib.crc32(leaf_name(key).encode())))
        if leaf.ndim > 1:
            fan_in = np.prod(leaf.shape[:-1])
            values = random.normal(size=leaf.shape) * gain * np.sqrt(2 / fan_in)
            if leaf_name(key).startswith("head"):
                values *= 0.1  # Otherwise a deep network would be certain of one class.
        elif leaf_name(key).endswith(("var", "scale")):
            values = random.uniform(0.4, 1.2, leaf.shape)
        else:
            values = 0.3 * random.normal(size=leaf.shape)
        return jax.device_put(values.astype(np.float32), leaf.sharding)

    networks = [
        tuple(
            jax.tree_util.tree_map_with_path(functools.partial(draw, member), state)
            for state in states
        )
        for member in range(members)
    ]
    return TrainedModel(
        config=config,
        classes=classes,
        images=ImageFormat(),
        steps=[100 + member for member in range(members)],
        views=config.views,
        temperature=temperature,
        graph=graph,
        mesh=mesh,
        networks=networks,
    )


def records_of(images: np.ndarray) -> Records:
    """Returns images as records without labels."""
    return Records(np.zeros(len(images), np.int32), [""] * len(images), images.__getitem__)
