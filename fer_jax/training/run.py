"""A run's workdir while it is trained: config, checkpoints, history, events and final reports."""

import contextlib
import dataclasses
import io
import itertools
from collections.abc import Callable, Mapping, Sequence
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
from fer_jax.errors import UserError, told, write_atomically
from fer_jax.models import default_arguments
from fer_jax.remote import place_of
from fer_jax.reporting.evaluation import Evaluation
from fer_jax.reporting.events import RunEvents
from fer_jax.reporting.figures import plot_curves, to_png
from fer_jax.reporting.report import make_report, write_files
from fer_jax.reporting.run_page import write_run_page
from fer_jax.reporting.sweep import summarize_sweep
from fer_jax.training.checkpoints import SCORES, CheckpointWriter
from fer_jax.training.lock import Lock
from fer_jax.training.optimizer import stagnates
from fer_jax.training.step import TrainState
from fer_jax.workdir import (
    CHECKPOINTS,
    CONFIG,
    FIGURES,
    METRICS,
    PAGE,
    claim_workdir,
    member_workdirs,
    read_history,
    read_report,
    write_history,
)

Predict = Callable[[nnx.State, nnx.State], Float[np.ndarray, "n classes"]]


class Run:
    """Writes one network's workdir while it is trained; a context manager.

    All processes call its methods, and process 0 alone uses the workdir.

    Attributes:
      history: one mapping per epoch, as in metrics.jsonl.
      seconds: seconds of training so far.
      checkpoints: checkpoints of the run.
    """

    def __init__(self, config: ConfigDict, workdir: Path, data: DataSet, *, latest: int = 2):
        """Locks and claims the workdir; `latest` is how many of the latest checkpoints are kept.

        Raises:
          UserError: the workdir belongs to another config or a running process, or cannot be
            written.
        """
        with contextlib.ExitStack() as stack:
            _claim(stack, workdir, config, data)
            self.history: list[dict[str, Any]] = []
            self._predicted: tuple[int, Any] = (0, None)
            self.seconds = 0.0
            self.checkpoints = CheckpointWriter(
                workdir / CHECKPOINTS, best_by=config.best_by, latest=latest
            )
            stack.callback(self.checkpoints.close)
            self._events = RunEvents(workdir, config.to_dict())
            stack.callback(self._events.close)
            self._resources = stack.pop_all()
        self._config, self._workdir, self._data = config, workdir, data

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    @property
    def finished(self) -> bool:
        """Whether training is over: all epochs are done, or it stopped early."""
        return _is_over(self._config, self.history)

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
        self,
        state: TrainState,
        position: Any,
        probabilities: Float[np.ndarray, "n classes"],
        *,
        seconds: float,
        **numbers: float,
    ) -> None:
        """Saves after an epoch that took `seconds`, and writes its numbers to files and events.

        Args:
          state: the state to save.
          position: position of the input.
          probabilities: the network's predictions for the validation split.
          seconds: seconds of training.
          numbers: the other numbers of the epoch.

        Raises:
          UserError: see `CheckpointWriter.save`.
          OSError: metrics.jsonl cannot be written.
        """
        self.seconds += seconds
        self.history.append({**numbers, "seconds": self.seconds})
        if self.best is self.history[-1]:
            self._predicted = (self.history[-1]["step"], probabilities)
        self._save(state, position, self.seconds, self.history[-1])
        if jax.process_index() == 0:
            write_history(self._workdir / METRICS, self.history)
        self._events.write_epoch(self.history[-1])

    def _save(
        self, state: TrainState, position: Any, seconds: float, metrics: Mapping[str, float]
    ) -> None:
        progress = {"history": self.history, "seconds": seconds}
        self.checkpoints.save(state, position, progress, metrics)

    def evaluate_best(self, state: TrainState, predict: Predict, validation: Records) -> "Finished":
        """Returns the best checkpoint's evaluation on the validation split.

        If this process has predicted through the same views after that epoch, it does not do so
        again. Either way the checkpoint's files are compared with their digests.

        Args:
          state: state with the shapes, types and placement of the best network.
          predict: function from a network to the probabilities of `validation`.
          validation: records to evaluate on.
        """
        self.checkpoints.wait()
        step = self.checkpoints.find_step("best")
        if step == self._predicted[0] and epoch_views(self._config) == self._config.views:
            probabilities = self._predicted[1]
        else:
            probabilities = predict(*self.checkpoints.restore_model(step, **state.network))
        return _evaluate(
            self._workdir, self._config, self._data, step, probabilities, validation, self.history
        )

    def write_reports(self, finished: "Finished", training: Records) -> None:
        """Writes the reports and pictures; `training` are the records that it was trained on."""
        evaluation, report = finished.evaluation, finished.report
        write_files(evaluation, report)
        self._events.write_result(report)
        with told("figures/"):
            _write_figures(self._workdir / FIGURES, self.history, evaluation, self._events)
        _write_page(self._workdir, finished, training)


@dataclasses.dataclass(frozen=True)
class Finished:
    """A trained network, or the mean prediction of several, evaluated on the validation split.

    Attributes:
      history: as in metrics.jsonl.
      evaluation: evaluation of the best checkpoint.
      report: its report; empty on every process except 0.
    """

    history: Sequence[Mapping[str, Any]]
    evaluation: Evaluation
    report: Mapping[str, Any]

    @property
    def result(self) -> dict[str, Any]:
        """The result of `train` for a single run."""
        step, report = self.evaluation.checkpoint_step, self.report or None
        return {"history": self.history, "best_step": step, "report": report}


