"""A run's workdir while it is trained: config, checkpoints, history, events and final reports."""

import contextlib
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
from fer_jax.reporting.report import write_evaluation
from fer_jax.reporting.run_page import write_run_page
from fer_jax.reporting.sweep import print_sweep, summarize_sweep, write_sweep
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
        self, state: TrainState, position: Any, *, seconds: float, **numbers: float
    ) -> None:
        """Saves after an epoch that took `seconds`, and writes its numbers to files and events.

        Raises:
          UserError: see `CheckpointWriter.save`.
          OSError: metrics.jsonl cannot be written.
        """
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
            with told("figures/"):
                _write_figures(
                    self._workdir / FIGURES, self.history, evaluation.directory, self._events
                )
            _write_page(self._workdir, evaluation, report, self.history, training)
        return {"history": self.history, "best_step": step, "report": report}, probabilities


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
    if jax.process_index() != 0:
        return {"members": list(results), "report": None}
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
    _write_page(workdir, evaluation, report, history, training)
    return {"members": list(results), "report": report}


def finish_sweep(
    workdir: Path, config: ConfigDict, results: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Compares the settings of a sweep; writes and prints the table. Arguments as above.

    Returns:
      The result of `train` for a sweep.
    """
    sweep = None
    if jax.process_index() == 0:
        sweep = summarize_sweep(config, [result["report"] for result in results])
        write_sweep(workdir, sweep)
        print_sweep(sweep)
        print(f"\neverything is in {workdir}")
    return {"members": list(results), "report": None, "sweep": sweep}


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


def mean_epoch(members: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Returns the means of the members' numbers for one epoch, with its number and step."""
    means = {key: np.mean([member[key] for member in members]).item() for key in members[0]}
    return means | {key: members[0][key] for key in ("epoch", "step")}


def _write_page(
    workdir: Path,
    evaluation: Evaluation,
    report: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    training: Records,
) -> None:
    """Writes the run's page, its last file: a run that has it is finished."""
    with told(PAGE):
        write_run_page(workdir / PAGE, evaluation, report, history=history, training=training)


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
