"""The published systems: what was published of each, what our runs reach, and both on a page."""

import dataclasses
import datetime
import html
import io
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fer_jax.data.contract import CLASS_NAMES
from fer_jax.errors import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPLIT = "public_test"
"""The images that all are evaluated on."""

_HEADINGS = (
    *("system", "parameters", "published", "validation", SPLIT, "macro F1", "weighted F1"),
    *("trained", "images/s", "training time", "seed", "chosen by", "hardware"),
)
_COLOURS = 64  # Enough for the pictures, at a third of their size.


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
    "resnet_ensemble": System("configs/resnet_ensemble.py"),
    "resnet_cpu": System("configs/resnet_cpu.py"),
    "efficientnet": System("configs/efficientnet.py"),
    "densenet": System("configs/densenet.py"),
    "convnext": System("configs/convnext.py"),
}


@dataclasses.dataclass
class Result:
    """What is known of a system; the rest is empty.

    Attributes:
      name: a key of `SYSTEMS`.
      workdir: where its run is, or will be.
      config: the file's, flattened.
      parameters: of that network, in total.
      facts: config.json of the run.
      history: metrics.jsonl.
      ended: the run left its last page: all its epochs are done, or it stopped early.
      reports: report.json by split, of the best checkpoint.
      error: why it did not get further, in one line.
    """

    name: str
    workdir: Path
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
    def changes(self) -> dict[str, Any]:
        """What the run was told and the config file says otherwise."""
        from fer_jax.workdir import IMMATERIAL, flatten

        told = flatten(self.facts["config"])
        # These do not change what a run comes to, but for batches from elsewhere, drawn alike.
        indifferent = (*IMMATERIAL, "input", "eval_batch_size", "checkpoint_every_steps")
        return {
            key: value
            for key, value in told.items()
            if key not in indifferent and self.config.get(key) != value
        }

    def read(self) -> None:
        """Reads what the run has left so far, but for its evaluations.

        Raises:
          UserError: a file of it is not whole.
        """
        from fer_jax.workdir import read_history, read_run

        if (self.workdir / "config.json").exists():
            self.facts = read_run(self.workdir)
        if (self.workdir / "metrics.jsonl").exists():
            self.history = read_history(self.workdir / "metrics.jsonl")
        self.ended = (self.workdir / "report.html").exists()


def make_page(results: Sequence[Result], pictures: Path | None) -> str:
    """Returns the page in Markdown, which stands beside the folder of its pictures.

    Args:
      results: one or more.
      pictures: folder to draw a curve and a confusion matrix of each into; None: no pictures.
    """
    rows = [_row(result) for result in results]
    return "\n".join(
        [
            "# The published systems, reproduced",
            "",
            "Ours is one run of each, at the epoch that did best by what it was chosen by; ± is "
            "one standard error over the images, but of networks each by itself their standard "
            "deviation, and F1 is of public_test. Only a row that says so was trained in full. "
            "What was published names the images it was measured on. "
            f"{_circumstances(results)}",
            "",
            "    python -m benchmarks.accuracy.published --workdir=DIR",
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
    versions = [f"jax {run['versions']['jax']}" for run in runs]
    data = [f"{run['data']['source']} of fingerprint {run['data']['fingerprint']}" for run in runs]
    facts = {"Versions": versions, "Data": data, "Tabulated": [str(datetime.date.today())]}
    return " ".join(
        f"{title}: {'; '.join(dict.fromkeys(each))}." for title, each in facts.items() if each
    )


def _row(result: Result) -> dict[str, str]:
    """Returns what is known of a row of the table, by its heading."""
    from fer_jax.reporting.run_page import describe_speed

    system = result.system
    row = {
        "system": f"`{result.name}`",
        "parameters": f"{result.parameters:,}" if result.parameters else "-",
        "published": system.published,
        "trained": _trained(result),
    }
    if system.parameters:
        same = system.parameters == result.parameters
        row["parameters"] += ", as published" if same else f", published {system.parameters:,}"
    if result.history:
        config, devices = result.facts["config"], result.facts["devices"]
        speed = describe_speed(result.history, config)
        processes = f" in {devices['processes']} processes" if devices["processes"] > 1 else ""
        seeds = range(config["seed"], config["seed"] + config.get("ensemble", 1))
        row |= {
            "images/s": speed["images/s (median)"],
            "training time": speed["training time"],
            "seed": " to ".join(map(str, sorted({seeds[0], seeds[-1]}))),
            "chosen by": f"{config['best_by']} on {config['validation_split']}",
            "hardware": f"{devices['count']} x {devices['kind']}{processes}",
        }
        split = config["validation_split"]
        if split != SPLIT and (report := result.reports.get(split)):
            row["validation"] = _accuracy(report)
    if report := result.reports.get(SPLIT):
        row |= {
            SPLIT: _accuracy(report),
            "macro F1": f"{100 * report['macro_f1']:.1f} %",
            "weighted F1": f"{100 * report['weighted_f1']:.1f} %",
        }
    return row


def _accuracy(report: Mapping[str, Any]) -> str:
    accuracy, n = report["accuracy"], report["n"]
    error = math.sqrt(accuracy * (1 - accuracy) / n)
    text = f"{100 * accuracy:.2f} ± {100 * error:.2f} % (n = {n:,})"
    if members := report.get("members"):
        text += f"; each by itself {100 * members['mean']:.2f} ± {100 * members['sd']:.2f} %"
    return text


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
    if SPLIT not in result.reports:
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
    headings = [SPLIT]
    for heading in ("precision", "recall", "F1"):
        headings += [heading, "published"] if published else [heading]
    headings.append("support")
    yield f"| {' | '.join(headings)} |"
    yield f"|---{'|---:' * (len(headings) - 1)}|"
    for name, of_class in result.reports[SPLIT]["per_class"].items():
        cells = [name]
        for index, key in enumerate(("precision", "recall", "f1")):
            cells.append(f"{100 * of_class[key]:.1f}")
            if published:
                cells.append(str(published[name][index]))
        yield f"| {' | '.join([*cells, str(of_class['support'])])} |"


def _figures(result: Result) -> dict[str, "Figure"]:
    import numpy as np

    from fer_jax.reporting.figures import plot_confusion_matrix, plot_curves

    report = result.reports[SPLIT]
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
