"""Tables of accuracy: the headlines, views, classes, and every recorded run beside its paper."""

import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import record, table
from benchmarks.accuracy.systems import SYSTEMS
from fer_jax.data.contract import CLASS_NAMES

SPLIT = "public_test"

_OURS = [name for name, system in SYSTEMS.items() if not system.published]
_PUBLISHED = [name for name, system in SYSTEMS.items() if system.published]
_UNMEASURED = "not measured"
_SEVERAL = {"resnet": "resnet_ensemble"}
"""Configs that train several seeds of another one."""
_TAUGHT = ("resnet_record",)
"""Configs whose command names their teachers."""

Record = Mapping[str, Any]


def of_config(name: str, results: Path) -> list[Record]:
    """Returns the records of a config as it stands, but for seeds and members; best known first."""
    names = (name, _SEVERAL.get(name))
    found = [each for each in record.read("accuracy", results) if each["config"]["file"] in names]
    found = [each for each in found if how_trained(each) == "in full"]
    return sorted(found, key=lambda each: (len(each["seeds"]), each["date"]), reverse=True)


def how_trained(found: Record) -> str:
    """Returns "in full", "altered" (other knobs than the config's) or "in part" (fewer epochs)."""
    changes = found["config"]["changes"].keys() - {"ensemble", "seed"}
    if found["config"]["file"] in _TAUGHT:
        changes -= {"teachers", "distillation.sha256"}
    if changes - {"epochs"}:
        return "altered"
    knobs, figures = found["config"]["knobs"], found["figures"]
    short = figures["epochs"] < figures["planned_epochs"] and not knobs["early_stopping_patience"]
    return "in part" if changes or short else "in full"


def scores(found: Record, folder: str, key: str, *, without: bool = False) -> list[float]:
    """Returns a score of each seed; empty if it was not evaluated there, or not without copies."""
    evaluation = found["figures"]["evaluations"].get(folder)
    seeds = evaluation["seeds"] if evaluation else []
    if without:
        seeds = [seed["without"] for seed in seeds if "without" in seed]
    return [seed[key] for seed in seeds if key in seed]


def mean(values: Sequence[float], digits: int = 2) -> str:
    """Returns fractions in percent: the mean, for several ± their standard deviation."""
    if not values:
        return ""
    percent = [100 * value for value in values]
    error = f" ± {statistics.stdev(percent):.{digits}f}" if len(percent) > 1 else ""
    return f"{statistics.mean(percent):.{digits}f}{error}"


def tested(found: Record) -> str:
    """Returns the accuracy on public_test in percent; for one seed with its 95 % interval."""
    accuracies = scores(found, SPLIT, "accuracy")
    interval = found["figures"]["evaluations"].get(SPLIT, {}).get("intervals", {}).get("accuracy")
    if len(accuracies) != 1 or not interval:
        return mean(accuracies)
    least, most = (100 * end for end in interval)
    return f"{mean(accuracies)} ({least:.1f} to {most:.1f})"


def together(found: Record, folder: str = SPLIT) -> str:
    """Returns the accuracy of the members' mean prediction in percent, if there are members."""
    ensemble = found["figures"]["evaluations"].get(folder, {}).get("ensemble")
    return f"{100 * ensemble['accuracy']:.2f}" if ensemble else ""


def seconds(found: Record) -> str:
    """Returns the whole command's time, or that of the steps if only this is known."""
    if total := found["figures"].get("total_seconds"):
        return table.duration(total)
    steps = found["seconds"].get("steps")
    return f"{table.duration(steps)} of steps" if steps else ""


_SCORES: dict[str, Callable[[Record], str]] = {
    "seeds": lambda found: str(len(found["seeds"])),
    "validation_20": lambda found: mean(scores(found, "validation_20", "accuracy")),
    SPLIT: tested,
    "macro F1": lambda found: mean(scores(found, SPLIT, "macro_f1"), 1),
    "ECE": lambda found: mean(scores(found, SPLIT, "ece"), 1),
    "without copies": lambda found: mean(scores(found, SPLIT, "accuracy", without=True)),
    "mean prediction": together,
    "time": seconds,
    "hardware": lambda found: table.hardware(found["hardware"]),
}


