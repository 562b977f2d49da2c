"""The trained network of a run, restored from a checkpoint."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Float
from ml_collections import ConfigDict
from numpy import ndarray

from fer_jax.data.records import Records
from fer_jax.devices import create_mesh, supported_dtype
from fer_jax.inference.probabilities import Function, make_predict, predict_records
from fer_jax.models import create_model
from fer_jax.models.functional import Graph, abstract_network
from fer_jax.training.checkpoints import Checkpoints
from fer_jax.workdir import CHECKPOINTS, member_workdirs, read_run


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A trained network, or the members of a trained ensemble.

    Attributes:
      config: config of the run.
      classes: names, in the order of the probabilities.
      steps: step of each network's checkpoint.
      views: name of the views over which probabilities are averaged.
      graph: structure of the network.
      mesh: devices that hold the parameters.
    """

    config: ConfigDict
    classes: tuple[str, ...]
    steps: Sequence[int]
    views: str
    graph: Graph
    mesh: Mesh
    _networks: Sequence[tuple[nnx.State, nnx.State]]

    def probabilities(self, records: Records) -> Float[ndarray, "n classes"]:
        """Returns the probability of each class for each record.

        For an ensemble: the mean over its members.
        """
        return self.apply(self._predict, records)

    def network_probabilities(self, records: Records) -> list[Float[ndarray, "n classes"]]:
        """Returns the probabilities of each member of an ensemble, or of the only network."""
        return self._apply_each(self._predict, records)

    def apply(self, function: Function, records: Records) -> Any:
        """Applies a function compiled for `graph` and `mesh` to every record.

        For an ensemble: the mean over its members.
        """
        results = self._apply_each(function, records)
        return jax.tree.map(lambda *members: np.mean(members, axis=0), *results)

    def _apply_each(self, function: Function, records: Records) -> list[Any]:
        return [
            predict_records(
                function,
                params,
                statistics,
                records,
                batch_size=self.config.eval_batch_size,
                mesh=self.mesh,
            )
            for params, statistics in self._networks
        ]

    @functools.cached_property
    def _predict(self) -> Function:
        return make_predict(self.graph, self.mesh, self.views)


def load_trained(workdir: Path, checkpoint: str = "best", views: str | None = None) -> TrainedModel:
    """Restores the network of a run, or the networks of an ensemble.

    Args:
      workdir: folder of the run.
      checkpoint: "best", "latest" or a step; each member of an ensemble has its own best.
      views: a key of `VIEWS`; default: the run's views.

    Raises:
      UserError: there is no such run or checkpoint, or it is damaged.
    """
    run = read_run(workdir)
    config, classes = ConfigDict(run["config"]), tuple(run["data"]["classes"])
    mesh = create_mesh(config.eval_batch_size)
    build = functools.partial(
        create_model, config.model, num_classes=len(classes), dtype=supported_dtype(config.dtype)
    )
    graph, params, statistics = abstract_network(build, mesh)
    steps, networks = [], []
    for member in member_workdirs(workdir, config):
        checkpoints = Checkpoints(member / CHECKPOINTS, best_by=config.best_by)
        steps.append(checkpoints.find_step(checkpoint))
        networks.append(checkpoints.restore_model(steps[-1], params, statistics))
    return TrainedModel(
        config=config,
        classes=classes,
        steps=steps,
        views=views or config.views,
        graph=graph,
        mesh=mesh,
        _networks=networks,
    )
