"""The results of a run that stopping and resuming must not change."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from fer_jax.workdir import CHECKPOINTS, METRICS

_CLOCKS = ("images_per_second", "seconds")


def difference(workdir: Path, other: Path) -> str:
    """Returns the first result that differs between two finished runs; "" if all are equal.

    The results are the parameters, the optimiser's state and the input position in the latest
    checkpoint (bit for bit), the history without times, and the predictions. For an ensemble: those
    of each member, and its own history and predictions.
    """
    ours, theirs = _results(workdir), _results(other)
    if missing := sorted(ours.keys() ^ theirs.keys()):
        return f"{missing[0]} is in one run only"
    return next((f"{name} differs" for name in ours if ours[name] != theirs[name]), "")


def _results(workdir: Path) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for path in sorted(workdir.glob(f"**/{METRICS}")):
        epochs = map(json.loads, path.read_text().splitlines())
        results[str(path.relative_to(workdir))] = [
            {key: value for key, value in epoch.items() if key not in _CLOCKS} for epoch in epochs
        ]
    for path in sorted(workdir.glob("**/predictions.csv")):
        results[str(path.relative_to(workdir))] = path.read_bytes()
    for folder in sorted(workdir.glob(f"**/{CHECKPOINTS}")):
        steps = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]
        latest = folder / str(max(steps))
        where = str(folder.parent.relative_to(workdir))
        results[f"{where} step"] = latest.name
        results[f"{where} input"] = (latest / "input/metadata").read_bytes()
        for item in ("model", "training"):
            for name, array in _arrays(latest / item).items():
                results[f"{where} {item}{name}"] = (array.dtype, array.shape, array.tobytes())
    return results


def _arrays(item: Path) -> dict[str, np.ndarray]:
    """Reads an item's arrays for any number of devices and processes that saved it."""
    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.metadata(item).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        restored = reader.restore(item, restore_args=as_numpy)
    leaves = jax.tree_util.tree_leaves_with_path(restored)
    return {jax.tree_util.keystr(path): array for path, array in leaves}
