"""Trains and predicts for a long time, and draws memory, open files and threads. Linux only.

Example:
  FER2013_SOURCE=images python -m benchmarks.soak --minutes=60

One process trains the small CNN with short epochs: each ends in an evaluation, a checkpoint and
TensorBoard's events. Another one runs `fer_jax predict --detect_faces` over a folder of pictures
and a video, again and again. The pictures are composed of FER-2013's faces if FER2013_SOURCE names
its images, else of drawn ones. The figures and their growth go beside the plot, into a page.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from absl import flags
from jaxtyping import Float, UInt8

from benchmarks import children, record, table
from benchmarks.processes import look
from fer_jax import cli
from fer_jax.errors import UserError, write_atomically
from fer_jax.reporting.figures import to_png

_CONFIG = "published/small_cnn"
_PICTURES, _FRAMES = 40, 60
_SIZE = (640, 480)  # width and height of pictures and frames, in pixels
_ROUNDS = 10_000  # More than an hour has.
_WARM_UP = 1 / 6  # share of the time
_PANELS = ("resident MiB", "open files", "threads")
_COLUMNS = {
    **{"process": "", "what": "", "looks": "d", "median (least to most)": ",.0f"},
    "growth an hour": "+.1f",
}
_PACKAGES = ("jax", "flax", "orbax-checkpoint", "grain", "opencv-python-headless")

Looks = Mapping[str, Float[np.ndarray, "looks 4"]]
"""Minutes since the start, resident MiB, open files and threads, by process."""


def define_flags() -> None:
    """Defines --minutes and the other flags."""
    flags.DEFINE_float("minutes", 60.0, "Length of the soak.", lower_bound=0.1)
    flags.DEFINE_float("every", 5.0, "Seconds between two looks.", lower_bound=0.1)
    flags.DEFINE_list("only", ["training", "predict"], "Processes to start.")
    record.define_flags()


def main(arguments: Sequence[str]) -> None:
    """Runs both processes; prints and records the figures, and draws them beside the record."""
    cli.refuse_arguments(arguments)
    options = flags.FLAGS
    with tempfile.TemporaryDirectory() as folder:
        commands = _prepare(Path(folder))
        if unknown := [name for name in options.only if name not in commands]:
            raise UserError(f"--only has {', '.join(unknown)}; choose from {', '.join(commands)}")
        looks = soak(
            {name: commands[name] for name in options.only},
            seconds=60 * options.minutes,
            every=options.every,
            logs=Path(folder),
        )
    found = record.keep(
        "soak", make_figures(looks), command=table.command("soak"), versions=_versions()
    )
    picture = Path(options.results, "soak", f"{found['name']}.png")
    write_atomically(picture, to_png(plot(looks)))
    print(table.page(found))


def _versions() -> dict[str, str]:
    return {name: version(name) for name in _PACKAGES}


def _prepare(folder: Path) -> dict[str, list[str]]:
    """Makes data, model, pictures and video; returns the commands."""
    from fer_jax.data.records import open_data_set

    source = os.environ.get("FER2013_SOURCE") or "sample"
    data = folder / "data"
    train = [f"--config={_CONFIG}", f"--config.data_dir={data}", f"--config.data_source={source}"]
    model = folder / "model"
    once = ["--config.epochs=1", "--config.steps_per_epoch=300"]
    children.run("fer_jax.main", *train, f"--workdir={model}", *once)
    faces = open_data_set(data).load("public_test").images()
    pictures, video = _compose(faces, folder)
    steps = ["--config.epochs=100000", "--config.steps_per_epoch=20"]
    steps += ["--config.checkpoint_every_steps=10"]
    found = _ROUNDS * [str(pictures), str(video)]
    return {
        "training": ["fer_jax.main", *train, *steps, f"--workdir={folder / 'run'}"],
        "predict": ["fer_jax.predict", f"--workdir={model}", "--detect_faces", *found],
    }


def _compose(faces: UInt8[np.ndarray, "n 48 48 1"], folder: Path) -> tuple[Path, Path]:
    """Writes pictures and a video with some enlarged faces each, on noise."""
    random = np.random.default_rng(0)
    pictures, video = folder / "pictures", folder / "video.avi"
    pictures.mkdir()
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 10, _SIZE)  # type: ignore[attr-defined]
    for number in range(max(_PICTURES, _FRAMES)):
        canvas = random.integers(90, 160, (*_SIZE[::-1], 1), dtype=np.uint8)
        for column in range(random.integers(1, 4)):
            side = int(random.integers(100, 201))
            top, left = int(random.integers(0, _SIZE[1] - side)), 210 * column
            face = cv2.resize(faces[random.integers(len(faces))], (side, side))
            canvas[top : top + side, left : left + side, 0] = face
        colours = cv2.cvtColor(canvas, cv2.COLOR_GRAY2BGR)
        if number < _PICTURES:
            cv2.imwrite(str(pictures / f"{number:02d}.jpg"), colours)
        if number < _FRAMES:
            writer.write(colours)
    writer.release()
    return pictures, video


def soak(
    commands: Mapping[str, Sequence[str]], *, seconds: float, every: float, logs: Path
) -> Looks:
    """Runs modules with their arguments at the same time, and looks at them all the while.

    Raises:
      UserError: one of them has ended before the time was over.
    """
    looks: dict[str, list[tuple[float, ...]]] = {name: [] for name in commands}
    with contextlib.ExitStack() as stack:
        processes = {
            name: stack.enter_context(_process(command, logs / f"{name}.log"))
            for name, command in commands.items()
        }
        start = time.monotonic()
        while (now := time.monotonic() - start) < seconds:
            for name, process in processes.items():
                held = None if process.poll() is not None else look(process.pid)
                if held is None:
                    log = (logs / f"{name}.log").read_text()
                    raise children.failure(commands[name][0], log, process.wait())
                looks[name].append((now / 60, *held))
            time.sleep(every)
    return {name: np.array(seen) for name, seen in looks.items()}


@contextlib.contextmanager
def _process(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen]:
    """Starts a module, and ends it as a scheduler does."""
    with open(log, "w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], stdout=subprocess.DEVNULL, stderr=errors
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def growth_per_hour(seen: Float[np.ndarray, "looks 4"]) -> tuple[int, Float[np.ndarray, "3"]]:
    """Returns the number of looks after the warm-up, and the slopes of the lines through them."""
    after = seen[seen[:, 0] >= _WARM_UP * seen[-1, 0]]
    return len(after), np.polyfit(after[:, 0] / 60, after[:, 1:], 1)[0]


def make_figures(looks: Looks) -> dict[str, Any]:
    """Returns what the processes held, and how fast it grew."""
    minutes = max(seen[-1, 0] for seen in looks.values())
    source = "FER-2013" if os.environ.get("FER2013_SOURCE") else "the sample"
    about = (
        f"{minutes:.0f} minutes on {source}. The growth an hour is the slope of the line through "
        f"the looks after the first {_WARM_UP * minutes:.0f} minutes."
    )
    rows = []
    for name, seen in looks.items():
        n, slopes = growth_per_hour(seen)
        after = seen[-n:]
        for k, panel in enumerate(_PANELS, start=1):
            rows.append([name, panel, n, table.spread(after[:, k].tolist()), slopes[k - 1]])
    return table.figures("A long run", about, table.make(_COLUMNS, rows))


def plot(looks: Looks):
    """Draws what the processes hold over time, one panel below the other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6), dpi=150, layout="constrained")
    styles = (("#0072B2", "-"), ("#D55E00", "--"))
    panels = figure.subplots(len(_PANELS), 1, sharex=True)
    for k, (axes, panel) in enumerate(zip(panels, _PANELS, strict=True), start=1):
        for (name, seen), (colour, style) in zip(looks.items(), styles, strict=False):
            axes.plot(seen[:, 0], seen[:, k], style, color=colour, linewidth=1.2, label=name)
        end = max(seen[-1, 0] for seen in looks.values())
        axes.axvspan(0, _WARM_UP * end, color="#DDDDDD", alpha=0.5, linewidth=0)
        axes.set_ylabel(panel)
        axes.set_ylim(bottom=0)
        axes.margins(x=0)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, loc="lower right")
    panels[-1].set_xlabel("minutes since the start (grey: warm-up)")
    return figure


if __name__ == "__main__":
    cli.run(main, define_flags)
