"""The published systems, our runs of them, and the page that compares both."""

import dataclasses
import datetime
import html
import io
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks import table
from fer_jax.data.contract import CLASS_NAMES
from fer_jax.errors import write_atomically
from fer_jax.workdir import CONFIG, IMMATERIAL, METRICS, PAGE, flatten, read_history, read_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPLIT = "public_test"
"""The images that all systems are evaluated on."""

_HEADINGS = (
    *("system", "parameters", "published", "validation", SPLIT, "macro F1", "weighted F1"),
    *("trained", "images/s", "training time", "seed", "chosen by", "hardware"),
)
_COLOURS = 64  # Enough for the pictures, at a third of their size.


class System(NamedTuple):
    """A system as its write-up describes it, and the config that reproduces it.

    Attributes:
      config: file of the config.
      parameters: published number of parameters; 0 if there is none.
      published: published result, and the images that it was measured on.
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
class Reproduction:
    """Our run of a system, as far as it got. Fields beyond that are empty.

    Attributes:
      name: name of the system.
      system: published facts, and the config.
      workdir: folder of the run.
      config: config of the system's file, flattened.
      parameters: total number of parameters of that network.
      facts: config.json of the run.
      history: metrics.jsonl of the run.
      ended: whether the run wrote its last page: all its epochs are done, or it stopped early.
      reports: report.json of the best checkpoint on each split.
      error: reason why the run got no further, in one line; empty if there is none.
    """

    name: str
    system: System
    workdir: Path
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    parameters: int = 0
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    ended: bool = False
    reports: dict[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    error: str = ""

    @property
    def changes(self) -> dict[str, Any]:
        """The run's knobs that differ from the config file."""
        # These do not change the result of a run beyond its random draws.
        indifferent = (*IMMATERIAL, "input", "eval_batch_size", "checkpoint_every_steps")
        return {
            key: value
            for key, value in flatten(self.facts["config"]).items()
            if key not in indifferent and self.config.get(key) != value
        }

    def read(self) -> None:
        """Reads what the run has left so far, except its evaluations.

        Raises:
          UserError: one of its files is damaged.
        """
        if (self.workdir / CONFIG).exists():
            self.facts = read_run(self.workdir)
        if (self.workdir / METRICS).exists():
            self.history = read_history(self.workdir / METRICS)
        self.ended = (self.workdir / PAGE).exists()


def make_page(runs: Sequence[Reproduction], pictures: Path | None, *, command: str) -> str:
    """Returns the page in Markdown, which stands beside the folder of its pictures.

    Args:
      runs: one run or more.
      pictures: folder for a figure of curves and a confusion matrix of each run; None: no pictures.
      command: the command that is shown.
    """
    text = (
        "One run each, at its best epoch by the score in the column `chosen by`. ± is one standard "
        "error over the images, or for single members their standard deviation. F1 is "
        f"of {SPLIT}. Only a row that says so was trained in full. The published figure names the "
        f"images it was measured on. {_circumstances(runs)}"
    )
    rows = ([_row(run).get(heading, "-") for heading in _HEADINGS] for run in runs)
    lines = table.table(_HEADINGS, rows, words=len(_HEADINGS))
    sections = [section for run in runs for section in _sections(run, pictures)]
    return table.page("The published systems, reproduced", text, command, lines, *sections)


def _circumstances(runs: Sequence[Reproduction]) -> str:
    """Returns the versions and data of the runs, and today's date."""
    trained = [run.facts for run in runs if run.history]
    versions = [f"jax {facts['versions']['jax']}" for facts in trained]
    data = [facts["data"] for facts in trained]
    sources = [f"{each['source']} of fingerprint {each['fingerprint']}" for each in data]
    facts = {"Versions": versions, "Data": sources, "Tabulated": [str(datetime.date.today())]}
    return " ".join(
        f"{title}: {'; '.join(dict.fromkeys(each))}." for title, each in facts.items() if each
    )


