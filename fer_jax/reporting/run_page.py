"""report.html: one page about a run or about one evaluation of it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from fer_jax.config import flatten
from fer_jax.data.augment import Augmentation, augment
from fer_jax.data.contract import title_of
from fer_jax.data.records import Records
from fer_jax.reporting import figures
from fer_jax.reporting.evaluation import Evaluation
from fer_jax.reporting.metrics import RESAMPLES, calibration_bins, precision_recall
from fer_jax.reporting.pages import data_uri, inline, write_page
from fer_jax.workdir import median_speed, origin, read_resources, read_run

if TYPE_CHECKING:
    from markupsafe import Markup

_MISTAKES = 16
_AUGMENTED, _VERSIONS = 4, 6


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


HEADLINES = {
    "accuracy": ("accuracy", _percent),
    "macro_f1": ("macro F1", _percent),
    "macro_recall": ("macro recall", _percent),
    "weighted_f1": ("weighted F1", _percent),
    "nll": ("NLL (nats)", "{:.3f}".format),
    "ece": ("ECE", _percent),
}
"""Name and text format of each headline figure of report.json."""


def write_run_page(
    path: Path,
    evaluation: Evaluation,
    report: Mapping[str, Any],
    *,
    history: Sequence[Mapping[str, Any]] = (),
    training: Records | None = None,
) -> None:
    """Writes the page of an evaluation or, with `history` and `training`, of its run.

    Args:
      path: the page's file.
      evaluation: the evaluation that the page shows.
      report: its report.json.
      history: the run's metrics.jsonl; empty for no curves and no throughput.
      training: the run's training records; None for no augmentation examples.

    Raises:
      UserError: the run's config.json cannot be read.
    """
    run = read_run(evaluation.workdir)
    labels, classes = evaluation.records.labels, report["classes"]
    guesses = evaluation.predicted
    confidences = evaluation.probabilities.max(axis=1)
    wrong = np.flatnonzero(guesses != labels)
    worst = wrong[np.argsort(-confidences[wrong], kind="stable")][:_MISTAKES]
    support, predicted = (np.bincount(c, minlength=len(classes)) for c in (labels, guesses))
    counts = {f"{evaluation.split}, true": support, f"{evaluation.split}, predicted": predicted}
    config = run["config"]
    augmentation, augmented = None, []
    if training is not None:
        augmentation = Augmentation.from_config(config)
        augmented = _augmented(training, augmentation, config["seed"], classes)
        trained_on = np.bincount(training.labels, minlength=len(classes))
        counts = {f"{config['train_split']}, true": trained_on} | counts
    resources = read_resources(evaluation.workdir) if history else None
    write_page(
        path,
        "run.html",
        made=run if history else origin(),  # An evaluation has a command of its own.
        name=evaluation.name,
        data=evaluation.data.title,
        split=evaluation.split,
        report=report,
        resamples=RESAMPLES,
        headlines=[
            (name, as_text(report[key]), [as_text(end) for end in report["intervals"][key]])
            for key, (name, as_text) in HEADLINES.items()
        ],
        beside=[
            (name, *(_with_interval(side, key) for side in (report, without)))
            for key, (name, _) in HEADLINES.items()
            if (without := report.get("excluded", {}).get("without"))
        ],
        curves=[
            inline(figures.plot_curves(history, [panel]), f"{panel} over the epochs")
            for panel in (figures.PANELS if history else ())
        ],
        phases=resources
        and inline(figures.plot_phases(resources["seconds"]), "Seconds of each phase of the run"),
        resources=_describe_resources(resources, history, config) if history else {},
        precision_recall=list(_precision_recall(evaluation, report)),
        reliability=inline(
            figures.plot_reliability(*calibration_bins(evaluation.probabilities, labels)),
            "Reliability diagram: accuracy and number of images by confidence",
        ),
        class_shares=inline(
            figures.plot_class_shares(counts, classes), "Share of the images in each class"
        ),
        mistakes=_tiles(evaluation, worst),
        wrong=len(wrong),
        samples=_tiles(evaluation, evaluation.samples),
        augmentation=augmentation,
        augmented=augmented,
        facts=_facts(evaluation, run),
        config={key: json.dumps(value) for key, value in flatten(config).items()},
    )


def _with_interval(figures: Mapping[str, Any], key: str) -> tuple[str, str, str]:
    """Returns a headline figure and the ends of its interval, as texts."""
    _, as_text = HEADLINES[key]
    low, high = figures["intervals"][key]
    return as_text(figures[key]), as_text(low), as_text(high)


def describe_speed(
    history: Sequence[Mapping[str, Any]], config: Mapping[str, Any]
) -> dict[str, str]:
    """Returns rows about the time and speed of a run of at least one epoch."""
    speeds = [epoch["images_per_second"] for epoch in history]
    return {
        "epochs": f"{len(history)} of {config['epochs']}",
        "training time": str(timedelta(seconds=round(history[-1]["seconds"]))),
        "images/s (median)": f"{median_speed(history):,.0f}",
        "images/s (range)": f"{min(speeds):,.0f} to {max(speeds):,.0f}",
    }


def _describe_resources(
    resources: Mapping[str, Any] | None,
    history: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any],
) -> dict[str, str]:
    """Returns rows about a run's speed and, where they are known, its whole time and its memory."""
    rows = describe_speed(history, config)
    if resources is None:
        return rows
    if resources["starts"] > 1:
        rows["starts"] = f"{resources['starts']}, the run was resumed"
    rows["time of the command"] = str(timedelta(seconds=round(resources["total_seconds"])))
    for place, mebibytes in resources["peak_memory_mib"].items():
        if mebibytes is not None:
            rows[f"peak memory, {place}"] = f"{mebibytes:,.0f} MiB"
    return rows


