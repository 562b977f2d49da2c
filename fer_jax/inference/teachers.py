"""Trained networks that another one learns from."""

import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float

from fer_jax.devices import replicated, supported_dtype
from fer_jax.errors import UserError
from fer_jax.inference.model_folder import Network
from fer_jax.inference.trained import TrainedModel, load_trained
from fer_jax.inference.warm_start import find_run
from fer_jax.models import create_model
from fer_jax.models.functional import abstract_network
from fer_jax.training.distillation import Distillation


class Teachers:
    """Trained networks, whose mean prediction is a target for another network.

    They compute in bfloat16 where the devices support it, one after the other.

    Attributes:
      count: number of networks.
      sha256: digest of their weights, in their order; "" if there are none.
    """

    def __init__(self, runs: Sequence[str], classes: Sequence[str], sha256: str = ""):
        """Loads the best checkpoint of each run; of an ensemble, those of its members.

        Args:
          runs: workdirs or model folders, as paths or URLs; or "shipped".
          classes: names, in the order of the predictions.
          sha256: digest that the weights must have; "" if any will do.

        Raises:
          UserError: a run cannot be loaded, has other classes, or the digest differs.
        """
        self._models = [_load(run, classes) for run in runs]
        self._graphs = [_graph(model) for model in self._models]
        self.count = sum(len(model.networks) for model in self._models)
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves([list(model.networks) for model in self._models]):
            digest.update(np.asarray(leaf).tobytes())
        self.sha256 = digest.hexdigest() if runs else ""
        if sha256 and sha256.lower() != self.sha256:
            raise UserError(
                f"the weights of teachers {', '.join(runs) or '(none)'} have digest "
                f"{self.sha256 or '(none)'}, and distillation.sha256 is {sha256}; give the "
                "teachers that it belongs to, or leave it out"
            )

    def distillation(self, *, weight: float, temperature: float) -> Distillation | None:
        """Returns what a network learns from them; None if there are none."""
        return Distillation(self.probabilities, weight, temperature) if self.count else None

    def place(self, mesh: Mesh) -> list[Network]:
        """Returns the weights of all networks on every device; those of a run are stacked."""

        def stack(*leaves: Array) -> Array:
            return jax.device_put(np.stack([np.asarray(leaf) for leaf in leaves]), sharding)

        sharding = replicated(mesh)
        return [jax.tree.map(stack, *model.networks) for model in self._models]

    def probabilities(
        self,
        networks: Sequence[Network],
        images: Float[Array, "batch size size channels"],
        temperature: float,
    ) -> Float[Array, "batch classes"]:
        """Returns the mean prediction for images in [0, 1], for a program that trains.

        Args:
          networks: weights from `place`; arguments of the program, since constants of this size
            would be compiled into it.
          images: a batch.
          temperature: divides the logits, besides the temperature of a model folder.
        """
        total = jnp.zeros(())
        for graph, model, stacked in zip(self._graphs, self._models, networks, strict=True):

            def predict(network: Network, graph=graph, model=model) -> Array:
                merged = nnx.merge(graph, *network, copy=True)
                merged.eval()
                return jax.nn.softmax(merged(images) / (model.temperature * temperature))

            count = len(model.networks)
            if count > 1 and jax.default_backend() != "cpu":
                total += jax.lax.map(predict, stacked).sum(axis=0)
                continue
            for k in range(count):  # Convolutions are slow in a CPU's loops.
                total += predict(jax.tree.map(lambda leaf, k=k: leaf[k], stacked))
        return total / self.count


def _load(run: str, classes: Sequence[str]) -> TrainedModel:
    try:
        model = load_trained(find_run(run))
    except UserError as error:
        raise UserError(f"{error}; train that teacher first, or set teachers to others") from error
    if model.classes != tuple(classes):
        raise UserError(
            f"teachers has {run}, which tells apart {', '.join(model.classes)}; give runs with "
            f"the classes {', '.join(classes)}"
        )
    return model


def _graph(model: TrainedModel) -> Any:
    build = functools.partial(
        create_model,
        model.config.model,
        num_classes=len(model.classes),
        dtype=supported_dtype("bfloat16", training=True),
    )
    return abstract_network(build, model.mesh)[0]