def _row(run: Reproduction) -> dict[str, str]:
    """Returns the known cells of a row of the table, by heading."""
    from fer_jax.reporting.run_page import describe_speed

    system = run.system
    row = {
        "system": f"`{run.name}`",
        "parameters": f"{run.parameters:,}" if run.parameters else "-",
        "published": system.published,
        "trained": _trained(run),
    }
    if system.parameters:
        same = system.parameters == run.parameters
        row["parameters"] += ", as published" if same else f", published {system.parameters:,}"
    if run.history:
        config = run.facts["config"]
        speed = describe_speed(run.history, config)
        seeds = {config["seed"], config["seed"] + config["ensemble"] - 1}
        row |= {
            "images/s": speed["images/s (median)"],
            "training time": speed["training time"],
            "seed": " to ".join(map(str, sorted(seeds))),
            "chosen by": f"{config['best_by']} on {config['validation_split']}",
            "hardware": table.hardware(run.facts["devices"]),
        }
        split = config["validation_split"]
        if split != SPLIT and (report := run.reports.get(split)):
            row["validation"] = _accuracy(report)
    if report := run.reports.get(SPLIT):
        row |= {
            SPLIT: _accuracy(report),
            "macro F1": f"{100 * report['macro_f1']:.1f} %",
            "weighted F1": f"{100 * report['weighted_f1']:.1f} %",
        }
    return row


def _accuracy(report: Mapping[str, Any]) -> str:
    n = report["n"]
    text = f"{table.accuracy(report['accuracy'], n)} % (n = {n:,})"
    if members := report.get("members"):
        text += f"; each by itself {100 * members['mean']:.2f} ± {100 * members['sd']:.2f} %"
    return text


def _trained(run: Reproduction) -> str:
    """Returns how much of the config's training was done, and the error if there is one."""
    reason = f"; {_plain(run.error)}" if run.error else ""
    if not run.history:
        return f"**not trained**{', no epoch is done yet' if run.facts else ''}{reason}"
    planned, own_plan = run.config["epochs"], run.facts["config"]["epochs"]
    done = f"{len(run.history)} of {planned} epochs"
    altered = {key: value for key, value in run.changes.items() if key not in ("epochs", "seed")}
    if altered:
        how = "altered"
        done += f", with {_plain(', '.join(f'{key}={value}' for key, value in altered.items()))}"
    else:
        how = "in full" if run.ended and own_plan >= planned else "in part"
    if own_plan != planned:
        done += f", of a run planned for {own_plan}"
    if not run.ended:
        done += ", not ended"
    elif len(run.history) < own_plan:
        done += ", then stopped early by the validation loss"
    return f"**{how}**: {done}{reason}"


def _plain(text: str) -> str:
    """Returns text as Markdown, without this machine's folders."""
    return html.escape(table.hide_folders(text), quote=False).replace("|", "\\|")


def _sections(run: Reproduction, pictures: Path | None) -> Iterator[Sequence[str]]:
    """Yields the blocks of lines about a system, if it was evaluated; draws its pictures."""
    from PIL import Image

    from fer_jax.reporting.figures import to_png

    if SPLIT not in run.reports:
        return
    told = [f"--config.{key}={value}" for key, value in run.changes.items()]
    command = ["python", "-m", "fer_jax.main", f"--config={run.system.config}", *told]
    yield [f"## {run.name}"]
    yield [f"    {shlex.join(command)}"]
    yield _per_class(run)
    if pictures is not None:
        for what, figure in _figures(run).items():
            path = pictures / f"{run.name}_{what.replace(' ', '_')}.png"
            picture, file = Image.open(io.BytesIO(to_png(figure))), io.BytesIO()
            picture.convert("RGB").quantize(_COLOURS).save(file, "PNG", optimize=True)
            write_atomically(path, file.getvalue())
            yield [f"![{what} of {run.name}]({pictures.name}/{path.name})"]


def _per_class(run: Reproduction) -> list[str]:
    from fer_jax.reporting.pages import percent

    published = dict(zip(CLASS_NAMES, run.system.per_class, strict=False))
    headings = [SPLIT]
    for heading in ("precision", "recall", "F1"):
        headings += [heading, "published"] if published else [heading]
    rows = []
    for name, of_class in run.reports[SPLIT]["per_class"].items():
        cells = [name]
        for index, key in enumerate(("precision", "recall", "f1")):
            cells.append(percent(of_class[key]))
            if published:
                cells.append(str(published[name][index]))
        rows.append([*cells, str(of_class["support"])])
    return table.table([*headings, "support"], rows, words=1)


def _figures(run: Reproduction) -> dict[str, "Figure"]:
    import numpy as np

    from fer_jax.reporting.figures import plot_confusion_matrix, plot_curves

    report = run.reports[SPLIT]
    matrix = np.array(report["confusion_matrix"])
    return {
        "curves": plot_curves(run.history),
        "confusion matrix": plot_confusion_matrix(matrix, report["classes"]),
    }
