"""The record: one JSON file for each run or measurement that counts. Imports no JAX.

`benchmarks/results/<kind>/<name>.json` is written by the command that measured it. Every table in
README.md, docs/ and benchmarks/ is made from these files by `python -m benchmarks.tables`. Each
file has the same envelope:

  command, date, commit   what was run, when (ISO), and of which commit ("" if that is not known)
  hardware                `kind`, `count`, `processes`, as in config.json; on a CPU `instructions`
  versions                of Python and packages, by name
  config                  null, or `file`, its name; `changes`, the knobs that differ from the file;
                          and `knobs`, all of them
  seeds                   of the runs; empty for measurements of speed
  n                       how often it was measured: seeds, turns, pictures
  seconds                 by phase, such as imports, compilation, training; may be empty
  figures                 an object, whose keys depend on the kind: see `KINDS`
  transcribed             only for a figure that a command printed on a page before there was a
                          record: that page

Fractions are from 0 to 1; times are in seconds, sizes in MiB, rates in images/s, unless a key says
otherwise. `{"median", "least", "most"}` summarises the n values of one figure.
"""

import datetime
import json
import math
import os
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import flags

from fer_jax.config import flatten, load_config, shipped_configs
from fer_jax.data.contract import ImageFormat
from fer_jax.errors import UserError, write_atomically
from fer_jax.workdir import (
    IMMATERIAL,
    METRICS,
    median_speed,
    member_workdirs,
    origin,
    read_history,
    read_resources,
    read_run,
)
from fer_jax.workdir import versions as installed_versions

flags.disclaim_key_flags()  # --help of the commands lists --results and --name.

RESULTS = Path(__file__).parent / "results"

PAGE = ("title", "about", "tables")

KINDS: dict[str, tuple[str, ...]] = {
    # Trained networks: `epochs` done of `planned_epochs`; `parameters` of one network;
    # `evaluations` by folder below eval/, such as "public_test+ten_crop": the `split`, `views`,
    # number of images `n`, for each of the `seeds` its `accuracy`, `macro_f1`, `weighted_f1`, `nll`
    # and `ece`, and the same `without` copies of training images, if they were left out; of an
    # ensemble the same for its mean prediction, `ensemble`; `per_class`, `confusion_matrix` and
    # `intervals` of the ensemble, or of a single run.
    "accuracy": ("epochs", "planned_epochs", "parameters", "images_per_second", "evaluations"),
    # Steps of several devices and processes, see `benchmarks/scaling/measuring.py`.
    "scaling": ("programs", "pieces", "cores"),
    # Measurements that are a page of their own: `title`, what the figures are `about`, and
    # `tables`, see `benchmarks/table.py`.
    **dict.fromkeys(
        (
            *("ablation", "cold_start", "convolution", "demo", "export", "faults", "growth"),
            *("huge_pages", "large_records", "members", "soak", "speed"),
            *("time_to_accuracy", "transfer"),
        ),
        PAGE,
    ),
}
"""The keys that the figures of each kind must have."""

SCORES = ("accuracy", "macro_f1", "weighted_f1", "nll", "ece")

# These do not change the result of a run beyond its random draws.
_INDIFFERENT = (
    *(*IMMATERIAL, "input", "eval_batch_size", "checkpoint_every_steps"),
    "distillation.sha256",
)

_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("command", "date", "commit"), str),
    **dict.fromkeys(("hardware", "versions", "seconds", "figures"), dict),
    "config": (dict, type(None)),
    "seeds": list,
    "n": int,
}


def define_flags() -> None:
    """Defines --results and --name, for commands that write a record."""
    flags.DEFINE_string("results", str(RESULTS), "Folder of the JSON files of measurements.")
    flags.DEFINE_string("name", "", "Name of this measurement, if several of a kind are kept.")


