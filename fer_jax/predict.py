"""Predicts expressions in pictures, videos or a camera's view.

Each picture counts as one face; with --detect_faces every face in it is found first.

Example:
  python -m fer_jax.predict --workdir=runs/small_cnn holiday/ --detect_faces --output=labelled

Without --workdir the model that ships with the package predicts. The arguments are files, folders
(searched recursively), patterns such as 'shots/**/*.png', videos, or camera:0, which Ctrl-C stops.
The command prints a line for each face. It writes only what --output asks for: an annotated copy of
each picture; and of each video an annotated copy, a table and a timeline of its faces.

Exit status: 0 if every picture was read, with or without faces; 1 if a picture or a part of a video
could not be read, and its line says why; 2 for a mistake in the command.
"""

import io
import itertools
import math
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags
from tqdm import tqdm

from fer_jax import cli, stopping
from fer_jax.downloads import fetch
from fer_jax.errors import UserError, warn, write_atomically
from fer_jax.paths import check_folder, check_path, printable

if TYPE_CHECKING:
    from PIL.Image import Image


def define_flags() -> None:
    """Defines --workdir and the other flags."""
    cli.define_path("workdir", "Folder of a run; default: the model that ships.", remote=True)
    flags.DEFINE_string("checkpoint", "best", "best, latest or a step.")
    flags.DEFINE_bool("detect_faces", False, "Find every face, and predict each.")
    flags.DEFINE_string("detector", None, "What finds the faces; implies --detect_faces.")
    flags.DEFINE_string("detector_file", None, "Path or URL of the file that yunet needs.")
    flags.DEFINE_string("detector_sha256", "", "Digest of that file; a URL needs it.")
    flags.DEFINE_float("min_confidence", 0, "Below this probability a label is unsure; in [0, 1).")
    flags.DEFINE_bool(
        "explain",
        False,
        "Draw Grad-CAM heat maps of the regions behind each label; needs --output.",
    )
    cli.define_path("output", "Folder for copies with boxes, labels, heat maps.")
    flags.DEFINE_integer("every", 1, "Take every so many frames of a video.")
    flags.DEFINE_float(
        "smooth_seconds", 1, "Seconds of a video over which probabilities are averaged."
    )
    flags.DEFINE_bool("window", False, "Show each frame of a video or camera in a window.")
    flags.DEFINE_enum("format", "table", ["table", "jsonl", "csv"], "Format of the output.")


