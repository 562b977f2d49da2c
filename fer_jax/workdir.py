"""config.json: what a workdir was trained with; guards it against a run of another config."""

import json
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from fer_jax.data.records import DataSet
from fer_jax.devices import device_kind
from fer_jax.errors import UserError, write_atomically

_PACKAGES = ("fer_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
IMMATERIAL = ("data_dir", "data_source", "memory_gib", "pretrained.file", "profile")
"""Knobs that do not matter to a run: where the data lies, say; which data it is does."""


def member_workdirs(workdir: Path, config: Mapping[str, Any]) -> list[Path]:
    """Returns the workdirs of an ensemble's members; of a single run its own."""
    count = config.get("ensemble", 1)  # Runs older than the knob are single ones.
    return [workdir] if count == 1 else [workdir / f"member_{k}" for k in range(count)]


def claim_workdir(workdir: Path, config: ConfigDict, data: DataSet) -> None:
    """Writes config.json into a new workdir; lets a run of the same config and data resume.

    Raises:
      UserError: the workdir is another config's or other data's, and the message has the
        difference; or it cannot be written.
    """
    path = workdir / "config.json"
    facts = {
        "config": config.to_dict(),
        "data": {
            "fingerprint": data.fingerprint,
            "source": data.source,
            "classes": data.classes,
            "splits": data.split_sizes,
        },
        "devices": {
            "kind": device_kind(),
            "count": jax.device_count(),
            "processes": jax.process_count(),
        },
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in _PACKAGES},
        },
    }
    facts = json.loads(json.dumps(facts))  # Tuples become lists, as they will when read back.
    if path.exists():
        _refuse_differences(workdir, read_run(workdir), facts)
    elif jax.process_index() == 0:
        try:
            write_atomically(path, json.dumps(facts, indent=2) + "\n")
        except OSError as error:
            raise UserError(f"{workdir} cannot be a workdir: {error}; choose another") from error


def _version(package: str) -> str:
    """Returns a package's version, or that it is not installed, as fer_jax need not be."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def read_run(workdir: Path) -> dict[str, Any]:
    """Returns what `claim_workdir` wrote.

    Raises:
      UserError: `workdir` is not one of a run.
    """
    path = workdir / "config.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{workdir} is no workdir of a run: cannot read {path}: {error}") from error


def _refuse_differences(workdir: Path, old: Mapping, new: Mapping) -> None:
    before = {**flatten(old["config"]), "data fingerprint": old["data"]["fingerprint"]}
    now = {**flatten(new["config"]), "data fingerprint": new["data"]["fingerprint"]}
    differences = [
        f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if key not in IMMATERIAL and before.get(key) != now.get(key)
    ]
    if differences:
        raise UserError(
            f"{workdir} holds a run of another config: {'; '.join(differences)}; "
            "choose another --workdir, or the old config to resume"
        )


def flatten(tree: Mapping, prefix: str = "") -> dict[str, Any]:
    """Returns the leaves of nested mappings, by their keys joined with dots."""
    return dict(_leaves(tree, prefix))


def _leaves(tree: Mapping, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
