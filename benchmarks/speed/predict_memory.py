"""Measures memory and speed of fer_jax.predict on 1,000 and on 10,000 files. Linux only.

Example:
  python -m benchmarks.speed.predict_memory --workdir=runs/small_cnn \\
      --figure=benchmarks/speed/predict_memory.png
"""

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

from benchmarks.processes import look
from data_prep.sample import render
from fer_jax import cli

_COUNTS = (1_000, 10_000)
_SIZE = 96  # pixels a side
_EVERY = 0.05  # seconds between two looks


def define_flags() -> None:
    """Defines --workdir and --figure."""
    flags.DEFINE_string("workdir", None, "Folder of the run that predicts.", required=True)
    flags.DEFINE_string("figure", None, "PNG to draw memory over time into.")


def main(arguments: Sequence[str]) -> None:
    """Runs the command on folders of drawn faces, and prints time and memory."""
    cli.refuse_arguments(arguments)
    curves = {}
    with tempfile.TemporaryDirectory() as parent:
        for count in _COUNTS:
            folder = Path(parent) / str(count)
            _write_faces(folder, count)
            curves[count] = _watch(folder)
    for count, curve in curves.items():
        seconds, peak = curve[-1, 0], curve[:, 1].max()
        print(
            f"{count:>6,} files: {seconds:5.1f} s with start-up, at most {peak:,.0f} MiB resident"
        )
    few, many = _COUNTS
    rate = (many - few) / (curves[many][-1, 0] - curves[few][-1, 0])
    print(f"{rate:,.0f} files/s after start-up; {os.cpu_count()} CPU cores, {_SIZE}x{_SIZE} JPEG")
    if flags.FLAGS.figure:
        _plot(curves, Path(flags.FLAGS.figure))


def _write_faces(folder: Path, count: int) -> None:
    folder.mkdir()
    faces = render([0] * 100, [np.random.default_rng(seed) for seed in range(100)])
    pictures = [Image.fromarray(face).resize((_SIZE, _SIZE)) for face in faces]
    for number, picture in zip(range(count), itertools.cycle(pictures)):
        picture.save(folder / f"{number:05d}.jpg")


def _watch(folder: Path) -> np.ndarray:
    """Returns seconds since the start and resident MiB, float[looks, 2]."""
    workdir = flags.FLAGS.workdir
    command = [sys.executable, "-m", "fer_jax.predict", f"--workdir={workdir}", str(folder)]
    looks, start = [], time.perf_counter()
    with subprocess.Popen([*command, "--format=jsonl"], stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if held := look(process.pid):
                looks.append((time.perf_counter() - start, held.resident_mib))
            time.sleep(_EVERY)
    if process.returncode:
        sys.exit(process.returncode)
    return np.array(looks)


def _plot(curves: dict[int, np.ndarray], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=150, layout="constrained")
    axes = figure.subplots()
    for (count, curve), style in zip(curves.items(), ("--", "-"), strict=True):
        axes.plot(*curve.T, style, color="#0072B2", label=f"{count:,} files")
    axes.set_xlabel("seconds since the start")
    axes.set_ylabel("resident memory (MiB)")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    FigureCanvasAgg(figure).print_png(path)


if __name__ == "__main__":
    cli.run(main, define_flags)
