"""Trains the published systems and our own networks, and puts them beside what was published.

Prints a page in Markdown. Each system has a folder of its own in the workdir, where
`python -m fer_jax.main` trains it: a finished run is left alone, a stopped one goes on by its own
plan, and with --notrain all are tabulated as they are. The best checkpoint of each is evaluated on
public_test; nobody looks at private_test here. Flags of configs may follow `--`.

Example:
  python -m benchmarks.accuracy.published --workdir=runs/published --output=benchmarks/accuracy/published.md
  python -m benchmarks.accuracy.published --workdir=short --epochs_scale=0.1 --only=small_cnn,medium_cnn
  python -m benchmarks.accuracy.published --workdir=start --only=resnet -- --config.steps_per_epoch=50

The pictures go into a folder beside the output, benchmarks/accuracy/published/ say. Where a system failed,
its row says why, and the exit status is 1.
"""

import functools
import json
import runpy
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from absl import flags

from benchmarks.accuracy.published_page import SPLIT, SYSTEMS, Result, make_page
from fer_jax import cli
from fer_jax.errors import UserError, write_atomically

_WORKDIR = flags.DEFINE_string("workdir", None, "Has, or gets, a run of each.", required=True)
_ONLY = flags.DEFINE_list("only", list(SYSTEMS), "Which to train and tabulate.")
_EPOCHS_SCALE = flags.DEFINE_float(
    "epochs_scale", 1.0, "Part of its epochs that a new run trains, at least one.", 0.0, 1.0
)
_TRAIN = flags.DEFINE_bool("train", True, "Train what is missing; otherwise tabulate only.")
_OUTPUT = flags.DEFINE_string("output", None, "Markdown file to write the page to.")


def main(arguments: Sequence[str]) -> None:
    """Trains and evaluates one system after the other, and prints and writes the page."""
    overrides = [argument for argument in arguments if argument.startswith("--config.")]
    cli.refuse_arguments([argument for argument in arguments if argument not in overrides])
    if unknown := [name for name in _ONLY.value if name not in SYSTEMS]:
        raise UserError(f"--only has {', '.join(unknown)}; choose of {', '.join(SYSTEMS)}")
    # Whoever ends this command ends the training with it, which saves first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    results = [_reproduce(name, overrides) for name in SYSTEMS if name in _ONLY.value]
    pictures = Path(_OUTPUT.value).with_suffix("") if _OUTPUT.value else None
    text = make_page(results, pictures)
    print(text)
    if _OUTPUT.value:
        write_atomically(_OUTPUT.value, text)
    if any(result.error for result in results):
        sys.exit(1)


def _reproduce(name: str, overrides: Sequence[str]) -> Result:
    """Goes as far as it gets: after training failed, what there is counts all the same."""
    result = Result(name, Path(_WORKDIR.value) / name)
    for step in (_build, functools.partial(_train, overrides=overrides), Result.read, _evaluate):
        try:
            step(result)
        except UserError as error:
            print(f"{name}: {error}", file=sys.stderr)
            result.error = result.error or str(error)
        if not result.config:
            break
    return result


def _build(result: Result) -> None:
    from fer_jax.config import flatten

    file = result.system.config
    if not Path(file).exists():
        raise UserError(f"there is no {file}")
    summary = _call("summary", f"--config={file}", "--format=json", stdout=subprocess.PIPE)
    result.parameters = json.loads(summary)["total"]
    config = runpy.run_path(file)["get_config"]()
    # As it is read back from config.json, where tuples are lists.
    result.config = flatten(json.loads(json.dumps(config.to_dict())))


def _train(result: Result, overrides: Sequence[str]) -> None:
    from fer_jax.workdir import read_run

    if not _TRAIN.value or (result.workdir / "report.html").exists():
        return
    epochs = max(1, round(_EPOCHS_SCALE.value * result.config["epochs"]))
    if (result.workdir / "config.json").exists():
        epochs = read_run(result.workdir)["config"]["epochs"]
    print(f"{result.name}: training in {result.workdir}", file=sys.stderr)
    _call(
        "main",
        *(f"--config={result.system.config}", f"--workdir={result.workdir}"),
        *(f"--config.epochs={epochs}", *overrides),
    )


def _evaluate(result: Result) -> None:
    """Reads the reports of the best checkpoint, made anew where they are not of it or its views."""
    from fer_jax.training.checkpoints import SCORES
    from fer_jax.workdir import evaluation_dir

    if not result.history:
        return
    config = result.facts["config"]
    best = max(reversed(result.history), key=SCORES[config["best_by"]])
    wanted = {"checkpoint_step": best["step"], "views": config["views"]}
    for split in (config["validation_split"], SPLIT):
        path = evaluation_dir(result.workdir, split) / "report.json"
        if not path.exists() or not wanted.items() <= json.loads(path.read_text()).items():
            _call("evaluate", f"--workdir={result.workdir}", f"--split={split}")
        result.reports[split] = json.loads(path.read_text())


def _call(module: str, *arguments: str, stdout: int | IO[str] = sys.stderr) -> str:
    """Runs a command of fer_jax, in a process of its own that alone takes the devices.

    Returns:
      What it printed, where `stdout` is `subprocess.PIPE`.

    Raises:
      UserError: it failed; the message is its last line.
    """
    command = [sys.executable, "-u", "-m", f"fer_jax.{module}", *arguments]
    with subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, text=True) as process:
        try:
            printed, errors = process.communicate()
        except KeyboardInterrupt:
            process.terminate()
            process.communicate()
            raise
    if process.returncode:
        sys.stderr.write(errors)
        lines = errors.strip().splitlines() or [f"ended with status {process.returncode}"]
        raise UserError(f"fer_jax.{module}: {lines[-1].removeprefix('error: ')}")
    return printed


if __name__ == "__main__":
    cli.run(main)
