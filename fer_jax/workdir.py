"""Every path and JSON file of a run. Imports no JAX.

config.json       config, versions, devices, data, date, command and commit
metrics.jsonl     history, one object for each epoch
resources.json    seconds of each phase, over all starts, and peak memory; an ensemble's has its own
checkpoints/ figures/ profile/ report.html
eval/<split>/     one evaluation: report.json, predictions.csv, report.html, pictures
eval/<split>+…/   one of other data, views or checkpoints than the run's own
member_<k>/       a member of an ensemble or sweep: a run of its own
sweep.json        of a sweep: a table of its settings

A model folder is a run reduced to what prediction needs: config.json, eval/, and model.safetensors
in place of checkpoints.
"""

import functools
import json
import math
import os
import platform
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from fer_jax.config import check, default_config, flatten
from fer_jax.data.contract import DATASET_NAME, ImageFormat
from fer_jax.errors import UserError, write_atomically
from fer_jax.sweep import parse_sweep

CONFIG, METRICS, PAGE = "config.json", "metrics.jsonl", "report.html"
RESOURCES = "resources.json"
SWEEP = "sweep.json"
CHECKPOINTS, FIGURES, PROFILE = "checkpoints", "figures", "profile"
WEIGHTS = "model.safetensors"
SHIPPED = Path(__file__).parent / "weights"
"""The model folder that comes with fer_jax."""

HISTORY_KEYS = (
    "epoch",
    "step",
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "learning_rate",
    "images_per_second",
    "seconds",
)
"""Keys of an epoch in metrics.jsonl, in the order in which they are written."""

IMMATERIAL = (
    *("data_dir", "data_source", "exclude", "memory_gib", "pretrained.file", "teachers", "profile"),
)
"""Knobs that may change when a run resumes. The data may move, but must keep its fingerprint. A
list of images to leave out may move, but must leave out the same images. Teachers may move, but
must keep their weights."""

_BEFORE = {"input": "host"}
"""Values of knobs in runs that are older than the knob, if not the knob's default."""

