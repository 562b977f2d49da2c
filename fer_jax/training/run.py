"""A run's workdir while it is trained: config, checkpoints, history, events and final reports."""

import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float
from ml_collections import ConfigDict
from PIL import Image

from fer_jax.data.records import DataSet, Records
from fer_jax.devices import describe_devices
from fer_jax.errors import write_atomically
from fer_jax.models import default_arguments
from fer_jax.reporting.evaluation import Evaluation
from fer_jax.reporting.events import RunEvents
from fer_jax.reporting.figures import plot_curves, to_png
from fer_jax.reporting.report import write_evaluation
from fer_jax.reporting.run_page import write_run_page
from fer_jax.training.checkpoints import SCORES, Checkpoints
from fer_jax.training.optimizer import stagnates
from fer_jax.training.step import TrainState
from fer_jax.workdir import (
    CHECKPOINTS,
    FIGURES,
    METRICS,
    PAGE,
    claim_workdir,
    member_workdirs,
    write_history,
)

Predict = Callable[[nnx.State, nnx.State], Float[np.ndarray, "n classes"]]


class Run:
    """Writes one network's workdir while it is trained; a context manager.

    Attributes:
      history: one mapping per epoch, as in metrics.jsonl.
      seconds: seconds of training so far.
      checkpoints: checkpoints of the run.
    """

    def __init__(self, config: ConfigDict, workdir: Path, data: DataSet, *, latest: int = 1):
        """Claims the workdir; `latest` is how many of the latest checkpoints are kept.

        Raises:
          UserError: the workdir belongs to another config, or cannot be written.
        """
        _claim(workdir, config, data)
        self.history: list[dict[str, Any]] = []
        self.seconds = 0.0
        self.checkpoints = Checkpoints(workdir / CHECKPOINTS, best_by=config.best_by, latest=latest)
        self._events = RunEvents(workdir)
        self._events.write_config(config.to_dict())
        self._config, self._workdir, self._data = config, workdir, data

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self.checkpoints.close()
        self._events.close()

    @property
    def finished(self) -> bool:
        """Whether training is over: all epochs are done, or it stopped early."""
        losses = [epoch["val_loss"] for epoch in self.history]
        return len(losses) >= self._config.epochs or stagnates(self._config, losses)

    @property
    def best(self) -> Mapping[str, Any]:
        """The best epoch so far; if several are equally good, the latest."""
        return max(reversed(self.history), key=SCORES[self._config.best_by])

    def restore(self, step: int, state: TrainState) -> tuple[TrainState, Any]:
        """Goes back to the checkpoint at `step`; returns its state and input position."""
        state, position, progress = self.checkpoints.restore(step, state)
        self.history, self.seconds = progress["history"], progress["seconds"]
        return state, position

    def save(self, state: TrainState, position: Any, *, seconds: float) -> None:
        """Saves within an epoch that has taken `seconds` so far."""
        self._save(state, position, self.seconds + seconds, {})

    def add_epoch(
        self, state: TrainState, position: Any, *, seconds: float, **numbers: float
    ) -> None:
        """Saves after an epoch that took `seconds`, and writes its numbers to files and events."""
        self.seconds += seconds
        self.history.append({**numbers, "seconds": self.seconds})
        self._save(state, position, self.seconds, self.history[-1])
        if jax.process_index() == 0:
            write_history(self._workdir / METRICS, self.history)
        self._events.write_epoch(self.history[-1])

    def _save(
        self, state: TrainState, position: Any, seconds: float, metrics: Mapping[str, float]
    ) -> None:
        progress = {"history": self.history, "seconds": seconds}
        self.checkpoints.save(state, position, progress, metrics)

    def finish(
        self, state: TrainState, predict: Predict, validation: Records, training: Records
    ) -> tuple[dict[str, Any], Float[np.ndarray, "n classes"]]:
        """Evaluates the best checkpoint on the validation split, and writes pictures and reports.

        Args:
          state: state with the shapes, types and placement of the best network.
          predict: function from a network to the probabilities of `validation`.
          validation: records to evaluate on.
          training: records that the network was trained on.

        Returns:
          The result of `train` for a single run, and the probabilities.
        """
        self.checkpoints.wait()
        step = self.checkpoints.find_step("best")
        probabilities = predict(*self.checkpoints.restore_model(step, **state.network))
        report = None
        if jax.process_index() == 0:
            split = self._config.validation_split
            views = self._config.views
            evaluation = Evaluation(
                self._workdir, split, step, self._data, validation, probabilities, views
            )
            report = write_evaluation(evaluation)
            self._events.write_result(report)
            _write_figures(
                self._workdir / FIGURES, self.history, evaluation.directory, self._events
            )
            page = self._workdir / PAGE
            write_run_page(page, evaluation, report, history=self.history, training=training)
        return {"history": self.history, "best_step": step, "report": report}, probabilities


