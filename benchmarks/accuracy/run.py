"""Evaluates a finished run and records its accuracy: of each seed, and without leaked images.

Example:
  python -m benchmarks.accuracy.run --workdir=runs/small_cnn --config=published/small_cnn
  python -m benchmarks.accuracy.run --workdir=fer_jax/weights --config=ready \\
      --data_dir=data/fer2013 --views=one,flip,ten_crop

A run is evaluated at its best checkpoint on its validation split and on public_test, never on
private_test. Reports that it already has are only read. Leaked images, which are copies of training
images, are those of audit.csv in the folder of the records; `fer_jax audit` writes it, and so does
this command if it is missing. It leaves results/accuracy/<name>.json, with pictures of curves and
confusion matrix beside it.
"""

import io
import json
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks import record, table
from fer_jax import cli
from fer_jax.errors import write_atomically
from fer_jax.workdir import METRICS, WEIGHTS, member_workdirs, read_history, read_run

SPLIT = "public_test"
AUDIT = "audit.csv"

_COLOURS = 64  # Enough for the pictures, at a third of their size.


def define_flags() -> None:
    """Defines --workdir and the other flags."""
    cli.define_path("workdir", "Folder of a finished run, or a model folder.", required=True)
    flags.DEFINE_string("config", None, "Name of its config; default: the most similar.")
    flags.DEFINE_list("views", [], "Views to evaluate through, besides the run's own.")
    cli.define_path("data_dir", "Folder of the records; default: the run's.")
    cli.define_path("audit", "List of leaked images; default: audit.csv beside the records.")
    record.define_flags()


def main(arguments: Sequence[str]) -> None:
    """Evaluates, records and prints the scores."""
    cli.refuse_arguments(arguments)
    cli.set_up_jax()
    options = flags.FLAGS
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(options.workdir)
        if (workdir / WEIGHTS).exists():  # Its reports would show images of the data.
            workdir = _copy(workdir, Path(folder))
        evaluate_run(workdir, options.views, options.data_dir, options.audit)
        found = keep_run(workdir, options.config)
    for name, evaluation in found["figures"]["evaluations"].items():
        accuracies = [100 * seed["accuracy"] for seed in evaluation["seeds"]]
        print(f"{name}: {', '.join(f'{each:.2f}' for each in accuracies)} %")


def evaluate_run(
    workdir: Path, views: Sequence[str], data_dir: Path | None, audit: Path | None
) -> None:
    """Evaluates a run on its validation split and on public_test, where that is not done yet."""
    from fer_jax import evaluate
    from fer_jax.data.records import find_run_data

    run = read_run(workdir)
    own, validation = run["config"]["views"], run["config"]["validation_split"]
    wanted = [(validation, own), *((SPLIT, view) for view in (own, *views))]
    for split, view in dict.fromkeys(wanted):
        folder = split if view == own else f"{split}+{view}"
        if _is_done(workdir / "eval" / folder, excluded=split == SPLIT):
            continue
        data_dir = data_dir or Path(find_run_data(run))
        leaks = f"{audit or _find_audit(data_dir)}:leak" if split == SPLIT else ""
        evaluate(workdir, split, views=view, data_dir=data_dir, exclude=leaks)


def keep_run(workdir: Path, config: str | None) -> dict[str, Any]:
    """Records an evaluated run as --results and --name say, with its pictures; returns it."""
    facts = record.of_run(workdir, config)
    name = facts["config"]["file"].rpartition("/")[2]
    told = f"{name}-{flags.FLAGS.name}" if flags.FLAGS.name else name
    found = record.keep("accuracy", **facts, command=_command(workdir, facts), name=told)
    for what, figure in _figures(workdir, found).items():
        path = Path(flags.FLAGS.results, "accuracy", f"{found['name']}-{what}.png")
        write_atomically(path, _small_png(figure))
    return found


def _is_done(folder: Path, *, excluded: bool) -> bool:
    try:
        report = json.loads((folder / "report.json").read_text())
    except (OSError, ValueError):
        return False
    return not excluded or "excluded" in report


def _find_audit(data_dir: Path) -> Path:
    """Returns the list of leaked images, after making it if it is missing."""
    from fer_jax.auditing.findings import audit
    from fer_jax.data.records import open_data_set

    path = data_dir / AUDIT
    if not path.exists():
        write_atomically(path, audit(open_data_set(data_dir), {}).to_csv())
    return path


def _copy(model: Path, folder: Path) -> Path:
    """Copies a model folder with the reports that it has."""
    return Path(shutil.copytree(model, folder / "model"))


def _command(workdir: Path, facts: Mapping[str, Any]) -> str:
    """Returns the command that trained the run; for a model folder, the one that evaluated it."""
    if not facts["seconds"]:
        return table.command("accuracy.run")
    config = facts["config"]
    changes = dict(config["changes"])
    if teachers := config["knobs"].get("teachers"):
        changes["teachers"] = ",".join(teachers)
    told = [f"--config.{key}={value}" for key, value in changes.items()]
    return f"python -m fer_jax.main --config={config['file']} {shlex.join(told)}".rstrip()


def _figures(workdir: Path, found: Mapping[str, Any]) -> dict[str, Any]:
    import numpy as np

    from fer_jax.reporting.figures import plot_confusion_matrix, plot_curves

    run = read_run(workdir)
    evaluation = found["figures"]["evaluations"][SPLIT]
    matrix = np.array(evaluation["confusion_matrix"])
    figures = {"confusion_matrix": plot_confusion_matrix(matrix, list(evaluation["per_class"]))}
    history = member_workdirs(workdir, run["config"])[0] / METRICS
    if history.exists():
        figures["curves"] = plot_curves(read_history(history))
    return figures


def _small_png(figure: Any) -> bytes:
    from PIL import Image

    from fer_jax.reporting.figures import to_png

    file = io.BytesIO()
    picture = Image.open(io.BytesIO(to_png(figure))).convert("RGB")
    picture.quantize(_COLOURS).save(file, "PNG", optimize=True)
    return file.getvalue()


if __name__ == "__main__":
    cli.run(main, define_flags)
