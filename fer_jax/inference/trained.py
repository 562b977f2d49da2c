"""The trained network of a run, restored from a checkpoint or a model folder."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float
from ml_collections import ConfigDict
from numpy import ndarray

from fer_jax.data.contract import ImageFormat
from fer_jax.data.records import Records
from fer_jax.devices import create_mesh, supported_dtype
from fer_jax.errors import UserError
from fer_jax.inference.model_folder import Network, is_model_folder, read_model_folder
from fer_jax.inference.probabilities import (
    Function,
    compile_for_records,
    make_predict,
    predict_records,
)
from fer_jax.models import create_model
from fer_jax.models.functional import Graph, abstract_network
from fer_jax.remote import Copy, copied
from fer_jax.workdir import CHECKPOINTS, CONFIG, METRICS, PAGE, WEIGHTS, member_workdirs, read_run


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A trained network, or the members of a trained ensemble.

    Attributes:
      config: config of the run.
      classes: names, in the order of the probabilities.
      images: format of the images that it was trained on.
      steps: step of each network's checkpoint.
      views: name of the views over which probabilities are averaged.
      temperature: divides the logits, so that confidences match accuracy (Guo et al., "On
        Calibration of Modern Neural Networks", ICML 2017). 1 for a workdir.
      graph: structure of the network.
      mesh: devices that hold the parameters.
      networks: parameters and statistics of the network, or of each member.
    """

    config: ConfigDict
    classes: tuple[str, ...]
    images: ImageFormat
    steps: Sequence[int]
    views: str
    temperature: float
    graph: Graph
    mesh: Mesh
    networks: Sequence[Network]

    def probabilities(self, records: Records) -> Float[ndarray, "n classes"]:
        """Returns the probability of each class for each record.

        For an ensemble: the mean over its members.
        """
        return self.apply(self._predict, records)

    def network_probabilities(self, records: Records) -> list[Float[ndarray, "n classes"]]:
        """Returns the probabilities of each member of an ensemble, or of the only network.

        They are those of the run, to the last bit, if the checkpoint, views and machine are.
        """
        predict = compile_for_records(
            self._predict,
            *(self.networks[0], len(records), self.images),
            batch_size=self.config.eval_batch_size,
            mesh=self.mesh,
        )
        return self.apply_each(predict, records)

    def apply(self, function: Function, records: Records) -> Any:
        """Applies a function compiled for `graph` and `mesh` to every record.

        For an ensemble: the mean over its members.
        """
        results = self.apply_each(function, records)
        return jax.tree.map(lambda *members: np.mean(members, axis=0), *results)

    def apply_each(self, function: Function, records: Records) -> list[Any]:
        """Applies a function compiled for `graph` and `mesh`, once for each network."""
        return [
            predict_records(
                function,
                params,
                statistics,
                records,
                batch_size=self.config.eval_batch_size,
                mesh=self.mesh,
            )
            for params, statistics in self.networks
        ]

    @functools.cached_property
    def _predict(self) -> Function:
        return make_predict(self.graph, self.mesh, self.views, self.temperature)


@contextlib.contextmanager
def copied_run(workdir: str | os.PathLike, checkpoint: str = "best") -> Iterator[Copy]:
    """Gives a run or model folder; of a URL, a copy with its reports and the model of a checkpoint.

    Args:
      workdir: the run or model folder, a path or a URL.
      checkpoint: as in `load_trained`.

    Raises:
      UserError: the URL cannot be reached, or there is no such run or checkpoint.
    """
    with copied(workdir) as copy:
        if copy.remote:
            copy.fetch(WEIGHTS, "eval/*/report.json")
            copy.fetch(*(f"{of}{name}" for of in ("", "member_*/") for name in (CONFIG, METRICS)))
            copy.fetch(*(f"*{CHECKPOINTS}/*/{name}" for name in ("digests.json", "metrics/*")))
            config = read_run(copy.folder)["config"]
            if not is_model_folder(copy.folder):
                from fer_jax.training.checkpoints import Checkpoints

                for member in member_workdirs(copy.folder, config):
                    folder = member / CHECKPOINTS
                    step = Checkpoints(folder, best_by=config["best_by"]).choose_step(checkpoint)
                    copy.fetch(f"{(folder / str(step)).relative_to(copy.folder)}/model/*")
        yield copy


def load_trained(
    workdir: str | os.PathLike, checkpoint: str = "best", views: str | None = None
) -> TrainedModel:
    """Restores the network of a run or model folder, or the networks of an ensemble.

    Args:
      workdir: folder of the run, or a model folder; a path or a URL.
      checkpoint: "best", "latest" or a step; each member of an ensemble has its own best. A model
        folder has one checkpoint only.
      views: a key of `VIEWS`; default: the run's views.

    Raises:
      UserError: there is no such run or checkpoint, or it is damaged.
    """
    with copied_run(workdir, checkpoint) as copy:
        return _load(copy.folder, checkpoint, views)


def _load(workdir: Path, checkpoint: str, views: str | None) -> TrainedModel:
    run = read_run(workdir)
    config, classes = ConfigDict(run["config"]), tuple(run["data"]["classes"])
    if config.sweep:
        raise UserError(
            f"{workdir} is a sweep of different settings; give the folder of one of its runs, such "
            f"as {workdir / 'member_0'}, see {workdir / PAGE}"
        )
    mesh = create_mesh(config.eval_batch_size)
    build = functools.partial(
        create_model, config.model, num_classes=len(classes), dtype=supported_dtype(config.dtype)
    )
    graph, params, statistics = abstract_network(build, mesh)
    if is_model_folder(workdir):
        networks, steps, temperature = read_model_folder(workdir, run, params, statistics)
        if checkpoint not in ("best", "latest", *map(str, steps)):
            raise UserError(f"{workdir} is a model folder with one checkpoint; leave it out")
    else:
        # Imported here, since Orbax takes half a second.
        from fer_jax.training.checkpoints import Checkpoints

        steps, networks, temperature = [], [], 1.0
        for member in member_workdirs(workdir, config):
            checkpoints = Checkpoints(member / CHECKPOINTS, best_by=config.best_by)
            steps.append(checkpoints.find_step(checkpoint))
            networks.append(checkpoints.restore_model(steps[-1], params, statistics))
    return TrainedModel(
        config=config,
        classes=classes,
        images=ImageFormat.from_facts(run["data"]),
        steps=steps,
        views=views or config.views,
        temperature=temperature,
        graph=graph,
        mesh=mesh,
        networks=networks,
    )
