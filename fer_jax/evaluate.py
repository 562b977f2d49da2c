"""Evaluates a checkpoint of a run on a split: table, report.html and .json, predictions, pictures.

It needs the workdir of a run of `python -m fer_jax.main`, and records.

Example:
  python -m fer_jax.evaluate --workdir=runs/small_cnn --split=public_test

It leaves in the workdir: eval/<split>/ with report.json, predictions.csv, report.html,
confusion_matrix.png and samples.png.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from fer_jax import cli
from fer_jax.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "Of the run.", required=True)
_SPLIT = flags.DEFINE_string("split", None, "Which images, for example test.", required=True)
_CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "best, latest or a step.")
_VIEWS = flags.DEFINE_enum(
    "views", None, ["one", "flip", "ten_crop"], "Average over these, if not those of the run."
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Records, if not those of the run.")


def evaluate(
    workdir: str | os.PathLike,
    split: str,
    *,
    checkpoint: str = "best",
    views: str | None = None,
    data_dir: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """Evaluates a run's checkpoint on a split, and writes `eval/<split>` into its workdir.

    Of an ensemble, the mean prediction of its members, and each of them in its own workdir.

    Args:
      workdir: of the run.
      split: see `DataSet.load`.
      checkpoint: "best", "latest" or a step.
      views: of each image, whose probabilities are averaged, see `fer_jax/config.py`;
        default: those of the run.
      data_dir: of the records; default: those that the run was trained on.

    Returns:
      The report, as in report.json.

    Raises:
      UserError: there is no such run, checkpoint, data set or split, there are no such views, or
        classes differ.
    """
    # Imported here, so that a wrong flag is told at once.
    from fer_jax.data.records import find_data_dir, open_data_set
    from fer_jax.inference.trained import load_trained
    from fer_jax.reporting.evaluation import write_evaluation
    from fer_jax.reporting.predictions import Predictions
    from fer_jax.workdir import member_workdirs

    workdir = Path(workdir)
    model = load_trained(workdir, checkpoint, views)
    data = open_data_set(find_data_dir(data_dir or model.config.data_dir), model.classes)
    if data.classes != model.classes:
        raise UserError(f"the data's classes {data.classes} are not the run's {model.classes}")
    records = data.load(split)
    probabilities = model.probabilities(records)
    predictions = Predictions(workdir, split, model.step, data, records, probabilities, model.views)
    members = [
        evaluate(member, split, checkpoint=checkpoint, views=views, data_dir=data_dir)
        for member in member_workdirs(workdir, model.config)
        if member != workdir
    ]
    return write_evaluation(predictions, members)


def main(arguments: Sequence[str]) -> None:
    """Evaluates and prints the table."""
    cli.refuse_arguments(arguments)
    cli.set_up_jax()
    report = evaluate(
        _WORKDIR.value,
        _SPLIT.value,
        checkpoint=_CHECKPOINT.value,
        views=_VIEWS.value,
        data_dir=_DATA_DIR.value,
    )

    from fer_jax.reporting.evaluation import print_report

    print_report(report, f"{_CHECKPOINT.value} checkpoint of {_WORKDIR.value}, {_SPLIT.value}")


if __name__ == "__main__":
    cli.run(main)