_PACKAGES = ("fer_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def member_workdirs(workdir: Path, config: Mapping[str, Any]) -> list[Path]:
    """Returns the workdirs of an ensemble's or sweep's members; for a single run, its own."""
    count = config["ensemble"] * max(1, len(parse_sweep(config["sweep"])))
    return [workdir] if count == 1 else [workdir / f"member_{k}" for k in range(count)]


def evaluation_dir(workdir: Path, split: str) -> Path:
    """Returns the folder of a run's evaluation on a split, perhaps with a variant's ending."""
    return workdir / "eval" / split


def recorded_data_dir(workdir: Path) -> str:
    """Returns the absolute folder of the data of the run in `workdir`; empty if none is known."""
    return read_run(workdir)["data"].get("directory", "") if (workdir / CONFIG).exists() else ""


def claim_workdir(
    workdir: Path,
    *,
    config: Mapping[str, Any],
    model_defaults: Mapping[str, Any],
    data: Mapping[str, Any],
    devices: Mapping[str, Any],
    write: bool,
) -> None:
    """Writes config.json into a new workdir; lets a run of the same config and data resume.

    A workdir without a checkpoint counts as new. An old run may resume with more epochs, unless its
    schedule is a cosine.

    Args:
      workdir: folder of the run.
      config: every knob.
      model_defaults: the network's arguments with their defaults, which older runs may lack.
      data: facts about the data set, among them its `fingerprint`.
      devices: facts about the hardware.
      write: whether this process writes the file; True on one process only.

    Raises:
      UserError: the workdir belongs to another config or other data (the message has the
        difference), or it cannot be written.
    """
    path = workdir / CONFIG
    facts = {
        "config": config,
        "data": data,
        "devices": devices,
        "versions": versions(),
        **origin(),
    }
    # Tuples become lists, as in the file.
    facts, model_defaults = json.loads(json.dumps((facts, model_defaults)))
    if not _has_checkpoints(workdir):
        pass  # Nothing to resume: the last run here ended before its first checkpoint.
    elif path.exists():
        old = read_run(workdir)
        _refuse_differences(workdir, old, facts, model_defaults)
        facts = {**old, "config": {**old["config"], "epochs": facts["config"]["epochs"]}}
        write = write and facts != old
    else:
        raise UserError(
            f"{workdir} has checkpoints but no {CONFIG}; put it back, or choose another --workdir"
        )
    if write:
        try:
            write_atomically(path, json.dumps(facts, indent=2) + "\n")
        except OSError as error:
            raise UserError(f"{workdir} cannot be a workdir: {error}; choose another") from error


def read_run(workdir: Path) -> dict[str, Any]:
    """Returns the content of config.json, completed by the knobs that are newer than the run.

    Raises:
      UserError: `workdir` is not the workdir of a run.
    """
    path = workdir / CONFIG
    try:
        facts = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{workdir} is no workdir of a run: cannot read {path}: {error}") from error
    if not isinstance(facts, Mapping):
        raise UserError(f"{workdir} is no workdir of a run: {path} holds no object")
    try:
        facts = {**facts, "config": _complete(facts["config"])}
        _check_data(facts["data"])
        facts["data"] = {"name": DATASET_NAME, **ImageFormat().facts, **facts["data"]}
    except KeyError as error:
        raise UserError(f"{path} is damaged: {error} is missing; put it back") from error
    except (TypeError, ValueError, AttributeError, UserError) as error:
        raise UserError(f"{path} is damaged: {error}; put it back as it was") from error
    return facts


def write_history(path: str | os.PathLike, history: Sequence[Mapping[str, Any]]) -> None:
    """Writes a whole history atomically, one JSON object per line.

    Floats that are not finite become null, because JSON has no such numbers. None also becomes
    null, so that a history can be read and written again.

    Raises:
      ValueError: the keys of an epoch are not `HISTORY_KEYS`.
    """
    write_atomically(path, "".join(_line(epoch) + "\n" for epoch in history))


def read_history(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Reads a history of one epoch or more, as `write_history` writes it.

    Raises:
      UserError: the file is missing or damaged.
    """
    try:
        with open(path, encoding="utf-8") as file:
            history = [json.loads(line) for line in file]
        if not history or any(set(epoch) != set(HISTORY_KEYS) for epoch in history):
            raise ValueError(f"not one object per epoch with the keys {', '.join(HISTORY_KEYS)}")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"cannot read the history of a run in {path}: {error}") from error
    return history


def read_resources(workdir: Path) -> dict[str, Any] | None:
    """Returns resources.json: `starts`, `seconds` by phase, `total_seconds` and `peak_memory_mib`.

    None if there is none, as in older runs and in the members of an ensemble, or if it is damaged:
    nothing depends on it.
    """
    try:
        facts = json.loads((workdir / RESOURCES).read_bytes())
        numbers = (facts["starts"], facts["total_seconds"], *facts["seconds"].values())
        peaks = [facts["peak_memory_mib"][place] for place in ("host", "device")]
        whole = all(map(_is_number, (*numbers, *(peak for peak in peaks if peak is not None))))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return facts if whole else None


def read_report(workdir: Path, split: str) -> dict[str, Any]:
    """Returns the report.json of a run's evaluation on a split.

    Raises:
      UserError: the file is missing or damaged.
    """
    path = evaluation_dir(workdir, split) / "report.json"
    try:
        report = json.loads(path.read_text())
        if not isinstance(report, dict) or "checkpoint_step" not in report:
            raise ValueError("it is no report")
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {path}: {error}; delete {workdir / PAGE}, and the "
            "same command makes both again"
        ) from error
    return report


def median_speed(history: Sequence[Mapping[str, Any]]) -> float:
    """Returns the median of the epochs' images/s, for one epoch or more."""
    return statistics.median(epoch["images_per_second"] for epoch in history)


def _has_checkpoints(workdir: Path) -> bool:
    """Whether a run, or a member of an ensemble, has saved anything."""
    return any(
        any(workdir.glob(pattern)) for pattern in (f"{CHECKPOINTS}/*", f"member_*/{CHECKPOINTS}/*")
    )


def versions() -> dict[str, str]:
    """Returns the versions of Python, fer_jax and the libraries that its numbers depend on."""
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


def origin() -> dict[str, str]:
    """Returns the `date` (UTC), the `command` of this process and the `commit` of the checkout.

    A command or commit that is not known is left out.
    """
    known = {"command": _command(), "commit": _commit()}
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return {"date": date, **{key: value for key, value in known.items() if value}}


def _command() -> str:
    """Returns the command as it was typed, without the folders of Python and of fer_jax.

    Empty where Python was started in another way, such as in a notebook.
    """
    words = sys.orig_argv[1:]
    if "-m" in words:
        words = words[words.index("-m") :]  # Without options of Python.
    match words:
        case ["-m", module, *_] if module.split(".")[0] in ("fer_jax", "data_prep", "benchmarks"):
            return shlex.join(["python", *words])
        case [script, *arguments] if Path(script).name == "fer_jax":
            return shlex.join(["fer_jax", *arguments])
    return ""


@functools.cache
def _commit() -> str:
    """Returns the commit of the checkout, with "-dirty" after changes; empty without one or git."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return ""  # An installed copy; the folder around it may be the checkout of something else.
    describe = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        found = subprocess.run([*describe, "--exclude=*"], capture_output=True, text=True)
    except OSError:
        return ""
    return found.stdout.strip()


def _version(package: str) -> str:
    """Returns the version of a package. fer_jax itself may run from a checkout."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """Checks a config, and adds newer knobs with the values that keep its behaviour."""
    if not isinstance(config, Mapping):
        raise TypeError("`config` is no object")
    defaults = default_config().to_dict()
    del defaults["model"]  # Its arguments depend on its name; their defaults are in fer_jax.models.
    complete = dict(config)
    for key, value in defaults.items():
        if isinstance(value, Mapping):
            complete[key] = {**value, **complete.get(key, {})}
        else:
            complete.setdefault(key, _BEFORE.get(key, value))
    # Knobs of other versions stay, and count only when the run resumes.
    check(ConfigDict({key: complete[key] for key in (*defaults, "model")}))
    return json.loads(json.dumps(complete))


def _check_data(data: Mapping[str, Any]) -> None:
    if not isinstance(data, Mapping) or not isinstance(data["fingerprint"], str):
        raise TypeError("`data` is no object with a fingerprint")
    classes = data["classes"]
    distinct = {name for name in classes if isinstance(name, str)}
    if not len(distinct) == len(classes) >= 2:
        raise ValueError(f"classes {classes!r} are not two or more different names")


def _refuse_differences(
    workdir: Path, old: Mapping, new: Mapping, model_defaults: Mapping[str, Any]
) -> None:
    before = flatten({**old["config"], "model": {**model_defaults, **old["config"]["model"]}})
    now = flatten({**new["config"], "model": {**model_defaults, **new["config"]["model"]}})
    if gone := [key for key in before if key not in now and not key.startswith("model.")]:
        raise UserError(
            f"{workdir} holds a run with {gone[0]} = {before[gone[0]]!r}, a knob that this version "
            "does not have; choose another --workdir, or resume it with the version in its "
            "config.json"
        )
    before["data fingerprint"] = old["data"]["fingerprint"]
    now["data fingerprint"] = new["data"]["fingerprint"]
    for facts, values in ((old, before), (new, now)):
        # Runs that leave nothing out lack it.
        excluded = facts["data"].get("excluded", {"images": 0, "digest": ""})
        names = f" (names {excluded['digest'][:12]})" if excluded["images"] else ""
        values["excluded images"] = f"{excluded['images']}{names}"
    differences = [
        f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if key not in IMMATERIAL and before.get(key) != now.get(key)
    ]
    if now["epochs"] > before["epochs"]:
        if now["schedule"] == "cosine":
            differences.append("the cosine schedule has ended with the old epochs")
        else:
            differences.remove(f"epochs was {before['epochs']!r}, is {now['epochs']!r}")
    if differences:
        raise UserError(
            f"{workdir} holds a run of another config: {'; '.join(differences)}; "
            "choose another --workdir, or the old config to resume"
        )


def _line(epoch: Mapping[str, Any]) -> str:
    if wrong := set(epoch) ^ set(HISTORY_KEYS):
        raise ValueError(f"missing or unknown keys {sorted(wrong)} in the history's {dict(epoch)}")
    return json.dumps({key: _number(key, epoch[key]) for key in HISTORY_KEYS}, allow_nan=False)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _number(key: str, value: Any) -> int | float | None:
    if value is None or not math.isfinite(value):
        return None
    return int(value) if key in ("epoch", "step") else float(value)
