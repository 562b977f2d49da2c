"""The training loop, in the order in which things happen."""

import contextlib
import functools
import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from fer_jax.config import check, check_batch_size
from fer_jax.data.augment import Augmentation
from fer_jax.data.exclusions import exclude
from fer_jax.data.prepare import prepare_if_missing
from fer_jax.data.records import (
    check_validation,
    describe_absent,
    find_data_dir,
    open_data_set,
)
from fer_jax.devices import create_mesh, device_kind, memory_errors, supported_dtype
from fer_jax.errors import UserError, warn
from fer_jax.inference.teachers import Teachers
from fer_jax.inference.validation import Validation
from fer_jax.inference.warm_start import Initialize, choose_initial_weights
from fer_jax.models import create_model, follow_data
from fer_jax.models.functional import abstract_network
from fer_jax.processes import worker
from fer_jax.remote import place_of
from fer_jax.reporting.console import EpochTable
from fer_jax.reporting.metrics import score
from fer_jax.reporting.report import print_report
from fer_jax.reporting.sweep import print_sweep, summarize_sweep, write_sweep
from fer_jax.stopping import Stopped
from fer_jax.training.ensemble import Members, member_configs, swept_values
from fer_jax.training.input import INPUTS, Input, choose_input
from fer_jax.training.interruption import Interruption
from fer_jax.training.memory import check_memory
from fer_jax.training.mirror import mirrored
from fer_jax.training.optimizer import create_optimizer, create_plateau, create_schedule
from fer_jax.training.programs import Programs
from fer_jax.training.resources import Clock
from fer_jax.training.run import (
    Run,
    epoch_views,
    evaluate_together,
    finished_result,
    mean_epoch,
    open_runs,
    write_ensemble,
)
from fer_jax.training.step import (
    STEP_KNOBS,
    FiniteLosses,
    TrainState,
    create_state,
    make_end_epoch,
    make_train_step,
)
from fer_jax.training.targets import choose_targets
from fer_jax.training.tracing import Trace
from fer_jax.workdir import PAGE, PROFILE, recorded_data_dir