def evaluate_together(
    workdir: Path, config: ConfigDict, data: DataSet, members: Sequence[Finished]
) -> Finished:
    """Returns the evaluation of the mean of the members' predictions.

    The history is the mean of the members' histories.

    Args:
      workdir: folder of the ensemble.
      config: config of the ensemble.
      data: the data set.
      members: the finished members.
    """
    epochs = itertools.zip_longest(*(member.history for member in members))
    history = [mean_epoch([epoch for epoch in each if epoch]) for each in epochs]
    evaluations = [member.evaluation for member in members]
    return _evaluate(
        *(workdir, config, data),
        max(evaluation.checkpoint_step for evaluation in evaluations),
        np.mean([evaluation.probabilities for evaluation in evaluations], axis=0),
        evaluations[0].records,
        history,
        [member.report for member in members],
    )


def write_ensemble(workdir: Path, ensemble: Finished, training: Records) -> None:
    """Writes an ensemble's own files: those of a run, except checkpoints, events and figures."""
    write_history(workdir / METRICS, ensemble.history)
    write_files(ensemble.evaluation, ensemble.report)
    _write_page(workdir, ensemble, training)


def _evaluate(
    workdir: Path,
    config: ConfigDict,
    data: DataSet,
    step: int,
    probabilities: Float[np.ndarray, "n classes"],
    validation: Records,
    history: Sequence[Mapping[str, Any]],
    members: Sequence[Mapping[str, Any]] = (),
) -> Finished:
    split, views = config.validation_split, config.views
    evaluation = Evaluation(workdir, split, step, data, validation, probabilities, views)
    report = make_report(evaluation, members) if jax.process_index() == 0 else {}
    return Finished(history, evaluation, report)


def open_runs(
    stack: contextlib.ExitStack,
    workdir: Path,
    config: ConfigDict,
    members: Sequence[ConfigDict],
    data: DataSet,
) -> list[Run]:
    """Opens the workdir of a single run, or the workdirs of an ensemble's members, until `stack`
    closes.

    Raises:
      UserError: see `Run`.
    """
    if len(members) > 1:
        _claim(stack, workdir, config, data)
    folders = member_workdirs(workdir, config)
    # Members keep one more, because a stop while saving may leave them an epoch apart.
    latest = 3 if len(members) > 1 else 2
    return [
        stack.enter_context(Run(member, folder, data, latest=latest))
        for folder, member in zip(folders, members, strict=True)
    ]


def finished_result(workdir: Path, config: ConfigDict, data: DataSet) -> dict[str, Any] | None:
    """Returns the result of `train` if the run is finished with all its reports, else None.

    Raises:
      UserError: the workdir belongs to another config.
    """
    if not (workdir / CONFIG).exists():
        return None
    _write_config(workdir, config, data, write=False)
    results = []
    for folder in member_workdirs(workdir, config):
        try:
            history = read_history(folder / METRICS)
        except UserError:
            return None
        if not _is_over(config, history) or not (folder / PAGE).exists():
            return None
        report = read_report(folder, config.validation_split)
        results.append(
            {"history": history, "best_step": report["checkpoint_step"], "report": report}
        )
    if len(results) == 1:
        return results[0]
    if not (workdir / PAGE).exists():
        return None
    if config.sweep:
        sweep = summarize_sweep(config, [result["report"] for result in results])
        return {"members": results, "report": None, "sweep": sweep}
    return {"members": results, "report": read_report(workdir, config.validation_split)}


def _is_over(config: ConfigDict, history: Sequence[Mapping[str, Any]]) -> bool:
    losses = [epoch["val_loss"] for epoch in history]
    return len(losses) >= config.epochs or stagnates(config, losses)


def _claim(stack: contextlib.ExitStack, workdir: Path, config: ConfigDict, data: DataSet) -> None:
    """Locks a workdir until `stack` closes, and writes its config.json."""
    if jax.process_index() == 0:
        stack.callback(Lock(workdir).release)
        _write_config(workdir, config, data, write=True)
        (workdir / PAGE).unlink(missing_ok=True)  # It is written again at the end.


def _write_config(workdir: Path, config: ConfigDict, data: DataSet, *, write: bool) -> None:
    claim_workdir(
        workdir,
        config=config.to_dict(),
        model_defaults=default_arguments(config.model.name),
        data={
            "fingerprint": data.fingerprint,
            "source": data.source,
            "name": data.name,
            **data.images.facts,
            "classes": data.classes,
            "splits": data.split_sizes,
            "directory": place_of(data.data_dir),
            **({"excluded": data.excluded} if data.excluded else {}),
        },
        devices=describe_devices(),
        write=write,
    )


def epoch_views(config: ConfigDict) -> str:
    """Returns the views through which epochs are judged while training."""
    return config.epoch_views or config.views


def mean_epoch(members: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Returns the means of the members' numbers for one epoch, with its number and step."""
    means = {key: np.mean([member[key] for member in members]).item() for key in members[0]}
    return means | {key: members[0][key] for key in ("epoch", "step")}


def _write_page(workdir: Path, finished: Finished, training: Records) -> None:
    """Writes the run's page, its last file: a run that has it is finished."""
    evaluation, report, history = finished.evaluation, finished.report, finished.history
    with told(PAGE):
        write_run_page(workdir / PAGE, evaluation, report, history=history, training=training)


def _write_figures(
    directory: Path,
    history: Sequence[Mapping[str, Any]],
    evaluation: Evaluation,
    events: RunEvents,
) -> None:
    """Writes the run's pictures as files and events."""
    pictures = {"curves": to_png(plot_curves(history, heading=evaluation.name))}
    for name in ("confusion_matrix", "samples"):
        pictures[name] = (evaluation.directory / f"{name}.png").read_bytes()
    for name, png in pictures.items():
        write_atomically(directory / f"{name}.png", png)
        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        events.write_figures(history[-1]["step"], {name: pixels})
