"""Trains the published systems and our own networks, and compares them with what was published.

It prints a page in Markdown. Each system has a folder of its own in the workdir, where
`python -m fer_jax.main` trains it. A finished run is left alone, and a stopped run resumes with
its planned number of epochs. With --notrain all runs are tabulated as they are. Each run is
evaluated at its best checkpoint on public_test, never on private_test. Flags of configs may follow
`--`.

Example:
  python -m benchmarks.accuracy.published --workdir=runs/published \\
      --output=benchmarks/accuracy/published.md
  python -m benchmarks.accuracy.published --workdir=short --epochs_scale=0.1 --only=small_cnn,resnet
  python -m benchmarks.accuracy.published --workdir=start -- --config.steps_per_epoch=50

The pictures go into a folder beside the output, such as benchmarks/accuracy/published/. If a system
failed, its row says why, and the exit status is 1.
"""

import functools
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from benchmarks import children, table
from benchmarks.accuracy.published_page import SPLIT, SYSTEMS, Reproduction, System, make_page
from fer_jax import cli
from fer_jax.config import flatten, load_config
from fer_jax.data.contract import CLASS_NAMES, ImageFormat
from fer_jax.errors import UserError
from fer_jax.workdir import CONFIG, PAGE, evaluation_dir, read_run


def define_flags() -> None:
    """Defines --workdir and the other flags."""
    flags.DEFINE_string("workdir", None, "Folder with one run for each system.", required=True)
    flags.DEFINE_list("only", list(SYSTEMS), "Systems to train and tabulate.")
    flags.DEFINE_float(
        "epochs_scale", 1.0, "Fraction of the epochs that a new run trains, at least one.", 0.0, 1.0
    )
    flags.DEFINE_bool("train", True, "Train missing and unfinished runs; otherwise tabulate only.")
    flags.DEFINE_string("output", None, "Markdown file to write the page to.")


def main(arguments: Sequence[str]) -> None:
    """Trains and evaluates one system after the other, and prints and writes the page."""
    options = flags.FLAGS
    overrides = [argument for argument in arguments if argument.startswith("--config.")]
    cli.refuse_arguments([argument for argument in arguments if argument not in overrides])
    if unknown := [name for name in options.only if name not in SYSTEMS]:
        raise UserError(f"--only has {', '.join(unknown)}; choose from {', '.join(SYSTEMS)}")
    # SIGTERM ends this command like Ctrl-C: the training saves and ends too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    import jax

    jax.config.update("jax_platforms", "cpu")  # GPUs and TPUs are for the commands started here.
    runs = [
        reproduce(
            name,
            system,
            Path(options.workdir) / name,
            epochs_scale=options.epochs_scale if options.train else None,
            overrides=overrides,
        )
        for name, system in SYSTEMS.items()
        if name in options.only
    ]
    pictures = Path(options.output).with_suffix("") if options.output else None
    text = make_page(
        runs, pictures, command="python -m benchmarks.accuracy.published --workdir=DIR"
    )
    table.publish(text, options.output)
    if any(run.error for run in runs):
        sys.exit(1)


def reproduce(
    name: str,
    system: System,
    workdir: Path,
    *,
    epochs_scale: float | None = 1.0,
    overrides: Sequence[str] = (),
) -> Reproduction:
    """Trains and evaluates a system as far as possible.

    If training fails, the finished epochs are still evaluated.

    Args:
      name: name of the system.
      system: published facts, and the config.
      workdir: folder of its run.
      epochs_scale: fraction of the config's epochs that a new run trains; None: no training.
      overrides: flags of the config.
    """
    run = Reproduction(name, system, workdir)
    train = functools.partial(_train, epochs_scale=epochs_scale, overrides=overrides)
    for step in (_build, train, Reproduction.read, _evaluate):
        try:
            step(run)
        except UserError as error:
            print(f"{name}: {error}", file=sys.stderr)
            run.error = run.error or str(error)
        if not run.config:
            break
    return run


def _build(run: Reproduction) -> None:
    from flax import nnx

    from fer_jax.models import create_model, follow_data
    from fer_jax.summary import count_parameters

    config = load_config(run.system.config)
    classes = config.classes or CLASS_NAMES
    build = functools.partial(create_model, config.model, num_classes=len(classes), dtype="float32")
    network = nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0)))
    run.parameters = count_parameters(network)["total"]
    # As read back from config.json, where tuples are lists.
    of_fer2013 = {**config.to_dict(), "model": follow_data(config.model, ImageFormat())}
    run.config = flatten(json.loads(json.dumps(of_fer2013)))


def _train(run: Reproduction, *, epochs_scale: float | None, overrides: Sequence[str]) -> None:
    if epochs_scale is None or (run.workdir / PAGE).exists():
        return
    epochs = max(1, round(epochs_scale * run.config["epochs"]))
    if (run.workdir / CONFIG).exists():
        epochs = read_run(run.workdir)["config"]["epochs"]
    print(f"{run.name}: training in {run.workdir}", file=sys.stderr)
    arguments = (f"--config={run.system.config}", f"--workdir={run.workdir}")
    children.run("main", *arguments, f"--config.epochs={epochs}", *overrides)


def _evaluate(run: Reproduction) -> None:
    """Reads the reports, after making those that are missing or of another checkpoint or views."""
    from fer_jax.training.checkpoints import SCORES

    if not run.history:
        return
    config = run.facts["config"]
    best = max(reversed(run.history), key=SCORES[config["best_by"]])
    wanted = {"checkpoint_step": best["step"], "views": config["views"]}
    for split in (config["validation_split"], SPLIT):
        path = evaluation_dir(run.workdir, split) / "report.json"
        if not path.exists() or not wanted.items() <= json.loads(path.read_text()).items():
            children.run("evaluate", f"--workdir={run.workdir}", f"--split={split}")
        run.reports[split] = json.loads(path.read_text())


if __name__ == "__main__":
    cli.run(main, define_flags)