def main(arguments: Sequence[str]) -> None:
    """Prints a line for each face and writes the annotated copies."""
    options, names = flags.FLAGS, arguments[1:]
    if not names:
        raise UserError("name a picture, a folder, a pattern, a video or camera:0 to predict")
    if options.explain and not options.output:
        raise UserError("--explain draws heat maps; choose where with --output=FOLDER")
    if not 0 <= options.min_confidence < 1:
        raise UserError(f"--min_confidence={options.min_confidence} must be in [0, 1)")
    if options.every < 1:
        raise UserError(f"--every={options.every} must be 1 or more")
    if not 0 <= options.smooth_seconds < math.inf:
        raise UserError(f"--smooth_seconds={options.smooth_seconds} must be 0 or more")
    if options.checkpoint != "best" and not options.workdir:
        raise UserError("--checkpoint chooses one of a run; give its --workdir too")
    for name in names:
        check_path(name)
    output: Path | None = options.output
    if output:
        check_folder("--output", output)

    # Imported here so that a wrong flag is reported at once.
    from fer_jax.inference import detectors
    from fer_jax.inference.sources import find_frames, is_camera

    live = any(map(is_camera, names))
    if live and len(names) > 1:
        raise UserError("a camera's pictures never end; give it alone")
    frames = find_frames(names, output, options.every)
    detector = None
    if options.detect_faces or options.detector or options.detector_file:
        name = options.detector or detectors.DEFAULT
        file = None
        if options.detector_file is not None:
            file = fetch(
                options.detector_file,
                options.detector_sha256,
                option="--detector_file",
                digest_option="--detector_sha256",
            )
        detector = detectors.choose_detector(name, file)
    cli.set_up_jax()

    from fer_jax.inference.annotate import Mark, annotate
    from fer_jax.inference.lines import FORMATS, to_lines
    from fer_jax.inference.predictor import Predictor
    from fer_jax.inference.stream import predict_frames
    from fer_jax.inference.video import Videos, Window

    if options.workdir:
        predictor = Predictor.from_workdir(options.workdir, options.checkpoint)
    else:
        predictor = Predictor.pretrained()
    window = None
    if options.window:
        try:
            window = Window("fer_jax")
        except UserError as error:
            warn(error)
    predictions = predict_frames(
        predictor,
        frames,
        detector=detector,
        min_confidence=options.min_confidence,
        explain=options.explain,
        keep_pictures=output is not None or window is not None,
        at_once=live or window is not None,
    )
    copies = _Copies(output) if output else None
    warnings.filterwarnings("ignore", module="PIL")  # Pillow warns about files that it can read.
    assert isinstance(sys.stdout, io.TextIOWrapper)
    # A file's name can be any bytes; csv has them unchanged.
    sys.stdout.reconfigure(errors="surrogateescape", line_buffering=True)
    print_line = FORMATS[options.format](predictor.classes)
    pictures = unreadable = 0
    hint = not detector
    videos = Videos(
        predictor.classes,
        smooth_seconds=options.smooth_seconds,
        min_confidence=options.min_confidence,
        name_output=copies.free if copies else None,
        window=window,
    )
    with stopping.deferred() as stop, videos:
        for prediction in predictions:
            with tqdm.external_write_mode():  # A bar on the terminal makes way.
                for line in to_lines(prediction, predictor.classes):
                    print_line(line)
            videos.add(prediction)
            if copies and prediction.picture and not prediction.frame.clip:
                marks = [
                    Mark(
                        face.box, f"{face.label} {100 * face.probabilities.max():.0f} %", face.heat
                    )
                    for face in prediction.faces
                ]
                copies.write(prediction.frame.copy, annotate(prediction.picture, marks))
            if hint and is_scene(*prediction.size):
                hint = False
                name, (width, height) = printable(prediction.frame.name), prediction.size
                print(
                    f"hint: {name} has {width}x{height} pixels and counts as one face; "
                    "--detect_faces finds the faces in such pictures",
                    file=sys.stderr,
                )
            pictures += 1
            unreadable += bool(prediction.error)
            if stop.asked or (window and window.closed):
                break
        stop.answered = True
    if stop.asked and not live:
        raise stopping.Stopped(f"stopped after {pictures:,} pictures")
    if unreadable:
        print(f"error: {unreadable:,} of {pictures:,} pictures could not be read", file=sys.stderr)
        sys.exit(1)


def is_scene(width: int, height: int) -> bool:
    """Returns whether a picture is too large or too narrow to be a face alone."""
    return max(width, height) > min(1024, 2 * min(width, height))


class _Copies:
    """Writes annotated copies into a folder; numbers those with the same name."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._written: set[Path] = set()

    def write(self, stem: Path, picture: "Image") -> None:
        """Writes a picture as `stem`.jpg.

        Raises:
          UserError: the file cannot be written.
        """
        path = Path(f"{self.free(stem)}.jpg")
        try:
            jpeg = io.BytesIO()
            picture.save(jpeg, "JPEG", quality=95, subsampling=0)
            write_atomically(path, jpeg.getvalue())
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"--output: cannot write {printable(str(path))}: {reason}") from error

    def free(self, stem: Path) -> Path:
        """Returns a path in the folder, without suffix, that no other copy has."""
        stem = self._folder / stem
        names = itertools.chain([stem], (Path(f"{stem}-{n}") for n in itertools.count(2)))
        path = next(name for name in names if name not in self._written)
        self._written.add(path)
        return path


if __name__ == "__main__":
    cli.run(main, define_flags)
