"""Evaluates a checkpoint of a run on a split; prints a table and writes a report and predictions.

It needs a workdir of `python -m fer_jax.main`, and records.

Example:
  python -m fer_jax.evaluate --workdir=runs/small_cnn --split=public_test
  python -m fer_jax.evaluate --workdir=runs/small_cnn --split=public_test --exclude=audit.csv:leak

It leaves in the workdir: eval/<split>/ with report.json, predictions.csv, report.html,
confusion_matrix.png and samples.png. Other data, views or checkpoints than the run's own have a
folder of their own, such as eval/<split>+ten_crop/.
"""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from fer_jax import cli
from fer_jax.config import VIEWS
from fer_jax.errors import UserError

if TYPE_CHECKING:
    import numpy as np


def evaluate(
    workdir: str | os.PathLike,
    split: str,
    *,
    checkpoint: str = "best",
    views: str | None = None,
    data_dir: str | os.PathLike | None = None,
    exclude: str = "",
) -> dict[str, Any]:
    """Evaluates a run's checkpoint on a split, and writes a folder below `eval` into its workdir.

    The folder is `eval/<split>` for the run's own data, views and best checkpoint. Others extend
    its name, in this order: `+<views>`, `+step_<step>`, `+data_<start of the fingerprint>`.

    For an ensemble: the mean prediction of its members, and each member in its own workdir.

    Args:
      workdir: folder of the run, or a model folder; a path or a URL, where the folder is sent to.
      split: see `DataSet.load`.
      checkpoint: "best", "latest" or a step.
      views: views of each image whose probabilities are averaged, see `fer_jax/config.py`;
        default: the run's.
      data_dir: folder of the records, a path or a URL; default: the one that the run was trained
        on.
      exclude: list of images, such as "audit.csv" or "audit.csv:leak", without which the figures
        are given, too; see `fer_jax/data/exclusions.py`.

    Returns:
      The report, as in report.json.

    Raises:
      UserError: the run, checkpoint, data set, split or views do not exist; the data have other
        classes or images of another format than the run; the list cannot be used; or a URL cannot
        be reached.
    """
    # Imported here: a wrong flag is reported at once.
    from fer_jax.inference.trained import copied_run

    with copied_run(workdir, checkpoint) as copy:
        report = _evaluate(copy.folder, split, checkpoint, views, data_dir, exclude)
        copy.send()
    return report


def _evaluate(
    workdir: Path,
    split: str,
    checkpoint: str,
    views: str | None,
    data_dir: str | os.PathLike | None,
    exclude: str,
) -> dict[str, Any]:
    import numpy as np

    from fer_jax.data.exclusions import exclude as find_excluded
    from fer_jax.data.records import find_data_dir, find_run_data, open_data_set
    from fer_jax.inference.model_folder import is_model_folder
    from fer_jax.inference.trained import load_trained
    from fer_jax.reporting.evaluation import Evaluation, variant
    from fer_jax.reporting.report import write_evaluation
    from fer_jax.workdir import member_workdirs, read_run

    model = load_trained(workdir, checkpoint, views)
    run = read_run(workdir)
    data = open_data_set(find_data_dir(data_dir) if data_dir else find_run_data(run), model.classes)
    if data.classes != model.classes:
        raise UserError(f"the data's classes {data.classes} are not the run's {model.classes}")
    if data.images != model.images:
        raise UserError(
            f"the data's images are {data.images}, the run's {model.images}; prepare the data with "
            f"--image_size={model.images.size} --channels={model.images.channels} "
            f"--fit={model.images.fit}"
        )
    records = data.load(split)
    excluded = find_excluded(exclude, data, split, records) if exclude else None
    probabilities = model.network_probabilities(records)

    def write(
        folder: Path,
        steps: Sequence[int],
        best: Sequence[int | None],
        probabilities: "np.ndarray",
        members: Sequence[dict] = (),
    ) -> dict[str, Any]:
        other = variant(
            views="" if model.views == model.config.views else model.views,
            step=0 if steps == best else max(steps),
            fingerprint="" if data.fingerprint == run["data"]["fingerprint"] else data.fingerprint,
        )
        evaluation = Evaluation(
            folder, split, max(steps), data, records, probabilities, model.views, other, excluded
        )
        return write_evaluation(evaluation, members)

    folders = member_workdirs(workdir, model.config)
    best = (
        list(model.steps)
        if is_model_folder(workdir)
        else [_best_step(folder, model.config.best_by) for folder in folders]
    )
    each = zip(folders, model.steps, best, probabilities, strict=True)
    members = [write(path, [s], [b], p) for path, s, b, p in each] if len(folders) > 1 else []
    return write(workdir, list(model.steps), best, np.mean(probabilities, axis=0), members)


def _best_step(workdir: Path, best_by: str) -> int | None:
    """Returns the step of the best checkpoint; None if there is none yet, or it is damaged."""
    from fer_jax.training.checkpoints import Checkpoints
    from fer_jax.workdir import CHECKPOINTS

    with contextlib.suppress(UserError):
        return Checkpoints(workdir / CHECKPOINTS, best_by=best_by).find_step("best")
    return None


def define_flags() -> None:
    """Defines --workdir and the other flags."""
    cli.define_path("workdir", "Folder of the run.", required=True, remote=True)
    flags.DEFINE_string("split", None, "Images to evaluate on, for example test.", required=True)
    flags.DEFINE_string("checkpoint", "best", "best, latest or a step.")
    flags.DEFINE_enum("views", None, VIEWS, "Views to average over; default: the run's.")
    cli.define_path("data_dir", "Folder of the records; default: the run's.", remote=True)
    flags.DEFINE_string(
        "exclude",
        "",
        "List of images without which the figures are given, too: audit.csv, or with kinds, such "
        "as audit.csv:leak+blank.",
    )


def main(arguments: Sequence[str]) -> None:
    """Evaluates and prints the table."""
    options = flags.FLAGS
    cli.refuse_arguments(arguments)
    cli.set_up_jax()
    report = evaluate(
        options.workdir,
        options.split,
        checkpoint=options.checkpoint,
        views=options.views,
        data_dir=options.data_dir,
        exclude=options.exclude,
    )

    from fer_jax.reporting.report import print_report

    print_report(report, f"{options.checkpoint} checkpoint of {options.workdir}, {options.split}")
    print(f"\neverything is in {options.workdir}/eval/{report['folder']}")


if __name__ == "__main__":
    cli.run(main, define_flags)