def headline(names: Sequence[str], results: Path, *columns: str, most: int = 99) -> str:
    """Returns a table with up to `most` rows for each config; configs without a record say so."""
    rows = []
    for name in names:
        published = [SYSTEMS[name].published] if "published" in columns else []
        others = [column for column in columns if column != "published"]
        found = of_config(name, results)[:most]
        for each in found:
            rows.append([f"`{name}`", *published, *(_SCORES[column](each) for column in others)])
        if not found:
            rows.append([f"`{name}`", *published, _UNMEASURED, *[""] * (len(others) - 1)])
    words = {"published", "time", "hardware"}
    headings = {"config": ""} | {column: "" if column in words else "s" for column in columns}
    return "\n".join(table.lines(table.make(headings, rows)))


def ours(results: Path) -> str:
    """Returns the table of our own networks."""
    columns = ("seeds", SPLIT, "macro F1", "ECE", "without copies", "mean prediction")
    return headline(_OURS, results, *columns, "time", "hardware")


def published(results: Path) -> str:
    """Returns the table of the published systems."""
    columns = ("published", "seeds", "validation_20", SPLIT, "macro F1", "ECE", "without copies")
    return headline(_PUBLISHED, results, *columns, "time", "hardware")


def readme(results: Path) -> str:
    """Returns the short table of README.md."""
    names = ["published/small_cnn", "ready", "resnet_ensemble", "resnet_record"]
    columns = ("published", "seeds", SPLIT, "macro F1", "ECE", "without copies", "time")
    return headline(names, results, *columns, most=1)


def teachers(results: Path) -> str:
    """Returns a table of the same network with and without a teacher."""
    columns = ("seeds", SPLIT, "macro F1", "ECE", "without copies", "mean prediction", "time")
    rows = []
    for found in record.read("accuracy", results):
        study = re.match(r"resnet_cpu-(student|alone)-", found["name"])
        if study:
            taught_by = ", ".join(found["config"]["knobs"]["teachers"]) or "none"
            cells = (_SCORES[column](found) for column in columns)
            rows.append([taught_by, *cells, table.hardware(found["hardware"])])
    if not rows:
        return f"{_UNMEASURED.capitalize()}."
    words = {"time", "hardware"}
    headings = {"teacher": ""} | {column: "" if column in words else "s" for column in columns}
    return "\n".join(table.lines(table.make(headings | {"hardware": ""}, rows)))


def views(results: Path) -> str:
    """Returns a table of the accuracy through each kind of views, where several were tried."""
    rows = []
    for found in record.read("accuracy", results):
        by_views = {
            each["views"]: folder
            for folder, each in found["figures"]["evaluations"].items()
            if each["split"] == SPLIT
        }
        if len(by_views) > 1 and how_trained(found) == "in full":
            accuracies = [
                mean(scores(found, by_views.get(name, ""), "accuracy"))
                for name in ("one", "flip", "ten_crop")
            ]
            rows.append([f"`{found['config']['file']}`", *accuracies])
    headings = {"config": "", "one": "s", "flip": "s", "ten_crop": "s"}
    if not rows:
        return f"{_UNMEASURED.capitalize()}."
    return "\n".join(table.lines(table.make(headings, rows)))


def one(name: str, results: Path) -> str:
    """Returns a config's accuracy in a sentence's words: "59.01 ± 0.40 %"."""
    found = of_config(name, results)
    return f"{mean(scores(found[0], SPLIT, 'accuracy'))} %" if found else _UNMEASURED


def classes(name: str, results: Path) -> str:
    """Returns precision, recall and F1 of each class, of the first record of a config."""
    found = of_config(name, results)
    return "\n".join(_per_class(found[0])) if found else f"{_UNMEASURED.capitalize()}."


def systems(results: Path) -> str:
    """Returns the page of all recorded runs: a table, then each with its classes and pictures."""
    found = sorted(record.read("accuracy", results), key=_order)
    rows = [_row(each) for each in found]
    headings = ["config", "parameters", "published", "trained", "seeds", "validation_20", SPLIT]
    headings += ["macro F1", "weighted F1", "images/s", "time", "hardware", "date"]
    words = {"config", "published", "trained", "hardware", "time", "date"}
    columns = {heading: "" if heading in words else "s" for heading in headings}
    blocks = [table.lines(table.make(columns, rows))]
    for each in found:
        blocks += _sections(each, results)
    return "\n\n".join("\n".join(block) for block in blocks)