def _precision_recall(
    evaluation: Evaluation, report: Mapping[str, Any]
) -> "Iterator[tuple[str, float | None, Markup | None]]":
    """Yields class, average precision and curve. The last two are None without images."""
    for index, (name, row) in enumerate(report["per_class"].items()):
        if not row["support"]:
            yield name, None, None
            continue
        truth = evaluation.records.labels == index
        score = evaluation.probabilities[:, index]
        precision, recall, average = precision_recall(truth, score)
        figure = figures.plot_precision_recall(
            precision,
            recall,
            share=row["support"] / report["n"],
            chosen=None if row["precision"] is None else (row["recall"], row["precision"]),
        )
        yield name, average, inline(figure, f"Precision by recall for class {name}")


def _tiles(evaluation: Evaluation, indices: Int[np.ndarray, " k"]) -> list[dict[str, Any]]:
    records, classes, guesses = evaluation.records, evaluation.data.classes, evaluation.predicted
    images = records.read(indices) if len(indices) else ()
    return [
        {
            "image": data_uri(image),
            "filename": records.filenames[index],
            "truth": classes[records.labels[index]],
            "guess": classes[guesses[index]],
            "right": bool(records.labels[index] == guesses[index]),
            "confidence": float(evaluation.probabilities[index].max()),
        }
        for index, image in zip(indices.tolist(), images, strict=True)
    ]


def _augmented(
    training: Records, augmentation: Augmentation, seed: int, classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Returns training images, each with augmented versions that the run could have drawn."""
    random = np.random.default_rng(seed)
    indices = random.permutation(len(training))[:_AUGMENTED]
    rows = []
    for index, image in zip(indices, training.read(indices), strict=True):
        uniforms = random.random((_VERSIONS, augmentation.draws), np.float32)
        versions = augment(np.stack([image] * _VERSIONS), uniforms, augmentation)
        rows.append(
            {
                "name": classes[training.labels[index]],
                "original": data_uri(image),
                "versions": [data_uri(version) for version in versions],
            }
        )
    return rows


def _left_out(data: Mapping[str, Any]) -> dict[str, str]:
    """Returns a row about the training images that the run left out, if it did."""
    if not (excluded := data.get("excluded")):
        return {}
    return {"left out": f"{excluded['images']:,} images, by {excluded['file']}"}


def _facts(evaluation: Evaluation, run: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Returns the tables of the page's last section, by their headings."""
    config, devices, data = run["config"], run["devices"], evaluation.data
    processes = f" in {devices['processes']} processes" if devices["processes"] > 1 else ""
    return {
        "Evaluated": {
            "split": f"{evaluation.split}, {len(evaluation.records):,} images",
            "data": f"{data.title}, {data.images}, from {data.source}",
            "fingerprint": data.fingerprint,
            "checkpoint": f"step {evaluation.checkpoint_step:,}",
            "views": evaluation.views,
        },
        "Trained": {
            "model": config["model"]["name"],
            "split": config["train_split"],
            "data": f"{title_of(run['data']['name'])}, from {run['data']['source']}",
            "fingerprint": run["data"]["fingerprint"],
            **_left_out(run["data"]),
            "hardware": f"{devices['count']} x {devices['kind']}{processes}",
        },
        "Versions": run["versions"],
    }
