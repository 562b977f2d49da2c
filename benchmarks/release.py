"""Makes a run the model that comes with fer_jax: weights, config, report, card, values for tests.

Example:
  python -m benchmarks.release --workdir=runs/ready_32 --workdir=runs/ready

Several workdirs are the stages of one training, in order; the last one is released. Training on all
of `train` leaves no image to fit the temperature on but those of public_test. So the temperature is
fitted on these, and the calibration error is that of cross-fitting, where each half of the images
has the temperature of the other half.

It writes fer_jax/weights/ and tests/fixtures/shipped.json.
"""

import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jinja2
import numpy as np
from absl import flags
from matplotlib.cbook import get_sample_data
from PIL import Image

from benchmarks import table
from data_prep.sample import render
from fer_jax import Predictor, cli, evaluate
from fer_jax.auditing.findings import audit
from fer_jax.config import default_config, flatten, load_config
from fer_jax.data.records import DataSet, find_run_data, open_data_set
from fer_jax.devices import describe_devices
from fer_jax.errors import write_atomically
from fer_jax.inference.annotate import Mark, annotate
from fer_jax.inference.calibration import (
    cross_fitted_probabilities,
    fit_temperature,
    logits_of_views,
    scaled_probabilities,
)
from fer_jax.inference.model_folder import write_model_folder
from fer_jax.inference.trained import load_trained
from fer_jax.reporting.figures import plot_reliability, to_png
from fer_jax.reporting.metrics import calibration_bins, classification_metrics
from fer_jax.workdir import IMMATERIAL, SHIPPED, WEIGHTS, read_history, read_run

SPLIT = "public_test"
CARD, GRAD_CAM, RELIABILITY = "README.md", "grad_cam.jpg", "reliability.png"
EXPECTED = Path("tests/fixtures/shipped.json")
_TEMPLATE = Path(__file__).parent / "accuracy/model_card.md.jinja"
_VIEWS = ("one", "flip", "ten_crop")
_MOST_BYTES = 6_000_000


def define_flags() -> None:
    """Defines the flags."""
    flags.DEFINE_multi_string("workdir", None, "Stages of the run, in order.", required=True)
    flags.DEFINE_string("config", "ready", "Config that the stages' flags refer to.")
    flags.DEFINE_string("checkpoint", "latest", "best, latest or a step.")
    flags.DEFINE_string("views", "flip", "Views that the model averages.")


def main(arguments: Sequence[str]) -> None:
    """Writes everything, and prints the card."""
    cli.refuse_arguments(arguments)
    cli.set_up_jax()
    options = flags.FLAGS
    stages = [Path(name) for name in options.workdir]
    run = read_run(stages[-1])
    data_dir = find_run_data(run)
    data = open_data_set(data_dir, tuple(run["data"]["classes"]))
    records = data.load(SPLIT)

    model = load_trained(stages[-1], options.checkpoint, options.views)
    run["config"]["views"] = options.views

    def write(temperature: float) -> None:
        write_model_folder(
            SHIPPED,
            run,
            model.networks,
            steps=model.steps,
            temperature=temperature,
            dtype="float16",
        )

    write(1.0)
    size = (SHIPPED / WEIGHTS).stat().st_size
    if size > _MOST_BYTES:
        raise SystemExit(f"{size:,} bytes are more than {_MOST_BYTES:,}")
    logits = {
        views: logits_of_views(load_trained(SHIPPED, views=views), records) for views in _VIEWS
    }
    temperature = fit_temperature(logits[options.views], records.labels)
    write(temperature)

    probabilities = {
        views: scaled_probabilities(values, temperature) for views, values in logits.items()
    }
    reports = {
        views: classification_metrics(values, records.labels, data.classes)
        for views, values in probabilities.items()
    }
    report = _report(data)
    without = report["excluded"]["without"]
    chosen = logits[options.views]
    crossed = cross_fitted_probabilities(chosen, records.labels)
    calibration = {
        name: classification_metrics(values, records.labels, data.classes)["ece"]
        for name, values in (("before", scaled_probabilities(chosen, 1.0)), ("after", crossed))
    }
    figure = plot_reliability(*calibration_bins(crossed, records.labels))
    write_atomically(SHIPPED / RELIABILITY, to_png(figure))

    predictor = Predictor.pretrained()
    faces = np.stack(render(range(7), [np.random.default_rng(k) for k in range(7)]))
    _draw_grad_cam(predictor, faces)
    right = probabilities[options.views].argmax(axis=1) == records.labels
    seventh = np.argsort([Path(name).name for name in records.filenames])[::7]
    expected = {
        "accuracy": report["accuracy"],
        "accuracy_of_every_seventh": right[seventh].mean(),
        "probabilities": np.round(predictor(faces).probabilities.astype(float), 6).tolist(),
    }
    write_atomically(EXPECTED, json.dumps(expected, indent=1) + "\n")

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True)
    card = environment.from_string(_TEMPLATE.read_text()).render(
        stages=list(_stages(stages, options.config)),
        run=run,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(model.networks[0][0])),
        bytes=size,
        sha256=hashlib.sha256((SHIPPED / WEIGHTS).read_bytes()).hexdigest(),
        report=report,
        reports=reports,
        accuracy=_accuracy,
        calibration=calibration,
        temperature=temperature,
        copies=report["excluded"]["images"],
        accuracy_without=_accuracy(without["accuracy"], without["n"]),
        counts=dict(zip(data.classes, np.bincount(data.load("train").labels), strict=True)),
        speed=_speed(predictor),
        devices=table.hardware(describe_devices()),
        hardware=table.hardware,
    )
    write_atomically(SHIPPED / CARD, card)
    print(card)


