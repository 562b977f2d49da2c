"""Times training from the start of its command until a validation accuracy is reached.

Example:
  python -m benchmarks.time_to_accuracy --target=0.55 --config=published/small_cnn \\
      --config.epochs=12 --torch_python=torch_env/bin/python --keras_python=tf_env/bin/python

The records are prepared before. Each run is a new process with an empty compilation cache, and its
clock starts with the process. After each epoch it evaluates the whole validation split of the
config; the first epoch that reaches the target counts, or else the result at the end, which may be
seen through more views. Nothing else is read from the split.

PyTorch and Keras are peers, not dependencies: make an environment for each, and name its
interpreter. They train the same network, from initial weights of the same kind, on the same images,
with the same shift, flip, batches, Adam and learning rates. They find the images in an .npz file
that is made before, and keep the best weights in a file. The sides take turns.

The exit status is 1 if fer_jax misses the target in one of its turns; no record is then written.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from benchmarks import record, table
from benchmarks.children import failure
from fer_jax import cli
from fer_jax.config import check, default_config, flatten
from fer_jax.errors import UserError
from fer_jax.workdir import METRICS, read_history, read_report

_SHARED = (
    *("seed", "data_dir", "train_split", "validation_split", "memory_gib", "input", "best_by"),
    *("batch_size", "eval_batch_size", "steps_per_epoch", "epochs", "shift", "flip", "dtype"),
    *("learning_rate", "schedule"),
)
"""Knobs that the peers' sides know, besides the network's. They have the others' defaults."""


class Run(NamedTuple):
    """One run of one side.

    Attributes:
      reached: seconds until the target was reached; None if it was not.
      total: seconds until the process ended.
      best: best accuracy of all evaluations.
      facts: for ours, what `record.of_run` says; for a peer, its `version`.
    """

    reached: float | None
    total: float
    best: float
    facts: Mapping[str, Any]


def define_flags() -> None:
    """Defines --config, --target and the other flags."""
    cli.define_config(default="published/small_cnn", what="Config to train.")
    flags.DEFINE_float("target", None, "Accuracy to reach, as a fraction.", required=True)
    flags.DEFINE_integer("rounds", 1, "Turns of each side.", lower_bound=1)
    flags.DEFINE_string("torch_python", None, "Interpreter that has PyTorch.")
    flags.DEFINE_string("keras_python", None, "Interpreter that has Keras and TensorFlow.")
    record.define_flags()


def main(arguments: Sequence[str]) -> None:
    """Times all sides in turn, and prints and keeps the tables."""
    cli.refuse_arguments(arguments)
    options = flags.FLAGS
    config, target = options.config, options.target
    check(config)
    if not 0 < target < 1:
        raise UserError(f"--target is {target}; give a fraction between 0 and 1, such as 0.7")
    config_file = config_flags.get_config_filename(options["config"])
    if config.ensemble > 1 or config.sweep:
        raise UserError("the accuracy of one network is timed; give neither ensemble nor sweep")
    folder = Path(__file__).parent
    peers = {
        side: [python, str(folder / script)]
        for side, python, script in (
            ("PyTorch", options.torch_python, "train_pytorch.py"),
            ("Keras", options.keras_python, "train_keras.py"),
        )
        if python
    }
    load = os.getloadavg()[0]
    runs: dict[str, list[Run]] = {side: [] for side in ("fer_jax", *peers)}
    with tempfile.TemporaryDirectory() as scratch:
        job = _make_job(config, Path(scratch)) if peers else ""
        for turn in range(options.rounds):
            for side, taken in runs.items():
                place = Path(scratch) / f"{side}_{turn}"
                place.mkdir()
                if side == "fer_jax":
                    taken.append(_time_ours(place, target, config.validation_split))
                else:
                    taken.append(_time_peer([*peers[side], job, str(place / "weights")], target))
                print(side, _describe(taken[-1], target), flush=True)
    if line := missed(runs["fer_jax"], target):
        print(line, file=sys.stderr)
        sys.exit(1)
    facts = runs["fer_jax"][0].facts
    name = options.name or f"{Path(config_file).stem}_{100 * target:g}"
    path = record.write(
        "time_to_accuracy",
        f"{name}-{record.slug(facts['hardware'])}",
        make_figures(runs, target, load),
        command=table.command("time_to_accuracy"),
        n=options.rounds,
        folder=Path(options.results),
        **{key: facts[key] for key in ("hardware", "versions", "config", "seeds", "seconds")},
    )
    print(table.page(record.read_file(path)))