def keep(kind: str, figures: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Writes a measurement as --results and --name say, and returns it as `read` does.

    Args:
      kind: see `write`.
      figures: see `write`.
      more: the other arguments of `write`; `name` takes the place of --name.
    """
    hardware = more.pop("hardware", None) or machine()
    name = "-".join(filter(None, (more.pop("name", flags.FLAGS.name), slug(hardware))))
    folder = Path(flags.FLAGS.results)
    return read_file(write(kind, name, figures, **more, hardware=hardware, folder=folder))


def write(
    kind: str,
    name: str,
    figures: Mapping[str, Any],
    *,
    command: str,
    config: Mapping[str, Any] | None = None,
    seeds: Sequence[int] = (),
    n: int | None = None,
    seconds: Mapping[str, float] | None = None,
    hardware: Mapping[str, Any] | None = None,
    versions: Mapping[str, str] | None = None,
    folder: Path | None = None,
    **more: str,
) -> Path:
    """Writes a measurement, in place of an earlier one of this kind and name; returns its file.

    Args:
      kind: a key of `KINDS`.
      name: letters, digits, and "-_.+". It names what was measured, and ends in `slug(hardware)`.
      figures: see `KINDS`.
      command: command line that measured it, see `benchmarks.table.command`.
      config: `file`, `changes` and `knobs`, see `of_run`.
      seeds: seeds of the runs.
      n: number of repetitions; default: that of the seeds, or 1.
      seconds: by phase.
      hardware: default: that of this process, which starts JAX.
      versions: default: those of this process.
      folder: of the record; default: benchmarks/results.
      more: `date`, `commit`, if not today's; `transcribed`.

    Raises:
      UserError: something is missing or of the wrong type, or the file cannot be written.
    """
    folder = folder or RESULTS
    content = {
        "command": command,
        "date": str(datetime.date.today()),
        "commit": origin().get("commit", ""),
        "hardware": machine() if hardware is None else hardware,
        "versions": installed_versions() if versions is None else versions,
        "config": config,
        "seeds": list(seeds),
        "n": n if n is not None else max(1, len(seeds)),
        "seconds": seconds or {},
        "figures": figures,
    } | more
    path = folder / kind / f"{name}.json"
    if not re.fullmatch(r"[\w.+-]+", name):
        raise UserError(f"{name!r} cannot name a measurement; use letters, digits, '-_.+'")
    content = json.loads(json.dumps(content))
    _check(kind, content, path)
    try:
        write_atomically(path, _text(content) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}") from error
    return path


def read(kind: str, folder: Path | None = None) -> list[dict[str, Any]]:
    """Returns the measurements of a kind, sorted by name, with their `kind` and `name`.

    Raises:
      UserError: a file is damaged; the message names it and what is wrong.
    """
    return [read_file(path) for path in sorted(((folder or RESULTS) / kind).glob("*.json"))]


def read_file(path: Path) -> dict[str, Any]:
    """Returns one measurement; see `read`."""
    kind = path.parent.name
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}; measure it again") from error
    _check(kind, content, path)
    return {"kind": kind, "name": path.stem, **content}


def of_run(workdir: Path, config: str | None = None) -> dict[str, Any]:
    """Returns the arguments of `write` for a run or ensemble, and those of its evaluations.

    Evaluations of private_test are left out.

    Args:
      workdir: folder of a run, or a model folder.
      config: name of its config, such as "published/small_cnn"; default: the shipped config that
        it differs from least.

    Raises:
      UserError: there is no such run, it is a sweep, or a file of it is damaged.
    """
    run = read_run(workdir)
    knobs = run["config"]
    if knobs["sweep"]:
        raise UserError(f"{workdir} is a sweep; record the runs in its folders one by one")
    members = member_workdirs(workdir, knobs)
    histories = [read_history(path / METRICS) for path in members if (path / METRICS).exists()]
    resources = read_resources(workdir)
    name, changes = _changes(knobs, config)
    if not histories:
        changes.pop("best_by", None)  # A model folder has one checkpoint, whatever chose it.
    figures = {
        "epochs": max((len(history) for history in histories), default=knobs["epochs"]),
        "planned_epochs": knobs["epochs"],
        "parameters": _parameters(run),
        "images_per_second": median_speed(histories[0]) if histories else None,
        "train_images": run["data"].get("splits", {}).get(knobs["train_split"]),
        "data_fingerprint": run["data"]["fingerprint"],
        "evaluations": _evaluations(workdir, members),
    }
    if resources:
        figures["peak_memory_mib"] = resources["peak_memory_mib"]
        figures["total_seconds"] = resources["total_seconds"]
    steps = {"steps": histories[0][-1]["seconds"]} if histories else {}
    known = {"date": run["date"][:10], "commit": run.get("commit", "")} if "date" in run else {}
    return known | {
        "figures": figures,
        "config": _portable({"file": name, "changes": changes, "knobs": knobs}),
        "seeds": list(range(knobs["seed"], knobs["seed"] + knobs["ensemble"])),
        "seconds": resources["seconds"] if resources else steps,
        "hardware": run["devices"] | _instructions(run["devices"]["kind"]),
        "versions": run["versions"],
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns median, least and most of the values of one figure."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def slug(hardware: Mapping[str, Any]) -> str:
    """Returns hardware in a form for names of files, such as "nvidia_h100" or "2_amd_epyc_avx2"."""
    words = re.sub(r"\(r\)|processor|cpu|[0-9]+gb|hbm[0-9]+e?", "", hardware["kind"].lower())
    name = re.sub(r"[^a-z0-9]+", "_", words).strip("_")
    parts = [] if hardware["count"] == 1 else [str(hardware["count"])]
    instructions = hardware.get("instructions", "").lower().replace("-", "")
    return "_".join(filter(None, [*parts, name, instructions]))


def machine() -> dict[str, Any]:
    """Returns the hardware that this process uses, with a CPU's cores; starts JAX."""
    import jax

    from fer_jax.devices import describe_devices

    devices = describe_devices()
    if jax.default_backend() == "cpu" and hasattr(os, "sched_getaffinity"):
        devices["count"] = len(os.sched_getaffinity(0))
    return devices | _instructions(devices["kind"])


def _check(kind: str, content: Any, path: Path) -> None:
    def refuse(problem: str) -> NoReturn:
        raise UserError(f"{path} is damaged: {problem}; measure it again")

    if kind not in KINDS:
        raise UserError(f"{path}: there is no kind {kind!r}; choose from {', '.join(KINDS)}")
    if not isinstance(content, dict):
        refuse("it holds no object")
    for key, types in _TYPES.items():
        if key not in content:
            refuse(f"{key} is missing")
        if not isinstance(content[key], types) or isinstance(content[key], bool):
            refuse(f"{key} is {_short(content[key])}")
    if unknown := content.keys() - _TYPES.keys() - {"transcribed"}:
        refuse(f"it has an unknown key {min(unknown)!r}")
    try:
        datetime.date.fromisoformat(content["date"])
    except ValueError:
        refuse(f"date is {content['date']!r}")
    if not content["command"]:
        refuse("command is empty")
    if content["n"] < 1:
        refuse(f"n is {content['n']}")
    for key in ("kind", "count", "processes"):
        if key not in content["hardware"]:
            refuse(f"hardware.{key} is missing")
    if content["config"] is not None:
        for key in ("file", "changes"):
            if key not in content["config"]:
                refuse(f"config.{key} is missing")
    for phase, value in content["seconds"].items():
        if not isinstance(value, int | float) or not value >= 0:
            refuse(f"seconds.{phase} is {_short(value)}")
    for key in KINDS[kind]:
        if key not in content["figures"]:
            refuse(f"figures.{key} is missing")
    for key, value in _leaves(content):
        if isinstance(value, float) and not math.isfinite(value):
            refuse(f"{key} is {value}")


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the numbers, texts and so on in JSON, each with the keys that lead to it."""
    if not isinstance(value, Mapping | list):
        yield key.removeprefix("."), value
        return
    for name, each in value.items() if isinstance(value, Mapping) else enumerate(value):
        yield from _leaves(each, f"{key}.{name}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."


def _text(value: Any, indent: str = "", width: int = 100) -> str:
    """Returns JSON in which whatever fits on a line stands on one."""
    line = json.dumps(value, ensure_ascii=False)
    if len(indent) + len(line) < width or not isinstance(value, Mapping | list):
        return line
    inner = indent + "  "
    if isinstance(value, Mapping):
        parts = [f"{json.dumps(key)}: {_text(each, inner)}" for key, each in value.items()]
    else:
        parts = [_text(each, inner) for each in value]
    start, end = "{}" if isinstance(value, Mapping) else "[]"
    return f"{start}\n{inner}{f',\n{inner}'.join(parts)}\n{indent}{end}"


def _changes(knobs: Mapping[str, Any], config: str | None) -> tuple[str, dict[str, Any]]:
    """Returns the name of a config, and the knobs that differ from it."""
    changes = {
        name: _differences(knobs, name) for name in ([config] if config else shipped_configs())
    }
    return min(changes.items(), key=lambda item: len(item[1]))


def _differences(knobs: Mapping[str, Any], config: str) -> dict[str, Any]:
    from fer_jax.models import follow_data

    planned = load_config(config)
    # As read back from config.json, where tuples are lists.
    before = planned.to_dict() | {"model": follow_data(planned.model, ImageFormat())}
    flat = flatten(json.loads(json.dumps(before)))
    return {
        key: value
        for key, value in flatten(knobs).items()
        if key not in _INDIFFERENT and flat.get(key) != value
    }


def _portable(value: Any) -> Any:
    """Returns JSON without this machine's folders: of an absolute path only its last part."""
    if isinstance(value, Mapping):
        return {key: _portable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_portable(each) for each in value]
    absolute = isinstance(value, str) and value.startswith("/")
    return f"…/{Path(value).name}" if absolute else value


def _parameters(run: Mapping[str, Any]) -> int:
    """Returns the number of parameters of one network."""
    from flax import nnx
    from ml_collections import ConfigDict

    from fer_jax.models import create_model
    from fer_jax.summary import count_parameters

    def build() -> nnx.Module:
        return create_model(
            ConfigDict(run["config"]["model"]),
            num_classes=len(run["data"]["classes"]),
            dtype="float32",
            rngs=nnx.Rngs(0),
        )

    return count_parameters(nnx.eval_shape(build))["total"]


def _evaluations(workdir: Path, members: Sequence[Path]) -> dict[str, Any]:
    found = {}
    for path in sorted(workdir.glob("eval/*/report.json")):
        name = path.parent.name
        split = name.partition("+")[0]
        if split in ("private_test", "test"):
            continue
        try:
            report = json.loads(path.read_text())
            reports = [
                json.loads((member / "eval" / name / "report.json").read_text())
                for member in members
            ]
            found[name] = {
                "split": split,
                **{key: report[key] for key in ("views", "n", "per_class", "confusion_matrix")},
                "seeds": [_scores(each) for each in reports],
                "intervals": report.get("intervals", {}),
            }
            if len(members) > 1:
                found[name]["ensemble"] = _scores(report)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"eval/{name} of {workdir} is damaged: {error}; evaluate the run again"
            ) from error
    return found


def _scores(report: Mapping[str, Any]) -> dict[str, Any]:
    scores: dict[str, Any] = {key: report[key] for key in SCORES}
    if excluded := report.get("excluded"):
        without = excluded["without"]
        scores["without"] = {key: without[key] for key in ("n", *SCORES)}
    return scores


def _instructions(kind: str) -> dict[str, str]:
    """Returns the widest vector instructions of this machine's processor, if it is of this kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    facts = {key.strip(): value.strip() for key, _, value in pairs}
    known = facts.get("flags", "").split() if facts.get("model name") == kind else ()
    names = [name for flag, name in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in known]
    return {"instructions": names[0]} if names else {}