def open_runs(
    workdir: Path, config: ConfigDict, members: Sequence[ConfigDict], data: DataSet
) -> Iterator[Run]:
    """Opens the workdir of a single run, or the workdirs of an ensemble's members.

    Raises:
      UserError: see `Run`.
    """
    count = len(members)
    if count > 1:
        _claim(workdir, config, data)
    for folder, member in zip(member_workdirs(workdir, config), members, strict=True):
        # Members keep two, because a stop while saving may leave them an epoch apart.
        yield Run(member, folder, data, latest=min(count, 2))


def finish_ensemble(
    workdir: Path,
    config: ConfigDict,
    data: DataSet,
    results: Sequence[Mapping[str, Any]],
    probabilities: Sequence[Float[np.ndarray, "n classes"]],
    validation: Records,
    training: Records,
) -> dict[str, Any]:
    """Evaluates the mean of the members' predictions, and writes an ensemble's own files.

    They are the files of a run, except checkpoints, events and figures. The history is the mean of
    the members' histories.

    Args:
      workdir: folder of the ensemble.
      config: config of the ensemble.
      data: the data set.
      results: result of each member, see `Run.finish`.
      probabilities: each member's probabilities of `validation`.
      validation: records of the validation split.
      training: records that the members were trained on.

    Returns:
      The result of `train` for an ensemble.
    """
    epochs = itertools.zip_longest(*(result["history"] for result in results))
    history = [mean_epoch([epoch for epoch in members if epoch]) for members in epochs]
    write_history(workdir / METRICS, history)
    evaluation = Evaluation(
        workdir,
        config.validation_split,
        max(result["best_step"] for result in results),
        data,
        validation,
        np.mean(probabilities, axis=0),
        config.views,
    )
    report = write_evaluation(evaluation, [result["report"] for result in results])
    page = workdir / PAGE
    write_run_page(page, evaluation, report, history=history, training=training)
    return {"members": list(results), "report": report}


def _claim(workdir: Path, config: ConfigDict, data: DataSet) -> None:
    claim_workdir(
        workdir,
        config=config.to_dict(),
        model_defaults=default_arguments(config.model.name),
        data={
            "fingerprint": data.fingerprint,
            "source": data.source,
            "classes": data.classes,
            "splits": data.split_sizes,
        },
        devices=describe_devices(),
        write=jax.process_index() == 0,
    )


def mean_epoch(members: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Returns the means of the members' numbers for one epoch, with its number and step."""
    means = {key: np.mean([member[key] for member in members]).item() for key in members[0]}
    return means | {key: members[0][key] for key in ("epoch", "step")}


def _write_figures(
    directory: Path,
    history: Sequence[Mapping[str, Any]],
    evaluation_dir: Path,
    events: RunEvents,
) -> None:
    """Writes the run's pictures as files and events."""
    pictures = {"curves": to_png(plot_curves(history))}
    for name in ("confusion_matrix", "samples"):
        pictures[name] = (evaluation_dir / f"{name}.png").read_bytes()
    for name, png in pictures.items():
        write_atomically(directory / f"{name}.png", png)
        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        events.write_figures(history[-1]["step"], {name: pixels})
