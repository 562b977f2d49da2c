"""The training loop, top to bottom in the order in which things happen."""

import contextlib
import functools
import io
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict
from PIL import Image

from data_prep.contract import UserError, write_atomically
from fer_jax.data.augment import Augmentation
from fer_jax.data.pipeline import training_batches
from fer_jax.data.prepare import prepare_if_missing
from fer_jax.data.records import Records, find_data_dir, open_data_set
from fer_jax.models import create_model
from fer_jax.reporting.console import EpochTable
from fer_jax.reporting.evaluation import write_evaluation
from fer_jax.reporting.figures import plot_curves, to_png
from fer_jax.reporting.history import write_history
from fer_jax.reporting.metrics import score
from fer_jax.reporting.predictions import Predictions
from fer_jax.reporting.report import write_report
from fer_jax.reporting.writers import create_writer, metric_writers
from fer_jax.training.checkpoints import SCORES, Checkpoints
from fer_jax.training.interruption import Interruption
from fer_jax.training.mesh import create_mesh, supported_dtype, to_devices
from fer_jax.training.optimizer import (
    create_optimizer,
    create_plateau,
    create_schedule,
    stagnates,
)
from fer_jax.training.prediction import abstract_network, make_predict, predict_records
from fer_jax.training.run_config import claim_workdir
from fer_jax.training.step import FiniteLosses, create_state, make_end_epoch, make_train_step


