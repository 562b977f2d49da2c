"""Exports a trained model for programs without fer_jax: to ONNX, StableHLO or safetensors.

Example:
  python -m fer_jax.export --workdir=runs/small_cnn --format=onnx --output=faces.onnx

Without --workdir it exports the model that ships with the package. An ONNX or StableHLO file maps
levels of grey or of red, green and blue, uint8[batch, size, size, channels], to probabilities,
float32[batch, classes], for any batch size. Preprocessing, views, temperature and the mean over an
ensemble's members are inside; the classes' names are in the file's metadata. For safetensors
--output is a folder, the layout of model hubs, which fer_jax reads as it reads a workdir.

Each export is run before it counts as written: it must give the predictor's probabilities on images
of the run's validation split or, where the records are gone, on drawn faces. Otherwise no file is
left, and the exit status is 2.
"""

import contextlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from fer_jax import cli
from fer_jax.config import VIEWS
from fer_jax.errors import UserError
from fer_jax.paths import check_folder
from fer_jax.workdir import SHIPPED, WEIGHTS, read_run

if TYPE_CHECKING:
    import numpy as np

    from fer_jax.inference.trained import TrainedModel

FORMATS = ("onnx", "stablehlo", "safetensors")
_IMAGES = 64
"""Images that an export is checked on."""


def export(
    workdir: str | os.PathLike,
    format: str,
    output: str | os.PathLike,
    *,
    checkpoint: str = "best",
    views: str | None = None,
) -> str:
    """Exports the model of a run, or of a model folder.

    Args:
      workdir: folder of the run, or a model folder; a path or a URL.
      format: one of `FORMATS`.
      output: the file; for safetensors, the folder. One that exists is replaced.
      checkpoint: "best", "latest" or a step.
      views: views of each image whose probabilities are averaged; default: the run's.

    Returns:
      A sentence about the check.

    Raises:
      UserError: there is no such run, checkpoint or format; a package is missing; the output cannot
        be written; or what was written does not give the predictor's probabilities.
    """
    output = Path(output)
    _check_output(format, output)

    # Imported here: a wrong flag is reported at once.
    from fer_jax.exporting.check import largest_difference
    from fer_jax.inference.trained import copied_run, load_trained

    with copied_run(workdir, checkpoint) as copy:
        model, run = load_trained(copy.folder, checkpoint, views), read_run(copy.folder)
    images, what = _images(run, model)
    with _partial(output) as partial:
        predict = _write(format, partial, run, model)
        difference = largest_difference(predict, model, images)
        size = sum(file.stat().st_size for file in [partial, *partial.rglob("*")])
        _put(partial, output)
    return (
        f"{output}: {size / 1e6:,.2f} MB; on {what} its probabilities are the predictor's "
        f"to {difference:.0e}"
    )


def _write(
    format: str, path: Path, run: Mapping[str, Any], model: "TrainedModel"
) -> "Callable[[np.ndarray], np.ndarray]":
    """Writes the model, and returns the function from images to probabilities read from there."""
    if format == "onnx":
        from fer_jax.exporting.onnx import export_onnx, run_onnx

        path.write_bytes(export_onnx(model))
        return run_onnx(path)
    if format == "stablehlo":
        from fer_jax.exporting.stablehlo import export_stablehlo, run_stablehlo

        path.write_bytes(export_stablehlo(model))
        return run_stablehlo(path)

    from fer_jax.exporting.folder import export_folder, run_folder

    export_folder(path, run, model)
    return run_folder(path)


def _check_output(format: str, output: Path) -> None:
    """Raises `UserError` before anything is computed if the export cannot end well."""
    if format not in FORMATS:
        raise UserError(f"there is no format {format!r}; choose one of {', '.join(FORMATS)}")
    if format == "onnx":
        for package in ("onnx", "onnxruntime"):
            if importlib.util.find_spec(package) is None:
                raise UserError(f"ONNX needs {package}: pip install 'fer_jax[export]'")
    if not output.parent.is_dir():
        raise UserError(f"--output={output}: there is no folder {output.parent}; make it first")
    check_folder("--output", output if format == "safetensors" else output.parent)
    if format != "safetensors" and output.is_dir():
        raise UserError(f"--output={output} is a folder; name a file")
    if output.is_dir() and any(output.iterdir()) and not (output / WEIGHTS).exists():
        raise UserError(f"--output={output} holds other files; name a new folder")


def _images(run: Mapping[str, Any], model: "TrainedModel") -> "tuple[np.ndarray, str]":
    """Returns images to check the export on, and what they are."""
    import numpy as np

    from fer_jax.data.records import find_run_data, open_data_set

    split = model.config.validation_split
    with contextlib.suppress(UserError):
        records = open_data_set(find_run_data(run), model.classes).load(split)
        chosen = np.unique(np.linspace(0, len(records) - 1, _IMAGES).astype(int))
        return records.read(chosen), f"{len(chosen)} images of {split}"

    from PIL import Image

    from data_prep.sample import render
    from fer_jax.data.contract import CLASS_NAMES
    from fer_jax.inference.pictures import to_input

    generators = [np.random.default_rng(seed) for seed in range(_IMAGES)]
    labels = [seed % len(CLASS_NAMES) for seed in range(_IMAGES)]
    drawn = [to_input(Image.fromarray(face), model.images) for face in render(labels, generators)]
    return np.stack(drawn), f"{_IMAGES} drawn faces"


@contextlib.contextmanager
def _partial(output: Path) -> Iterator[Path]:
    """Gives a place beside the output to write to, and leaves nothing there."""
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name[:50]}.") as folder:
        yield Path(folder) / "partial"


def _put(partial: Path, output: Path) -> None:
    """Moves what was written to its place; of a folder, only the files that the export has."""
    if partial.is_file():
        partial.replace(output)
        return
    output.mkdir(exist_ok=True)
    for file in partial.iterdir():
        shutil.move(file, output / file.name)


def define_flags() -> None:
    """Defines --workdir and the other flags."""
    cli.define_path("workdir", "Folder of a run; default: the model that ships.", remote=True)
    flags.DEFINE_string("checkpoint", "best", "best, latest or a step.")
    flags.DEFINE_enum("format", None, FORMATS, "Format of the export.", required=True)
    cli.define_path("output", "File to write; a folder for safetensors.", required=True)
    flags.DEFINE_enum("views", None, VIEWS, "Views to average over; default: the run's.")


def main(arguments: Sequence[str]) -> None:
    """Exports and prints what was checked."""
    options = flags.FLAGS
    cli.refuse_arguments(arguments)
    _check_output(options.format, options.output)
    cli.set_up_jax()
    print(
        export(
            options.workdir or SHIPPED,
            options.format,
            options.output,
            checkpoint=options.checkpoint,
            views=options.views,
        )
    )


if __name__ == "__main__":
    cli.run(main, define_flags)
