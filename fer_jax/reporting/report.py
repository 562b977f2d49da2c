"""report.html: a run, or an evaluation of it, on one page."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from fer_jax.data.augment import Augmentation, augment
from fer_jax.data.records import Records
from fer_jax.reporting import figures
from fer_jax.reporting.history import median_speed
from fer_jax.reporting.metrics import RESAMPLES, calibration_bins
from fer_jax.reporting.pages import data_uri, inline, write_page
from fer_jax.reporting.predictions import Predictions

if TYPE_CHECKING:
    from markupsafe import Markup

_MISTAKES = 16
_AUGMENTED, _VERSIONS = 4, 6


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


HEADLINES = {
    "accuracy": ("accuracy", _percent),
    "macro_f1": ("macro F1", _percent),
    "weighted_f1": ("weighted F1", _percent),
    "nll": ("NLL (nats)", "{:.3f}".format),
    "ece": ("ECE", _percent),
}
"""Headline figures of report.json: what each is called, and what writes it as text."""


def write_report(
    path: Path,
    predictions: Predictions,
    report: Mapping[str, Any],
    *,
    history: Sequence[Mapping[str, Any]] = (),
    training: Records | None = None,
) -> None:
    """Writes the page of an evaluation or, given what only a run has, of the run.

    Args:
      path: of the page.
      predictions: what is evaluated.
      report: of `predictions`, as in report.json.
      history: of the run, as in metrics.jsonl; none: no curves, no throughput.
      training: records that the run trained on; None: no augmentation examples.

    Raises:
      UserError: the run's config.json cannot be read.
    """
    # Imported here, as it takes JAX along.
    from fer_jax.workdir import flatten, read_run

    run = read_run(predictions.workdir)
    labels, classes = predictions.records.labels, report["classes"]
    guesses = predictions.predicted
    confidences = predictions.probabilities.max(axis=1)
    wrong = np.flatnonzero(guesses != labels)
    worst = wrong[np.argsort(-confidences[wrong], kind="stable")][:_MISTAKES]
    support, predicted = (np.bincount(of, minlength=len(classes)) for of in (labels, guesses))
    counts = {f"{predictions.split}, true": support, f"{predictions.split}, predicted": predicted}
    config = run["config"]
    augmentation, augmented = None, []
    if training is not None:
        augmentation = Augmentation.from_config(config)
        augmented = _augmented(training, augmentation, config["seed"], classes)
        trained_on = np.bincount(training.labels, minlength=len(classes))
        counts = {f"{config['train_split']}, true": trained_on} | counts
    write_page(
        path,
        "report.html",
        name=predictions.workdir.resolve().name,
        split=predictions.split,
        report=report,
        resamples=RESAMPLES,
        headlines=[
            (name, as_text(report[key]), [as_text(end) for end in report["intervals"][key]])
            for key, (name, as_text) in HEADLINES.items()
        ],
        curves=[
            inline(figures.plot_curves(history, [panel]), f"{panel} over the epochs")
            for panel in (figures.PANELS if history else ())
        ],
        throughput=describe_speed(history, config) if history else {},
        precision_recall=list(_precision_recall(predictions, report)),
        reliability=inline(
            figures.plot_reliability(*calibration_bins(predictions.probabilities, labels)),
            "Reliability diagram: accuracy by confidence, and how many images have it",
        ),
        class_shares=inline(
            figures.plot_class_shares(counts, classes), "Share of each class in the images"
        ),
        mistakes=_tiles(predictions, worst),
        wrong=len(wrong),
        samples=_tiles(predictions, predictions.shown),
        augmentation=augmentation,
        augmented=augmented,
        facts=_facts(predictions, run),
        config={key: json.dumps(value) for key, value in flatten(config).items()},
    )


def describe_speed(
    history: Sequence[Mapping[str, Any]], config: Mapping[str, Any]
) -> dict[str, str]:
    """Returns how long a run of one epoch or more took and how fast it was, by name."""
    speeds = [epoch["images_per_second"] for epoch in history]
    return {
        "epochs": f"{len(history)} of {config['epochs']}",
        "training time": str(timedelta(seconds=round(history[-1]["seconds"]))),
        "images/s (median)": f"{median_speed(history):,.0f}",
        "images/s (range)": f"{min(speeds):,.0f} to {max(speeds):,.0f}",
    }


def _precision_recall(
    predictions: Predictions, report: Mapping[str, Any]
) -> "Iterator[tuple[str, float | None, Markup | None]]":
    """Yields class, average precision and curve; None for a class without images."""
    from sklearn.metrics import average_precision_score, precision_recall_curve

    for index, (name, of_class) in enumerate(report["per_class"].items()):
        if not of_class["support"]:
            yield name, None, None
            continue
        truth = predictions.records.labels == index
        score = predictions.probabilities[:, index]
        precision, recall, _ = precision_recall_curve(truth, score)
        figure = figures.plot_precision_recall(
            precision,
            recall,
            share=of_class["support"] / report["n"],
            chosen=(of_class["recall"], of_class["precision"]),
        )
        average = float(average_precision_score(truth, score))
        yield name, average, inline(figure, f"Precision by recall of class {name}")


def _tiles(predictions: Predictions, indices: Int[np.ndarray, " k"]) -> list[dict[str, Any]]:
    records, classes, guesses = predictions.records, predictions.data.classes, predictions.predicted
    images = records.read(indices) if len(indices) else ()
    return [
        {
            "image": data_uri(image),
            "filename": records.filenames[index],
            "truth": classes[records.labels[index]],
            "guess": classes[guesses[index]],
            "right": bool(records.labels[index] == guesses[index]),
            "confidence": float(predictions.probabilities[index].max()),
        }
        for index, image in zip(indices.tolist(), images, strict=True)
    ]


def _augmented(
    training: Records, augmentation: Augmentation, seed: int, classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Returns training images, each with versions of it that the run may have met."""
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


def _facts(predictions: Predictions, run: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Returns tables by their headings."""
    config, devices, data = run["config"], run["devices"], predictions.data
    processes = f" in {devices['processes']} processes" if devices["processes"] > 1 else ""
    return {
        "Evaluated": {
            "split": f"{predictions.split}, {len(predictions.records):,} images",
            "data source": data.source,
            "fingerprint": data.fingerprint,
            "checkpoint": f"step {predictions.checkpoint_step:,}",
            "views": predictions.views,
        },
        "Trained": {
            "model": config["model"]["name"],
            "split": config["train_split"],
            "data source": run["data"]["source"],
            "fingerprint": run["data"]["fingerprint"],
            "hardware": f"{devices['count']} x {devices['kind']}{processes}",
        },
        "Versions": run["versions"],
    }