@memory_errors("give a smaller batch_size, eval_batch_size or network")
@mirrored
def train(
    config: ConfigDict, workdir: str | os.PathLike, *, clock: Clock | None = None
) -> dict[str, Any]:
    """Trains a config, or resumes its run, and writes everything into `workdir`.

    Args:
      config: every knob, see `fer_jax/config.py`.
      workdir: a new folder, or the folder of a run of the same config; a path or a URL.
      clock: clock of the command, for resources.json; default: one that starts now.

    Returns:
      A mapping with `history`, one mapping per epoch as in metrics.jsonl; `best_step`, the step of
      the best checkpoint; and `report`, that checkpoint's report on the validation split, as in
      report.json (None in every process except 0). For an ensemble: `members`, a list of such
      mappings; and `report`, the report on their mean prediction. For a sweep: `members`; `sweep`,
      as in sweep.json; and `report`, None.

    Raises:
      UserError: config, data or workdir cannot be used, or a loss was not finite.
      Stopped: stopped by a signal, after saving. It is a SystemExit with status 75.
    """
    clock = clock or Clock()
    check(config)
    clock.begin("devices")
    if jax.process_count() > 1 and not worker.is_worker():
        raise UserError("several processes need `python -m fer_jax.main`; start it on each")
    workdir = Path(workdir)

    # 1. Data.
    clock.begin("records")
    recorded = worker.share("recorded data", lambda: recorded_data_dir(workdir))
    data_dir = find_data_dir(config.data_dir, recorded)
    prepare_if_missing(data_dir, config.data_source)
    data = open_data_set(data_dir, config.classes)
    training = data.load(
        config.train_split,
        memory_gib=config.memory_gib,
        ambiguous=config.targets != "majority",
    )
    validation = data.load(config.validation_split, memory_gib=config.memory_gib)
    if config.exclude:
        excluded = exclude(config.exclude, data, config.train_split, training)
        training = training.take(np.flatnonzero(excluded.kept))
        data.excluded = excluded.facts if excluded.images else {}
    for member in member_configs(config):
        targets, training = choose_targets(member, training)
    teachers = Teachers(config.teachers, data.classes, config.distillation.sha256)
    check_batch_size(config, len(training))
    config = config.copy_and_resolve_references()
    config.input = choose_input(config.input, training)
    config.distillation.sha256 = teachers.sha256
    config.model = ConfigDict(follow_data(config.model, data.images))
    digests = {"records": data.fingerprint, "weights of teachers": teachers.sha256}
    facts: dict[str, Any] = {f"digest of {what}": text[:12] for what, text in digests.items()}
    facts |= {"input": config.input, "images left out": data.excluded}
    if differs := worker.difference("data", facts):
        raise UserError(differs)
    if finished := worker.share("finished", lambda: finished_result(workdir, config, data)):
        if jax.process_index() == 0:
            place = place_of(workdir)
            print(f"{place} is finished, and nothing changes; its report is {place}/{PAGE}")
            _print_result(config, finished)
        return finished
    check_validation(data.classes, training, validation, config.validation_split)
    steps_per_epoch = config.steps_per_epoch or max(1, round(len(training) / config.batch_size))

    # 2. Network and optimiser on the devices, for one member or several.
    clock.begin("network")
    configs = member_configs(config)
    mesh = create_mesh(
        *(config.batch_size, config.eval_batch_size),
        members=len(configs),
        accumulate=config.accumulate,
    )
    members = Members(len(configs), mesh)
    schedule = create_schedule(
        config, steps_per_epoch=steps_per_epoch, total_steps=steps_per_epoch * config.epochs
    )
    swept = swept_values(configs)
    optimizer = create_optimizer(config, schedule, swept)
    plateau = create_plateau(config)
    dtype = supported_dtype(config.dtype, training=True)
    build = functools.partial(
        create_model, config.model, num_classes=len(data.classes), dtype=dtype
    )
    graph, params, statistics = abstract_network(build, mesh)
    check_memory(config, optimizer, members, graph, params, statistics, data.images)
    to_predict, _, _ = abstract_network(
        functools.partial(build, dtype=supported_dtype(config.dtype)), mesh
    )
    seeds = [member.seed for member in configs]
    state = create_state(
        build,
        optimizer,
        plateau,
        seeds=seeds,
        # All members share one schedule.
        rate_scales=[rate / config.learning_rate for rate in swept.get("learning_rate", ())],
        knobs={knob: swept[knob] for knob in STEP_KNOBS if knob in swept},
        ema=any(member.ema_decay > 0 for member in configs),
        members=members,
    )
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))

    with contextlib.ExitStack() as stack:
        # 3. A workdir of this config resumes; a workdir of another config is refused.
        runs = open_runs(stack, workdir, config, configs, data)

        # 4. Compiled functions.
        clock.begin("compilation")
        weights = class_weights(training.labels, len(data.classes), balance=config.balance_classes)
        distillation = teachers.distillation(
            weight=config.distillation.weight, temperature=config.distillation.temperature
        )
        train_step = make_train_step(
            graph,
            optimizer,
            class_weights=weights,
            targets=targets,
            label_smoothing=config.label_smoothing,
            mixup=config.mixup,
            cutmix=config.cutmix,
            ema_decay=config.ema_decay,
            accumulate=config.accumulate,
            distillation=distillation,
        )
        source = INPUTS[config.input](
            training,
            batch_size=config.batch_size,
            seeds=seeds,
            augmentation=[Augmentation.from_config(member) for member in configs],
            members=members,
        )
        ahead = min(steps_per_epoch, config.checkpoint_every_steps or steps_per_epoch)
        constants = [teachers.place(mesh)] if distillation else []
        programs = Programs(train_step, state, source, members, ahead=ahead, constants=constants)
        # Compiled in the background, since the run needs them later.
        programs_of_views = stack.enter_context(
            Validation(
                to_predict,
                (params, statistics),
                validation,
                data.images,
                batch_size=config.eval_batch_size,
                mesh=mesh,
            )
        )
        judge = predict = programs_of_views.through(epoch_views(config))
        if config.views != epoch_views(config):
            predict = programs_of_views.through(config.views)
        # On CPUs processes have 30 seconds to connect for a program; a slow one may still compile.
        worker.gather("compiled", None)
        clock.begin("restoring")
        state = _restore(runs, state, source, members)
        step = int(members.pick(state.step, 0))
        if step:
            clock.resume(workdir)
        origin = ""
        if not step:
            initialize, origin = choose_initial_weights(config, data.classes)
            state = _initialize(initialize, state, members)
        end_epoch = make_end_epoch(plateau, members)
        rate = jax.jit(schedule)  # One small program; else each of its operations is compiled.

        # 5. Epochs: train, evaluate, save, and only then draw the next batch.
        images_per_epoch = steps_per_epoch * config.batch_size
        table = EpochTable(config.epochs, images_per_epoch, images_done=step * config.batch_size)
        ensemble = f" in each of {members.count} members" if members.count > 1 else ""
        if config.sweep:
            ensemble += f" of {members.count // config.ensemble} settings, whose means are below"
        table.write(
            f"{config.model.name}, {parameters:,} parameters{ensemble}, {dtype}, on {mesh.size} x "
            f"{device_kind()}; {len(training):,} images to train on and "
            f"{len(validation):,} to validate on, {data.title} from {data.source} in "
            f"{place_of(data_dir)}"
        )
        if origin:
            table.write(origin)
        if distillation:
            networks = f" ({teachers.count} networks)" if teachers.count > 1 else ""
            table.write(f"learning from {', '.join(config.teachers)}{networks}")
        if config.exclude:
            table.write(f"left out: {excluded}")
        if absent := describe_absent(data.classes, training.labels, config.train_split):
            table.write(absent)
        epoch = step // steps_per_epoch
        if step:
            table.write(f"resuming {place_of(workdir)} after epoch {epoch}, step {step:,}")
        losses = FiniteLosses()
        with (
            Interruption() as interruption,
            Trace(workdir / PROFILE, 0 if jax.process_index() else config.profile) as trace,
            table,
        ):
            while not all(run.finished for run in runs):
                epoch += 1
                first_step, started, stop = step, time.perf_counter(), False
                clock.begin("training")
                while step < epoch * steps_per_epoch:
                    every = config.checkpoint_every_steps or steps_per_epoch
                    save_at = min(epoch * steps_per_epoch, (step // every + 1) * every)
                    state, latest, taken = programs.advance(state, save_at - step)
                    losses.add(step + 1, latest)
                    step += taken
                    table.advance(taken * config.batch_size)
                    trace.advance(taken, state)
                    stop = interruption.asked()
                    if (stop or step == save_at) and step < epoch * steps_per_epoch:
                        losses.check_all()
                        interruption.answer()
                        clock.begin("saving")
                        seconds = time.perf_counter() - started
                        for k, (run, position) in enumerate(
                            zip(runs, source.positions(), strict=True)
                        ):
                            run.save(members.pick(state, k), position, seconds=seconds)
                        clock.write(workdir)
                        clock.begin("training")
                        if stop:
                            raise Stopped(f"stopped at step {step}; the same command goes on there")
                losses.check_all()
                seconds = time.perf_counter() - started

                clock.begin("compilation")
                judge.wait()
                clock.begin("evaluation")
                numbers, probabilities = [], []
                for k in range(members.count):
                    member = members.pick(state, k)
                    metrics = jax.device_get(member.metrics.compute())
                    probabilities.append(judge(**member.network))
                    val_loss, val_accuracy = score(probabilities[k], validation.labels)
                    numbers.append(
                        {
                            "epoch": epoch,
                            "step": step,
                            "train_loss": float(metrics["loss"]),
                            "train_accuracy": float(metrics["accuracy"]),
                            "val_loss": val_loss,
                            "val_accuracy": val_accuracy,
                            "learning_rate": float(rate(step - 1) * member.scale),
                            "images_per_second": (step - first_step) * config.batch_size / seconds,
                        }
                    )
                val_losses = members.array([of_member["val_loss"] for of_member in numbers])
                losses.add(step, val_losses[..., None])
                losses.check_all()
                state = end_epoch(state, val_losses)
                interruption.answer()
                clock.begin("saving")
                for k, (run, position) in enumerate(zip(runs, source.positions(), strict=True)):
                    member = members.pick(state, k)
                    if run.finished:  # It stopped early; saved so that all resume at one step.
                        run.save(member, position, seconds=0.0)
                    else:
                        run.add_epoch(
                            *(member, position, probabilities[k]), seconds=seconds, **numbers[k]
                        )
                clock.write(workdir)
                selected = members.count == 1 and config.best_by != "last"
                best = selected and runs[0].best is runs[0].history[-1]
                table.add(mean_epoch(numbers), best=best)
                if stop or interruption.asked():
                    raise Stopped(f"stopped after epoch {epoch}; the same command goes on there")
            for run in runs:
                run.checkpoints.wait()

        # 6. The result, of the best checkpoints.
        clock.begin("compilation")
        predict.wait()
        clock.begin("evaluation")
        member = members.pick(state, 0)
        bests = [run.evaluate_best(member, predict, validation) for run in runs]
        result: dict[str, Any] = {"members": [best.result for best in bests], "report": None}
        if members.count == 1:
            together, result = bests[0], bests[0].result
        elif not config.sweep:
            together = evaluate_together(workdir, config, data, bests)
            result["report"] = together.result["report"]
        if jax.process_index() != 0:
            return result
        if config.sweep:
            result["sweep"] = summarize_sweep(config, [best.report for best in bests])
        _print_result(config, result)

        # 7. Pictures and pages, which take longer than the result.
        clock.begin("reports")
        clock.write(workdir)
        for run, best_of_run in zip(runs, bests, strict=True):
            run.write_reports(best_of_run, training)
        if config.sweep:
            write_sweep(workdir, result["sweep"])
        elif members.count > 1:
            write_ensemble(workdir, together, training)
        clock.write(workdir)
        return result


def _print_result(config: ConfigDict, result: Mapping[str, Any]) -> None:
    """Prints the table of a sweep, or of the classes."""
    if config.sweep:
        print_sweep(result["sweep"])
    else:
        which = "last" if config.best_by == "last" else "best"
        print_report(result["report"], f"{which} checkpoint, {config.validation_split}")


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


def _restore(runs: Sequence[Run], state: TrainState, source: Input, members: Members) -> TrainState:
    """Goes back to the latest step at which all runs have a checkpoint, if there is one."""
    saved = [set(run.checkpoints.steps()) for run in runs]
    step = max(set.intersection(*saved), default=0)
    if not step and any(saved):
        warn("the members have no intact checkpoint of the same step; the run starts over")
    for run in runs:
        run.checkpoints.delete_after(step)
    if not step:
        return state
    restored = [run.restore(step, members.pick(state, k)) for k, run in enumerate(runs)]
    states, positions = zip(*restored, strict=True)
    source.move_to(positions)
    return members.stack(states)


def _initialize(initialize: Initialize, state: TrainState, members: Members) -> TrainState:
    """Replaces every member's initial weights by the pretrained ones, if there are any.

    Raises:
      UserError: another process has other pretrained weights.
    """
    states = []
    digest = hashlib.sha256()
    for member in (members.pick(state, k) for k in range(members.count)):
        initial = (member.params, member.statistics)
        params, statistics = initialize(*initial)
        loaded = {"params": params, "statistics": statistics}
        for before, after in zip(*map(jax.tree.leaves, (initial, loaded)), strict=True):
            if after is not before:
                digest.update(np.asarray(after).tobytes())
        # Copies, since a step donates its state and no array can be donated twice.
        ema = member.ema and jax.tree.map(jnp.copy, loaded)
        states.append(member.replace(**loaded, ema=ema))
    pretrained = {"digest of pretrained weights": digest.hexdigest()[:12]}
    if differs := worker.difference("pretrained", pretrained):
        raise UserError(differs)
    return members.stack(states)
