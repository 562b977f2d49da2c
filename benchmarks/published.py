"""Trains the published systems and our own networks, and puts them beside what was published.

Prints a page in Markdown. Each system has a folder of its own in the workdir, where
`python -m fer_jax.main` trains it: a finished run is left alone, a stopped one goes on by its own
plan, and with --notrain all are tabulated as they are. The best checkpoint of each is evaluated on
public_test; nobody looks at private_test here. Flags of configs may follow `--`.

Example:
  python -m benchmarks.published --workdir=runs/published --output=benchmarks/published.md
  python -m benchmarks.published --workdir=short --epochs_scale=0.1 --only=small_cnn,medium_cnn
  python -m benchmarks.published --workdir=start --only=resnet -- --config.steps_per_epoch=50

The pictures go into a folder beside the output, benchmarks/published/ say. Where a system failed,
its row says why, and the exit status is 1.
"""

import dataclasses
import datetime
import functools
import html
import io
import json
import math
import re
import runpy
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from absl import flags

from data_prep.contract import CLASS_NAMES, UserError, write_atomically
from fer_jax import cli

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class System(NamedTuple):
    """What a write-up says of its system, and the config that reproduces it.

    Attributes:
      config: file.
      parameters: in total; 0: it does not say, or there is no write-up.
      published: what it reached, and on which images.
      per_class: precision, recall and F1 of each of `CLASS_NAMES`, in percent.
    """

    config: str
    parameters: int = 0
    published: str = "-"
    per_class: Sequence[tuple[int, int, int]] = ()


SYSTEMS = {
    "small_cnn": System("configs/published/small_cnn.py", 319_527, "about 60 % validation"),
    "medium_cnn": System(
        "configs/published/medium_cnn.py",
        4_496_903,
        "64 % test, macro F1 61 %, weighted F1 63 %",
        (
            *((51, 59, 54), (56, 60, 58), (54, 44, 48), (84, 84, 84)),
            *((57, 61, 59), (53, 47, 50), (73, 78, 76)),
        ),
    ),
    "large_cnn": System(
        "configs/published/large_cnn.py", 17_046_535, "65.58 % training, 56.71 % validation"
    ),
    "large_cnn_augmented": System(
        "configs/published/large_cnn_augmented.py",
        17_046_535,
        "57.08 % training, 59.14 % validation",
    ),
    "large_cnn_shift_flip": System(
        "configs/published/large_cnn_shift_flip.py",
        published="66.79 % training, 61.59 % validation",
    ),
    "three_emotions": System(
        "configs/published/three_emotions.py",
        2_434_435,
        "57.5 to 60 % validation, of three classes",
    ),
    "vgg16_transfer": System(
        "configs/published/vgg16_transfer.py",
        published="55.93 % training, 55.00 % validation, on both tests",
    ),
    "resnet50_transfer": System(
        "configs/published/resnet50_transfer.py",
        published="62.61 % training, 60.80 % validation, on both tests",
    ),
    "resnet": System("configs/resnet.py"),
    "efficientnet": System("configs/efficientnet.py"),
    "densenet": System("configs/densenet.py"),
    "convnext": System("configs/convnext.py"),
}

_WORKDIR = flags.DEFINE_string("workdir", None, "Has, or gets, a run of each.", required=True)
_ONLY = flags.DEFINE_list("only", list(SYSTEMS), "Which to train and tabulate.")
_EPOCHS_SCALE = flags.DEFINE_float(
    "epochs_scale", 1.0, "Part of its epochs that a new run trains, at least one.", 0.0, 1.0
)
_TRAIN = flags.DEFINE_bool("train", True, "Train what is missing; otherwise tabulate only.")
_OUTPUT = flags.DEFINE_string("output", None, "Markdown file to write the page to.")

_SPLIT = "public_test"
_PLACES = ("data_dir", "data_source")  # As where it lay does not matter to a run.
_HEADINGS = (
    *("system", "parameters", "published", "validation", _SPLIT, "macro F1", "weighted F1"),
    *("trained", "images/s", "training time", "seed", "chosen by", "hardware"),
)
_COLOURS = 32  # Enough for the pictures, at a quarter of their size.