def _order(found: Record) -> tuple[int, str]:
    name = found["config"]["file"]
    return (list(SYSTEMS).index(name) if name in SYSTEMS else len(SYSTEMS), found["name"])


def _row(found: Record) -> list[Any]:
    name, figures = found["config"]["file"], found["figures"]
    system = SYSTEMS.get(name)
    parameters = f"{figures['parameters']:,}"
    if system and system.parameters:
        same = system.parameters == figures["parameters"]
        parameters += ", as published" if same else f", published {system.parameters:,}"
    rate = figures["images_per_second"]
    return [
        *(f"`{name}`", parameters, system.published if system else "", _trained(found)),
        *(", ".join(map(str, found["seeds"])), _SCORES["validation_20"](found)),
        *(_SCORES[SPLIT](found), mean(scores(found, SPLIT, "macro_f1"), 1)),
        *(mean(scores(found, SPLIT, "weighted_f1"), 1), f"{rate:,.0f}" if rate else ""),
        *(seconds(found), table.hardware(found["hardware"]), found["date"]),
    ]


def _trained(found: Record) -> str:
    figures, changes = found["figures"], dict(found["config"]["changes"])
    done = f"{figures['epochs']} of {figures['planned_epochs']} epochs"
    for key in ("ensemble", "seed", "epochs"):
        changes.pop(key, None)
    if changes:
        done += f", with {', '.join(f'{key}={value}' for key, value in changes.items())}"
    if teachers := found["config"]["knobs"].get("teachers"):
        done += f", taught by {', '.join(teachers)}"
    return f"**{how_trained(found)}**: {done}"


def _sections(found: Record, results: Path) -> Iterator[list[str]]:
    if SPLIT not in found["figures"]["evaluations"]:
        return
    yield [f"## {found['config']['file']}, {table.hardware(found['hardware'])}"]
    yield [f"    {found['command']}"]
    yield [f"{table.circumstances(found)} {_copies(found)}".strip()]
    yield _per_class(found)
    for what in ("curves", "confusion_matrix"):
        path = results / "accuracy" / f"{found['name']}-{what}.png"
        if path.exists():
            words = f"{what.replace('_', ' ')} of {found['config']['file']}"
            yield [f"![{words}](../results/accuracy/{path.name})"]


def _copies(found: Record) -> str:
    """Returns a sentence with the scores without copies of training images."""
    seeds = [seed.get("without") for seed in found["figures"]["evaluations"][SPLIT]["seeds"]]
    if not all(seeds):
        return ""
    accuracy, f1, ece = (
        mean([seed[key] for seed in seeds], digits)
        for key, digits in (("accuracy", 2), ("macro_f1", 1), ("ece", 1))
    )
    return (
        f"Without copies of training images (n = {seeds[0]['n']:,} images): accuracy "
        f"{accuracy} %, macro F1 {f1} %, ECE {ece} %."
    )


def _per_class(found: Record) -> list[str]:
    evaluation = found["figures"]["evaluations"][SPLIT]
    system = SYSTEMS.get(found["config"]["file"])
    theirs = dict(zip(CLASS_NAMES, system.per_class, strict=False)) if system else {}
    of_what = f"{SPLIT}, mean prediction" if "ensemble" in evaluation else SPLIT
    columns = {of_what: ""}
    for heading in ("precision", "recall", "F1"):
        columns[heading] = ".1f"
        if theirs:
            columns[f"published {heading}"] = "d"
    rows = []
    for name, figures in evaluation["per_class"].items():
        row: list[Any] = [name]
        for index, key in enumerate(("precision", "recall", "f1")):
            score = figures[key]  # A class that is never predicted has no precision.
            row.append(None if score is None else 100 * score)
            row += [theirs[name][index]] if theirs else []
        rows.append([*row, figures["support"]])
    return table.lines(table.make(columns | {"images": ","}, rows))
