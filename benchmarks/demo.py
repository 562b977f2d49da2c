"""Measures the page of `fer_jax demo` while a camera shows one face: frames/s and memory.

Example:
  FER2013_SOURCE=images python -m benchmarks.demo --minutes=10

Server and headless Chromium share the machine. The camera shows a moving face: one of FER-2013 if
FER2013_SOURCE is set, otherwise the photograph that matplotlib ships. That one is in the public
domain, so `--picture=docs/pictures/demo.png` may show it. Linux only.
"""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from matplotlib import get_data_path
from PIL import Image, ImageEnhance

from benchmarks import children, record, table
from benchmarks.processes import look
from fer_jax import cli
from fer_jax.errors import UserError, write_atomically

_ADDRESS = "http://127.0.0.1"
_SIZE = {"width": 1280, "height": 900}
_WARM_UP = 1 / 6  # share of the time
_PACKAGES = ("gradio", "jax", "opencv-python-headless", "playwright")
_COLUMNS = {
    **{"minutes": "", "frames/s": ".1f", "answer, ms": ".0f", "server's CPU, ms a frame": ".0f"},
    **{"server, MiB": ".0f", "page, MiB": ".1f"},
}


class Look(NamedTuple):
    """One reading: totals since the start, and the memory held."""

    minutes: float
    frames: int
    answer_ms: float
    cpu_seconds: float
    server_mib: float
    page_mib: float


def define_flags() -> None:
    """Defines --minutes and the other flags."""
    flags.DEFINE_float("minutes", 10.0, "Length of the measurement.", lower_bound=0.1)
    flags.DEFINE_float("every", 10.0, "Seconds between two looks.", lower_bound=1)
    flags.DEFINE_integer("port", 7870, "Port of the page.")
    cli.define_path("workdir", "Folder of a run; default: the model that ships.")
    record.define_flags()
    flags.DEFINE_string("picture", None, "Screenshot to write, .png.")


def main(arguments: Sequence[str]) -> None:
    """Measures; prints and records the table."""
    cli.refuse_arguments(arguments)
    options = flags.FLAGS
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if chromium is None:
        raise UserError("the measurement needs Chromium: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        video = write_video(Path(folder, "camera.mjpeg"))
        with _server(options.port, options.workdir, Path(folder, "log")) as server:
            looks = watch(
                f"{_ADDRESS}:{options.port}",
                chromium,
                video,
                server.pid,
                seconds=60 * options.minutes,
                every=options.every,
                picture=options.picture,
            )
    found = record.keep(
        "demo",
        make_figures(looks),
        command=table.command("demo"),
        versions={name: version(name) for name in _PACKAGES},
    )
    print(table.page(found))


def write_video(path: Path) -> Path:
    """Writes the view of a camera: JPEGs of 640x480 pixels with one face, one after the other."""
    source = os.environ.get("FER2013_SOURCE")
    faces = sorted(Path(source).rglob("happy/*.[jp][pn]g")) if source else []
    # The photograph fills the view, and a face of FER-2013 moves about in it.
    width, top, most, turn = (320, 90, 120, 8) if faces else (760, -70, 30, 3)
    with Image.open([*faces, Path(get_data_path(), "sample_data/grace_hopper.jpg")][0]) as image:
        face = image.convert("RGB").resize((width, width * image.height // image.width))
    with path.open("wb") as file:
        for angle in np.linspace(0, 2 * np.pi, 480, endpoint=False):
            light = ImageEnhance.Contrast(face).enhance(1 + 0.5 * np.sin(3 * angle))
            turned = light.rotate(turn * np.sin(5 * angle), Image.Resampling.BICUBIC)
            left, down = most * np.cos(angle), most / 3 * np.sin(2 * angle)
            view = Image.new("RGB", (640, 480), (90, 110, 130))
            view.paste(turned, (round((640 - width) / 2 + left), round(top + down)))
            view.save(file, "JPEG", quality=90)
    return path


@contextlib.contextmanager
def _server(port: int, workdir: Path | None, log: Path) -> Iterator[subprocess.Popen]:
    """Starts the server, and ends it when it is measured."""
    run = [f"--workdir={workdir}"] if workdir else []
    command = [sys.executable, "-m", "fer_jax.demo", f"--port={port}", *run]
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as server,
    ):
        assert server.stdout
        if not any("page at" in line for line in server.stdout):
            raise children.failure("fer_jax.demo", log.read_text(), server.wait())
        yield server
        server.send_signal(signal.SIGTERM)


def watch(
    url: str,
    chromium: str,
    video: Path,
    pid: int,
    *,
    seconds: float,
    every: float,
    picture: str | None,
) -> list[Look]:
    """Opens the page, starts the camera, and looks at page and server all the while."""
    from playwright.sync_api import sync_playwright

    arguments = [
        *("--no-sandbox", "--disable-gpu", "--enable-precise-memory-info"),
        *("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"),
        f"--use-file-for-fake-video-capture={video}",
    ]
    looks = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        page = browser.new_page(viewport=_SIZE, permissions=["camera"])
        page.goto(url)
        page.click("#camera")
        page.wait_for_selector("#bars .first")
        start = time.monotonic()
        while (now := time.monotonic() - start) <= seconds + every / 2:
            frames = int(page.evaluate("document.body.dataset.frames ?? 0"))
            words = page.inner_text("#status").split()
            held = look(pid)
            if held is None or words[1:2] != ["frames/s,"]:
                raise UserError(f"the page stopped: {' '.join(words)}")
            heap = page.evaluate("performance.memory.usedJSHeapSize") / 2**20
            ticks = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
            cpu = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
            looks.append(Look(now / 60, frames, float(words[-2]), cpu, held.resident_mib, heap))
            page.wait_for_timeout(1000 * every)
        if picture:
            write_atomically(picture, page.screenshot(full_page=True))
        browser.close()
    return looks


def make_figures(looks: Sequence[Look]) -> dict[str, Any]:
    """Returns frames, times and memory in up to five spans of the measurement."""
    total = looks[-1].minutes
    after = [one for one in looks if one.minutes >= _WARM_UP * total]
    hours, held = zip(*((one.minutes / 60, one.server_mib) for one in after), strict=True)
    slope = np.polyfit(hours, held, 1)[0]
    spans = list(itertools.pairwise(looks))
    rates = [(b.frames - a.frames) / (60 * (b.minutes - a.minutes)) for a, b in spans]
    rows = []
    groups = np.array_split(np.arange(1, len(looks)), min(5, len(spans)))
    for first, last in ((looks[group[0] - 1], looks[group[-1]]) for group in groups):
        frames = last.frames - first.frames
        rows.append(
            [
                f"{first.minutes:.1f} to {last.minutes:.1f}",
                frames / (60 * (last.minutes - first.minutes)),
                last.answer_ms,
                1000 * (last.cpu_seconds - first.cpu_seconds) / max(1, frames),
                last.server_mib,
                last.page_mib,
            ]
        )
    about = (
        f"One viewer, one face, a camera of 640x480 pixels, {total:.0f} minutes; server and "
        f"browser share the machine. In {len(rates)} spans of {60 * total / len(rates):.0f} "
        f"seconds the page shows a median of {np.median(rates):.1f} frames/s, at least "
        f"{min(rates):.1f}. After the first {_WARM_UP * total:.1f} minutes the server's memory "
        f"grows by {slope:+.1f} MiB an hour (line through {len(after)} looks)."
    )
    return table.figures("The demo's page", about, table.make(_COLUMNS, rows))


if __name__ == "__main__":
    cli.run(main, define_flags)