def missed(runs: Sequence[Run], target: float) -> str:
    """Returns a line about the first run that did not reach the target; empty if all did."""
    lines = [_describe(run, target) for run in runs if run.reached is None]
    return f"fer_jax {lines[0]}; no record is written" if lines else ""


def _describe(run: Run, target: float) -> str:
    reached = f"did not reach {target:.2%}"
    if run.reached is not None:
        reached = f"reached {target:.2%} after {run.reached:.1f} s"
    return f"{reached}; its best is {run.best:.2%}, and it ended after {run.total:.1f} s"


def make_figures(runs: Mapping[str, Sequence[Run]], target: float, load: float) -> dict[str, Any]:
    """Returns the figures of the record: a table of the sides, and one of our phases.

    Args:
      runs: runs of each side; "fer_jax" is ours.
      target: the accuracy to reach.
      load: the machine's load before the first turn.
    """
    facts = runs["fer_jax"][0].facts
    knobs = facts["config"]["knobs"]
    rows = []
    for side, taken in runs.items():
        times = [run.reached for run in taken if run.reached is not None]
        rows.append(
            [
                *(side if side == "fer_jax" else taken[0].facts["version"], len(taken)),
                table.spread(times) if len(times) == len(taken) else "not reached",
                table.spread([run.total for run in taken]),
                table.spread([100 * run.best for run in taken]),
            ]
        )
    columns = {
        **{"": "", "n": "d", "seconds to the accuracy": ".1f", "seconds in all": ".1f"},
        "best accuracy, %": ".2f",
    }
    phases = {
        phase: table.spread([run.facts["seconds"].get(phase, 0.0) for run in runs["fer_jax"]])
        for phase in facts["seconds"]
    }
    views = knobs["epoch_views"] or knobs["views"]
    seen = f"after each epoch, through views = {views}"
    if views != knobs["views"]:
        seen += f", and fer_jax at the end through views = {knobs['views']}"
    about = (
        f"Seconds from the start of the command to {target:.2%} of {knobs['validation_split']}, "
        f"with the {knobs['epochs']}-epoch schedule of {facts['config']['file']}, an empty "
        "compilation cache and prepared records: median (least to most), in turn. Every side "
        f"evaluates the whole split {seen}. Our seconds in all include checkpoints, pictures and "
        f"pages; the peers keep their best weights. Load before the first turn: {load:.1f}."
    )
    return table.figures(
        "Time to an accuracy",
        about,
        table.make(columns, rows),
        table.make({"phase of fer_jax": "", "seconds": ".1f"}, map(list, phases.items())),
        target=target,
    )


def _time_ours(place: Path, target: float, split: str) -> Run:
    workdir = place / "run"
    command = [sys.executable, "-u", "-m", "fer_jax.main", *_config_flags(sys.argv[1:])]
    cache = str(place / "cache")
    lines, total = _watch(
        [*command, f"--workdir={workdir}"],
        {"JAX_COMPILATION_CACHE_DIR": cache, "CUDA_CACHE_PATH": cache},
    )
    epochs = [when for when, line in lines if re.match(r" *\d+/\d+ ", line)]
    told = [epoch["val_accuracy"] for epoch in read_history(workdir / METRICS)]
    evaluations = list(zip(epochs, told, strict=True))
    result = read_report(workdir, split)["accuracy"]
    evaluations += [(when, result) for when, line in lines if line.startswith("accuracy ")]
    return _summarize(evaluations, target, total, record.of_run(workdir))