@dataclasses.dataclass
class Result:
    """What is known of a system; the rest is empty.

    Attributes:
      name: a key of `SYSTEMS`.
      config: the file's, flattened.
      parameters: of that network, in total.
      facts: config.json of the run.
      history: metrics.jsonl.
      ended: the run left its last page: all its epochs are done, or it stopped early.
      reports: report.json by split, of the best checkpoint.
      error: why it did not get further, in one line.
    """

    name: str
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    parameters: int = 0
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    ended: bool = False
    reports: dict[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    error: str = ""

    @property
    def system(self) -> System:
        """What was published."""
        return SYSTEMS[self.name]

    @property
    def workdir(self) -> Path:
        """Of the run."""
        return Path(_WORKDIR.value) / self.name

    @property
    def changes(self) -> dict[str, Any]:
        """What the run was told and the config file says otherwise."""
        from fer_jax.training.run_config import flatten

        told = flatten(self.facts["config"])
        return {
            key: value
            for key, value in told.items()
            if key not in _PLACES and self.config.get(key) != value
        }


def main(arguments: Sequence[str]) -> None:
    """Trains and evaluates one system after the other, and prints and writes the page."""
    overrides = [argument for argument in arguments if argument.startswith("--config.")]
    cli.refuse_arguments([argument for argument in arguments if argument not in overrides])
    if unknown := set(_ONLY.value) - set(SYSTEMS):
        raise UserError(f"--only has {', '.join(unknown)}; choose of {', '.join(SYSTEMS)}")
    # Whoever ends this command ends the training with it, which saves first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    results = [_reproduce(name, overrides) for name in SYSTEMS if name in _ONLY.value]
    pictures = Path(_OUTPUT.value).with_suffix("") if _OUTPUT.value else None
    text = _page(results, pictures)
    print(text)
    if _OUTPUT.value:
        write_atomically(_OUTPUT.value, text)
    if any(result.error for result in results):
        sys.exit(1)


def _reproduce(name: str, overrides: Sequence[str]) -> Result:
    """Goes as far as it gets: after training failed, what there is counts all the same."""
    result = Result(name)
    for step in (_build, functools.partial(_train, overrides=overrides), _read, _evaluate):
        try:
            step(result)
        except UserError as error:
            print(f"{name}: {error}", file=sys.stderr)
            result.error = result.error or str(error)
        if not result.config:
            break
    return result


def _build(result: Result) -> None:
    from fer_jax.training.run_config import flatten

    file = result.system.config
    if not Path(file).exists():
        raise UserError(f"there is no {file}")
    summary = _call("summary", f"--config={file}", "--format=json", stdout=subprocess.PIPE)
    result.parameters = json.loads(summary)["total"]
    config = runpy.run_path(file)["get_config"]()
    # As it is read back from config.json, where tuples are lists.
    result.config = flatten(json.loads(json.dumps(config.to_dict())))


def _train(result: Result, overrides: Sequence[str]) -> None:
    from fer_jax.training.run_config import read_run

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


def _read(result: Result) -> None:
    from fer_jax.reporting.history import read_history
    from fer_jax.training.run_config import read_run

    if (result.workdir / "config.json").exists():
        result.facts = read_run(result.workdir)
    if (result.workdir / "metrics.jsonl").exists():
        result.history = read_history(result.workdir / "metrics.jsonl")
    result.ended = (result.workdir / "report.html").exists()


def _evaluate(result: Result) -> None:
    """Reads the reports of the best checkpoint, after making them anew where they are not of it."""
    from fer_jax.reporting.predictions import evaluation_dir
    from fer_jax.training.checkpoints import SCORES

    if not result.history:
        return
    config = result.facts["config"]
    best = max(reversed(result.history), key=SCORES[config["best_by"]])
    for split in (config["validation_split"], _SPLIT):
        path = evaluation_dir(result.workdir, split) / "report.json"
        if not path.exists() or json.loads(path.read_text())["checkpoint_step"] != best["step"]:
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


def _page(results: Sequence[Result], pictures: Path | None) -> str:
    """Returns the page, and draws its pictures into that folder."""
    rows = [_row(result) for result in results]
    return "\n".join(
        [
            "# The published systems, reproduced",
            "",
            "Ours is one run of each, at the epoch that did best by what it was chosen by; ± is one "
            "standard error over the images, and F1 is of public_test. Only a row that says so was "
            "trained in full. What was published names the images it was measured on. "
            f"{_circumstances(results)}",
            "",
            "    python -m benchmarks.published --workdir=DIR",
            "",
            f"| {' | '.join(_HEADINGS)} |",
            f"|{len(_HEADINGS) * '---|'}",
            *(f"| {' | '.join(row.get(key, '-') for key in _HEADINGS)} |" for row in rows),
            "",
            *(line for result in results for line in _section(result, pictures)),
        ]
    )


def _circumstances(results: Sequence[Result]) -> str:
    """Returns with which versions and data the runs were made."""
    runs = [result.facts for result in results if result.history]
    versions = [
        ", ".join(f"{key} {run['versions'][key]}" for key in ("python", "jax", "flax"))
        for run in runs
    ]
    data = [f"{run['data']['source']} of fingerprint {run['data']['fingerprint']}" for run in runs]
    return (
        " ".join(
            f"{title}: {'; '.join(dict.fromkeys(of_runs))}."
            for title, of_runs in (("Versions", versions), ("Data", data))
            if of_runs
        )
        + f" Tabulated {datetime.date.today()}."
    )


def _row(result: Result) -> dict[str, str]:
    """Returns what is known of a row of the table, by its heading."""
    from fer_jax.reporting.report import describe_speed

    system = result.system
    row = {
        "system": f"`{result.name}`",
        "published": system.published,
        "trained": _trained(result),
    }
    if result.parameters:
        row["parameters"] = f"{result.parameters:,}"
        if system.parameters:
            same = system.parameters == result.parameters
            row["parameters"] += ", as published" if same else f", not {system.parameters:,}"
    if result.history:
        config, devices = result.facts["config"], result.facts["devices"]
        speed = describe_speed(result.history, config)
        processes = f" in {devices['processes']} processes" if devices["processes"] > 1 else ""
        row |= {
            "images/s": speed["images/s (median)"],
            "training time": speed["training time"],
            "seed": str(config["seed"]),
            "chosen by": f"{config['best_by']} on {config['validation_split']}",
            "hardware": f"{devices['count']} x {devices['kind']}{processes}",
        }
        if report := result.reports.get(config["validation_split"]):
            row["validation"] = _accuracy(report)
    if report := result.reports.get(_SPLIT):
        row |= {
            _SPLIT: _accuracy(report),
            "macro F1": f"{100 * report['macro_f1']:.1f} %",
            "weighted F1": f"{100 * report['weighted_f1']:.1f} %",
        }
    return row


def _accuracy(report: Mapping[str, Any]) -> str:
    accuracy, n = report["accuracy"], report["n"]
    error = math.sqrt(accuracy * (1 - accuracy) / n)
    return f"{100 * accuracy:.2f} ± {100 * error:.2f} % (n = {n:,})"


def _trained(result: Result) -> str:
    """Returns how much of what the config asks for was trained, and what went wrong."""
    reason = f"; {_plain(result.error)}" if result.error else ""
    if not result.history:
        return f"**not trained**{', no epoch is done yet' if result.facts else ''}{reason}"
    planned, own_plan = result.config["epochs"], result.facts["config"]["epochs"]
    done = f"{len(result.history)} of {planned} epochs"
    altered = {key: value for key, value in result.changes.items() if key not in ("epochs", "seed")}
    if altered:
        how = "altered"
        done += f", with {_plain(', '.join(f'{key}={value}' for key, value in altered.items()))}"
    else:
        how = "in full" if result.ended and own_plan >= planned else "in part"
    if own_plan != planned:
        done += f", of a run planned for {own_plan}"
    if not result.ended:
        done += ", not ended"
    elif len(result.history) < own_plan:
        done += ", then stopped early by the validation loss"
    return f"**{how}**: {done}{reason}"


def _plain(text: str) -> str:
    """Returns text as Markdown, with no folder of this machine."""
    text = re.sub(r"(?<![\w.])/[^\s'\"`:;,]*/", "…/", text)
    return html.escape(text, quote=False).replace("|", "\\|")


def _section(result: Result, pictures: Path | None) -> Iterator[str]:
    """Yields lines on a system that has been evaluated; draws its pictures into that folder."""
    if _SPLIT not in result.reports:
        return
    told = [f"--config.{key}={value}" for key, value in result.changes.items()]
    command = ["python", "-m", "fer_jax.main", f"--config={result.system.config}", *told]
    yield from (f"## {result.name}", "", f"    {shlex.join(command)}", "")
    yield from _per_class(result)
    yield ""
    if pictures is not None:
        for what, figure in _figures(result).items():
            path = pictures / f"{result.name}_{what.replace(' ', '_')}.png"
            write_atomically(path, _small_png(figure))
            yield from (f"![{what} of {result.name}]({pictures.name}/{path.name})", "")


def _per_class(result: Result) -> Iterator[str]:
    published = dict(zip(CLASS_NAMES, result.system.per_class, strict=False))
    headings = [_SPLIT]
    for heading in ("precision", "recall", "F1"):
        headings += [heading, "published"] if published else [heading]
    headings.append("support")
    yield f"| {' | '.join(headings)} |"
    yield f"|---{'|---:' * (len(headings) - 1)}|"
    for name, of_class in result.reports[_SPLIT]["per_class"].items():
        cells = [name]
        for index, key in enumerate(("precision", "recall", "f1")):
            cells.append(f"{100 * of_class[key]:.1f}")
            if published:
                cells.append(str(published[name][index]))
        yield f"| {' | '.join([*cells, str(of_class['support'])])} |"


def _figures(result: Result) -> dict[str, "Figure"]:
    import numpy as np

    from fer_jax.reporting.figures import plot_confusion_matrix, plot_curves

    report = result.reports[_SPLIT]
    matrix = np.array(report["confusion_matrix"])
    return {
        "curves": plot_curves(result.history),
        "confusion matrix": plot_confusion_matrix(matrix, report["classes"]),
    }


def _small_png(figure: "Figure") -> bytes:
    from PIL import Image

    from fer_jax.reporting.figures import to_png

    picture, file = Image.open(io.BytesIO(to_png(figure))), io.BytesIO()
    picture.convert("RGB").quantize(_COLOURS).save(file, "PNG", optimize=True)
    return file.getvalue()


if __name__ == "__main__":
    cli.run(main)