def _report(data: DataSet) -> dict[str, Any]:
    """Evaluates the model folder, with and without images that are copies of training images.

    It keeps report.json alone, because pictures would show the data.
    """
    with tempfile.TemporaryDirectory() as name:
        leaks = Path(name) / "audit.csv"
        write_atomically(leaks, audit(data, {}).to_csv())
        folder = Path(name) / "model"
        for file in ("config.json", WEIGHTS):
            write_atomically(folder / file, (SHIPPED / file).read_bytes())
        report = evaluate(folder, SPLIT, data_dir=data.data_dir, exclude=f"{leaks}:leak")
    write_atomically(SHIPPED / "eval" / SPLIT / "report.json", json.dumps(report, indent=2) + "\n")
    return report


def _draw_grad_cam(predictor: Predictor, drawn: np.ndarray) -> None:
    """Draws a heat map over a photographed face and over drawn ones, one row of pictures."""
    with get_sample_data("grace_hopper.jpg") as file:  # The U.S. Navy's, in the public domain.
        photo = Image.open(file).convert("L")
    (face,) = predictor.faces(photo)
    assert face.box
    faces = [face.box.crop(photo).resize((48, 48), Image.Resampling.LANCZOS)]
    faces += map(Image.fromarray, drawn)
    prediction, heat = predictor.explain(faces)
    pictures = [
        annotate(face, [Mark(None, f"{label} {100 * confidence:.0f} %", map_)])
        for face, label, confidence, map_ in zip(
            faces, prediction.labels, prediction.confidences, heat, strict=True
        )
    ]
    width, height = pictures[0].width, max(picture.height for picture in pictures)
    row = Image.new("RGB", (width * len(pictures), height))
    for index, picture in enumerate(pictures):
        row.paste(picture, (width * index, height - picture.height))
    row.thumbnail((1400, 1400))
    row.save(SHIPPED / GRAD_CAM, quality=85)


def _stages(workdirs: Sequence[Path], base: str) -> Iterator[Mapping[str, Any]]:
    """Yields command, epochs, seconds and hardware of each stage."""
    ours = {f"runs/{path.name}": path for path in workdirs}
    for name, workdir in ours.items():
        run, history = read_run(workdir), read_history(workdir / "metrics.jsonl")
        start, done = flatten(load_config(base).to_dict()), flatten(run["config"])
        done["epochs"] = len(history)
        changed = {
            key: value
            for key, value in done.items()
            if key not in IMMATERIAL and value != _as_json(start.get(key, _default(key)))
        }
        if run["config"]["pretrained"]["file"]:
            before = Path(run["config"]["pretrained"]["file"]).name
            changed["pretrained.file"] = f"runs/{before}"
        knobs = "".join(f" --config.{key}={value}" for key, value in sorted(changed.items()))
        yield {
            "command": f"fer_jax train --config={base} --workdir={name}{knobs}",
            "epochs": len(history),
            "minutes": history[-1]["seconds"] / 60,
            "hardware": table.hardware(run["devices"]),
            "versions": run["versions"],
        }


def _accuracy(fraction: float, n: int) -> str:
    return table.text(table.accuracy(fraction, n), ".2f")


def _default(key: str) -> Any:
    return flatten(default_config().to_dict()).get(key)


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _speed(predictor: Predictor) -> dict[int, str]:
    """Returns milliseconds per call, median and least to greatest, by number of faces."""
    speed = {}
    for count in (1, 64):
        faces = np.random.default_rng(0).integers(0, 256, (count, 48, 48), np.uint8)
        predictor(faces)
        times = []
        for _ in range(21):
            started = time.perf_counter()
            predictor(faces)
            times.append(1e3 * (time.perf_counter() - started))
        speed[count] = f"{statistics.median(times):.1f} ({min(times):.1f} to {max(times):.1f})"
    return speed


if __name__ == "__main__":
    cli.run(main, define_flags)