def _time_peer(command: Sequence[str], target: float) -> Run:
    lines, total = _watch(command, {})
    told = [(when, json.loads(line)) for when, line in lines if line.startswith("{")]
    evaluations = [(when, epoch["val_accuracy"]) for when, epoch in told]
    return _summarize(evaluations, target, total, {"version": told[-1][1]["version"]})


def _summarize(
    evaluations: Sequence[tuple[float, float]], target: float, total: float, facts: Mapping
) -> Run:
    times = [when for when, accuracy in evaluations if accuracy >= target]
    best = max(accuracy for _, accuracy in evaluations)
    return Run(min(times, default=None), total, best, facts)


def _watch(
    command: Sequence[str], environment: Mapping[str, str]
) -> tuple[list[tuple[float, str]], float]:
    """Runs a command; returns the lines that it prints, each with its second, and the last second.

    Raises:
      UserError: it fails; the message has the last line of its standard error.
    """
    # Python keeps its compiled modules, as it does for users.
    known = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryFile("w+") as errors, contextlib.ExitStack() as stack:
        started = time.perf_counter()
        try:
            process = stack.enter_context(
                subprocess.Popen(
                    command,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    env=known | dict(environment),
                )
            )
        except OSError as error:
            raise UserError(
                f"cannot run {command[0]}: {error.strerror}; name an interpreter"
            ) from None
        stack.callback(process.terminate)  # Training saves before it ends.
        assert process.stdout
        lines = [(time.perf_counter() - started, line) for line in process.stdout]
        status = process.wait()
        total = time.perf_counter() - started
        if status:
            errors.seek(0)
            raise failure(Path(command[0]).name, errors.read(), status)
    return lines, total


def _config_flags(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments that are --config or --config.KEY, for another command."""
    given = []
    for position, argument in enumerate(arguments):
        if re.match(r"--?(no)?config(\.[\w.]+)?(=|$)", argument):
            given.append(argument)
            if argument in ("--config", "-config"):
                given.append(arguments[position + 1])
    chosen = any(re.match(r"--?config(=|$)", argument) for argument in given)
    return given if chosen else ["--config=published/small_cnn", *given]


def _make_job(config: ConfigDict, folder: Path) -> str:
    """Writes the images for the peers into a file; returns the file and the knobs, as JSON.

    Raises:
      UserError: the config has a knob that the peers' sides do not know.
    """
    from fer_jax.data.records import find_data_dir, open_data_set

    standard = flatten(default_config().to_dict())
    for knob, value in flatten(config.to_dict()).items():
        unknown = not knob.startswith("model.") and knob not in _SHARED and value != standard[knob]
        if unknown or (knob, value) == ("schedule", "plateau"):
            raise UserError(
                f"{knob} is {value!r}, which the sides of PyTorch and Keras do not know; set "
                f"--config.{knob}={standard[knob]!r}, or time fer_jax alone"
            )
    if config.model.name not in ("cnn", "resnet"):
        raise UserError(
            f"model.name is {config.model.name!r}; PyTorch and Keras train cnn and resnet"
        )
    data = open_data_set(find_data_dir(config.data_dir), config.classes)
    arrays = {}
    for name, split in (("train", config.train_split), ("validation", config.validation_split)):
        records = data.load(split)
        arrays |= {f"{name}_images": records.images(), f"{name}_labels": records.labels}
    np.savez(folder / "images.npz", **arrays)
    steps = config.steps_per_epoch or max(1, round(len(arrays["train_labels"]) / config.batch_size))
    return json.dumps(
        {
            **{knob: config[knob] for knob in _SHARED},
            "model": config.model.to_dict() | {"channels": config.model.channels or 1},
            "steps_per_epoch": steps,
            "images": str(folder / "images.npz"),
        }
    )


if __name__ == "__main__":
    cli.run(main, define_flags)