def train(config: ConfigDict, workdir: str | Path) -> dict[str, Any]:
    """Trains as `config` says, or resumes, and leaves everything in `workdir`.

    Args:
      config: see `configs/base.py`.
      workdir: a new folder, or that of a run of the same config.

    Returns:
      `history`, one mapping per epoch as in metrics.jsonl; `best_step`, of the best checkpoint;
      `report`, that checkpoint's on the validation split, as in report.json; None but on process 0.

    Raises:
      UserError: config, data or workdir cannot be used, or a loss was not finite.
      SystemExit: stopped by a signal, after saving.
    """
    _check(config)
    workdir = Path(workdir)

    # 1. Data.
    data_dir = find_data_dir(config.data_dir)
    prepare_if_missing(data_dir, config.data_source)
    data = open_data_set(data_dir, config.classes)
    training = data.load(config.train_split, in_memory=config.in_memory)
    validation = data.load(config.validation_split, in_memory=config.in_memory)
    batches = training_batches(
        training,
        batch_size=config.batch_size,
        seed=config.seed,
        augmentation=Augmentation.from_config(config),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    steps_per_epoch = config.steps_per_epoch or max(1, round(len(training) / config.batch_size))

    # 2. Network and optimiser, on the devices.
    mesh = create_mesh(config.batch_size, config.eval_batch_size)
    schedule = create_schedule(
        config, steps_per_epoch=steps_per_epoch, total_steps=steps_per_epoch * config.epochs
    )
    optimizer = create_optimizer(config, schedule)
    plateau = create_plateau(config)
    dtype = supported_dtype(config.dtype)
    build = functools.partial(
        create_model, config.model, num_classes=len(data.classes), dtype=dtype
    )
    graph, _, _ = abstract_network(build, mesh)
    state = create_state(build, optimizer, plateau, seed=config.seed, mesh=mesh)

    # 3. A workdir of this config is resumed, one of another is refused.
    claim_workdir(workdir, config, data)
    checkpoints = Checkpoints(workdir / "checkpoints", best_by=config.best_by)
    progress: dict[str, Any] = {"history": [], "seconds": 0.0}
    if restored := checkpoints.restore(state, batches):
        state, progress = restored
    history, step = progress["history"], int(state.step)
    writer = create_writer(workdir)

    # 4. Compiled functions; the step ahead of time, so that no epoch's speed includes it.
    weights = class_weights(training.labels, len(data.classes), balance=config.balance_classes)
    jitted_step = make_train_step(
        graph, optimizer, label_smoothing=config.label_smoothing, class_weights=weights, mesh=mesh
    )
    train_step = jitted_step.lower(state, _batch_shapes(config.batch_size, validation)).compile()
    end_epoch = make_end_epoch(plateau, mesh)
    predict = functools.partial(
        predict_records,
        make_predict(graph, mesh),
        records=validation,
        batch_size=config.eval_batch_size,
        mesh=mesh,
    )

    # 5. Epochs: train, evaluate, save, and only then draw the next batch.
    losses = FiniteLosses()
    images_per_epoch = steps_per_epoch * config.batch_size
    table = EpochTable(config.epochs, images_per_epoch, images_done=step * config.batch_size)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    table.write(
        f"{config.model.name}, {parameters:,} parameters, {dtype}, on {mesh.size} x "
        f"{mesh.devices.flat[0].device_kind}; {len(training):,} images to train on and "
        f"{len(validation):,} to validate on, from {data.source} in {data_dir}"
    )
    if step:
        table.write(f"resuming {workdir} after epoch {len(history)}, step {step:,}")
    closing = contextlib.closing
    with closing(checkpoints), closing(writer), Interruption() as interruption, table:
        while len(history) < config.epochs and not stagnates(
            config, [epoch["val_loss"] for epoch in history]
        ):
            epoch = len(history) + 1
            first_step, started, stop = step, time.perf_counter(), False
            while step < epoch * steps_per_epoch:
                state, loss = train_step(state, to_devices(next(batches), mesh))
                step += 1
                losses.add(step, loss)
                table.advance(config.batch_size)
                stop = interruption.asked(step)
                save = config.checkpoint_every_steps and step % config.checkpoint_every_steps == 0
                if (stop or save) and step < epoch * steps_per_epoch:
                    losses.check_all()
                    seconds = progress["seconds"] + time.perf_counter() - started
                    checkpoints.save(state, batches, {"history": history, "seconds": seconds}, {})
                    if stop:
                        sys.exit(f"stopped at step {step}; the same command goes on from there")
            losses.check_all()
            metrics = jax.device_get(state.metrics.compute())
            seconds = time.perf_counter() - started
            progress["seconds"] += seconds

            probabilities = predict(state.params, state.statistics)
            val_loss, val_accuracy = score(probabilities, validation.labels)
            losses.add(step, val_loss)
            losses.check_all()
            plateau_scale = 1.0 if state.plateau is None else float(state.plateau.scale)
            history.append(
                {
                    "epoch": epoch,
                    "step": step,
                    "train_loss": float(metrics["loss"]),
                    "train_accuracy": float(metrics["accuracy"]),
                    "val_loss": val_loss,
                    "val_accuracy": val_accuracy,
                    "learning_rate": float(schedule(step - 1)) * plateau_scale,
                    "images_per_second": (step - first_step) * config.batch_size / seconds,
                    "seconds": progress["seconds"],
                }
            )
            state = end_epoch(state, val_loss)
            checkpoints.save(state, batches, progress, history[-1])
            if jax.process_index() == 0:
                write_history(workdir / "metrics.jsonl", history)
            writer.write_scalars(step, history[-1])
            best = max(reversed(history), key=SCORES[config.best_by])
            table.add(history[-1], best=best is history[-1])
            if stop:
                sys.exit(f"stopped after epoch {epoch}; the same command goes on from there")

        # 6. The best checkpoint, evaluated and pictured.
        checkpoints.wait()
        best_step = checkpoints.find_step("best")
        params, statistics = checkpoints.restore_model(best_step, state.params, state.statistics)
        probabilities = predict(params, statistics)
        report = None
        if jax.process_index() == 0:
            predictions = Predictions(
                workdir, config.validation_split, best_step, data, validation, probabilities
            )
            report = write_evaluation(predictions)
            _write_figures(workdir / "figures", history, predictions.directory, writer)
            page = workdir / "report.html"
            write_report(page, predictions, report, history=history, training=training)
    return {"history": history, "best_step": best_step, "report": report}


def class_weights(
    labels: Int[np.ndarray, " n"], classes: int, *, balance: bool
) -> Float[np.ndarray, " classes"]:
    """Returns each class's weight in the loss: n / (classes * n_c), or 1 without `balance`.

    Raises:
      UserError: a class to be balanced has no image.
    """
    if not balance:
        return np.ones(classes, np.float32)
    counts = np.bincount(labels, minlength=classes)
    if not counts.all():
        raise UserError(f"balance_classes cannot weigh class {counts.argmin()}: it has no image")
    return (len(labels) / (classes * counts)).astype(np.float32)


def _check(config: ConfigDict) -> None:
    for key in ("epochs", "batch_size", "eval_batch_size"):
        if config[key] < 1:
            raise UserError(f"{key} is {config[key]}; give 1 or more")
    if config.best_by not in SCORES:
        raise UserError(f"best_by is {config.best_by!r}; choose one of {', '.join(SCORES)}")
    for key in ("shift", "zoom", "label_smoothing"):
        if not 0 <= config[key] < 1:
            raise UserError(f"{key} is {config[key]}; give a fraction in [0, 1)")


def _batch_shapes(batch_size: int, records: Records) -> dict[str, jax.ShapeDtypeStruct]:
    image = records.read(np.arange(1))
    return {
        "image": jax.ShapeDtypeStruct((batch_size, *image.shape[1:]), image.dtype),
        "label": jax.ShapeDtypeStruct((batch_size,), records.labels.dtype),
    }


def _write_figures(
    directory: Path,
    history: Sequence[Mapping[str, Any]],
    evaluation_dir: Path,
    writer: metric_writers.MetricWriter,
) -> None:
    """Gathers the run's pictures, for people and for TensorBoard."""
    pictures = {"curves": to_png(plot_curves(history))}
    for name in ("confusion_matrix", "samples"):
        pictures[name] = (evaluation_dir / f"{name}.png").read_bytes()
    for name, png in pictures.items():
        write_atomically(directory / f"{name}.png", png)
        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        writer.write_images(history[-1]["step"], {name: pixels})
