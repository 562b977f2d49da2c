"""Predictions of a run for the images that it was not trained on."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from fer_jax.data.records import DataSet
from fer_jax.errors import UserError, warn
from fer_jax.remote import copied
from fer_jax.reporting.evaluation import read_predictions
from fer_jax.workdir import CONFIG, evaluation_dir, read_run

_BATCH = 32
_OTHER_PART = {"train_80": "validation_20", "validation_20": "train_80"}


def out_of_fold(
    workdir: str | os.PathLike, data: DataSet
) -> dict[str, Float[np.ndarray, "n classes"]]:
    """Returns the probabilities of a run for every split on disk that it has not seen whole.

    They come from the run's predictions.csv for these data, and where there is none, from its best
    checkpoint. A line on standard error tells what the run was trained on, and therefore is left
    out.

    Args:
      workdir: folder of the run, or a model folder; a path or a URL.
      data: the data set, with all its classes.

    Returns:
      A row for each image of the split; NaN for those that the run was trained on.

    Raises:
      UserError: there is no such run, or its classes are not the data's.
    """
    with copied(workdir) as copy:
        copy.fetch(CONFIG, "eval/*/report.json", "eval/*/predictions.csv")
        return _out_of_fold(workdir, copy.folder, data)


def _out_of_fold(
    workdir: str | os.PathLike, folder: Path, data: DataSet
) -> dict[str, Float[np.ndarray, "n classes"]]:
    run = read_run(folder)
    classes = tuple(run["data"]["classes"])
    if {*classes} != {*data.classes}:
        raise UserError(
            f"{workdir} tells {', '.join(classes)} apart, and the data have "
            f"{', '.join(data.classes)}; give a run with these classes"
        )
    columns = [classes.index(name) for name in data.classes]
    trained = run["config"]["train_split"]
    seen = data.on_disk(trained)
    if run["data"]["fingerprint"] != data.fingerprint:
        seen = ()
        warn(
            f"{workdir} was trained on other data (fingerprint {run['data']['fingerprint'][:12]}); "
            "if these images were among them, its predictions confirm their labels"
        )
    found = {}
    for split in (name for name, size in data.split_sizes.items() if size):
        part = split if split not in seen else _OTHER_PART.get(trained)
        if part is None:
            warn(
                f"{workdir} was trained on {trained}: its predictions for {split} are not "
                "out-of-fold, and tell nothing about its labels; give a run trained without it"
            )
            continue
        names, probabilities = _predict(workdir, folder, run, data, part)
        rows = dict(zip(names, probabilities[:, columns], strict=True))
        unknown = np.full(len(columns), np.nan)
        filenames = data.load(split, memory_gib=0, ambiguous=True).filenames
        found[split] = np.stack([rows.get(name, unknown) for name in filenames])
    return found


def _predict(
    workdir: str | os.PathLike, folder: Path, run: dict[str, Any], data: DataSet, split: str
) -> tuple[list[str], Float[np.ndarray, "n classes"]]:
    """Returns names and probabilities, with columns in the order of the run's classes."""
    if (evaluation_dir(folder, split) / "predictions.csv").exists():
        read = read_predictions(folder, split)
        if read.fingerprint == data.fingerprint and [*read.classes] == run["data"]["classes"]:
            return [*read.filenames], read.probabilities
    # Imported here, since most audits do without JAX.
    from fer_jax.inference.trained import load_trained

    records = data.load(split, memory_gib=0, ambiguous=True)
    model = load_trained(workdir)
    # Small batches: the audit is to fit into 1 GiB, and a large one takes more for its layers.
    model.config.eval_batch_size = model.mesh.size * max(1, _BATCH // model.mesh.size)
    probabilities = model.probabilities(records)
    return [*records.filenames], np.asarray(probabilities, np.float64)
