"""Predicts the expression in pictures, videos or a camera's view with a trained model.

Each picture is taken for one face, unless --detect_faces finds the faces in it.

Example:
  python -m fer_jax.predict --workdir=runs/small_cnn holiday/ --detect_faces --output=labelled

After the flags, or between them: files, folders (searched to the bottom), patterns such as
'shots/**/*.png', videos, or camera:0, which Ctrl-C ends. It needs a workdir of fer_jax.main; it
prints a line for each face, and leaves nothing on disk but the copies in --output.

Exit status: 0 when every picture was read, faces in it or not; 1 when one was not, whose line says
why; 2 for a mistake in the command.
"""

import io
import itertools
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from fer_jax import cli
from fer_jax.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image


def define_flags() -> None:
    """Defines --workdir and the others."""
    flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
    flags.DEFINE_string("checkpoint", "best", "best, latest or a step.")
    flags.DEFINE_bool("detect_faces", False, "Find every face, and predict each.")
    flags.DEFINE_bool(
        "explain", False, "Show by Grad-CAM what a face's label rests on; needs --output."
    )
    flags.DEFINE_string("output", None, "Folder for copies with boxes, labels, heat maps.")
    flags.DEFINE_enum("format", "table", ["table", "jsonl", "csv"], "Format of what is printed.")


def main(arguments: Sequence[str]) -> None:
    """Prints a line for each face, and writes the copies."""
    options, names = flags.FLAGS, arguments[1:]
    if not names:
        raise UserError("name a picture, a folder, a pattern, a video or camera:0 to predict")
    if options.explain and not options.output:
        raise UserError("--explain draws heat maps; say where to with --output=FOLDER")
    output = Path(options.output) if options.output else None

    # Imported here: a wrong flag is reported at once.
    from fer_jax.inference.sources import find_frames, is_camera

    live = any(map(is_camera, names))
    if live and len(names) > 1:
        raise UserError("a camera's pictures do not end; give it alone")
    frames = find_frames(names, output)
    cli.set_up_jax()

    from fer_jax.inference.annotate import Mark, annotate
    from fer_jax.inference.lines import FORMATS, to_lines
    from fer_jax.inference.predictor import Predictor
    from fer_jax.inference.stream import predict_frames

    predictor = Predictor.from_workdir(options.workdir, options.checkpoint)
    results = predict_frames(
        predictor,
        frames,
        detect_faces=options.detect_faces,
        explain=options.explain,
        keep_pictures=output is not None,
        at_once=live,
    )
    copies = _Copies(output) if output else None
    warnings.filterwarnings("ignore", module="PIL")  # It warns of what it reads all the same.
    assert isinstance(sys.stdout, io.TextIOWrapper)
    # A file's name need not be text: its bytes are printed as they are.
    sys.stdout.reconfigure(errors="surrogateescape", line_buffering=True)
    print_line = FORMATS[options.format](predictor.classes)
    pictures = unreadable = 0
    for result in results:
        for line in to_lines(result, predictor.classes):
            print_line(line)
        if copies and result.picture:
            marks = [
                Mark(face.box, f"{face.label} {100 * face.probabilities.max():.0f} %", face.heat)
                for face in result.faces
            ]
            copies.write(result.frame.copy, annotate(result.picture, marks))
        pictures += 1
        unreadable += bool(result.error)
    if unreadable:
        print(f"error: {unreadable:,} of {pictures:,} pictures could not be read", file=sys.stderr)
        sys.exit(1)


class _Copies:
    """Writes annotated copies below a folder, two of one name beside each other."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._written: set[Path] = set()

    def write(self, stem: Path, picture: "Image") -> None:
        """Writes a picture as `stem`.jpg; `UserError` where it cannot."""
        path = self._free(self._folder / stem)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path, quality=95, subsampling=0)
        except OSError as error:
            raise UserError(f"--output: cannot write {path}: {error.strerror or error}") from error

    def _free(self, stem: Path) -> Path:
        names = itertools.chain([stem], (Path(f"{stem}-{n}") for n in itertools.count(2)))
        path = next(name for name in names if name not in self._written)
        self._written.add(path)
        return Path(f"{path}.jpg")


if __name__ == "__main__":
    cli.run(main, define_flags)
