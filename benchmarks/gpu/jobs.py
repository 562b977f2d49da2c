"""The commands of each kind of job, and the file of the record that shows that it is done."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks.gpu.plan import Job
from fer_jax.workdir import PAGE, WEIGHTS


class Place(NamedTuple):
    """Where jobs read and write.

    Attributes:
      output: folder with results/ and weights/.
      runs: folder of the runs.
      known: folders of the record that show what is done.
      data_dir: folder of the records; "" for the default.
      torch_python: interpreter that has PyTorch; "" for none.
      hardware: end of the names of this hardware's measurements, see `record.slug`.
    """

    output: Path
    runs: Path
    known: tuple[Path, ...]
    data_dir: str
    torch_python: str
    hardware: str

    @property
    def results(self) -> Path:
        """Folder of the new files of the record."""
        return self.output / "results"


Command = tuple[str, ...]
"""A module and its flags."""


def commands(job: Job, place: Place) -> list[Command]:
    """Returns the commands that do a job, one after the other."""
    return _COMMANDS[job.kind](job, place)


def _accuracy(job: Job, place: Place) -> list[Command]:
    run = f"--workdir={place.runs / job.name}"
    train: Command = ("fer_jax.main", f"--config={job.config}", run)
    train += (*_told(job, place), *_data(place, "config."))
    views = (f"--views={','.join(job.views)}",) if job.views else ()
    keep: Command = ("benchmarks.accuracy.run", f"--config={job.config}", run)
    keep += (f"--results={place.results}", *views, *_data(place))
    # A finished run is not opened again.
    return [keep] if is_finished(place.runs / job.name) else [train, keep]


def _time_to_accuracy(job: Job, place: Place) -> list[Command]:
    config = (f"--config={job.config}", *_told(job, place), *_data(place, "config."))
    return [("benchmarks.time_to_accuracy", *config, f"--results={place.results}")]


def _speed(job: Job, place: Place) -> list[Command]:
    configs = (f"--configs={job.config}",) if job.config else ()
    peer = (f"--torch_python={place.torch_python}",) if place.torch_python else ()
    flags = (*configs, *peer, *job.flags, f"--results={place.results}")
    return [("benchmarks.speed", *flags)]


_COMMANDS: Mapping[str, Callable[[Job, Place], list[Command]]] = {
    "accuracy": _accuracy,
    "time_to_accuracy": _time_to_accuracy,
    "speed": _speed,
}


def file_name(job: Job, hardware: str) -> str:
    """Returns the file of a job's measurement below the folder of the record."""
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in job.flags if "=" in flag)
    parts = [job.config.rpartition("/")[2]]
    if job.kind == "time_to_accuracy":
        parts = [f"{parts[0]}_{100 * float(flags['target']):g}"]
    if job.kind == "speed":
        parts = [flags["name"]] if "name" in flags else []
    return f"{job.kind}/{'-'.join([*parts, hardware])}.json"


def is_finished(run: Path) -> bool:
    """Returns whether a run has ended, or its weights are here as a model folder."""
    return (run / PAGE).exists() or (run / WEIGHTS).exists()


def program(command: Command) -> list[str]:
    """Returns the command line of a command."""
    module, *flags = command
    return [sys.executable, "-u", "-m", module, *flags]


def _told(job: Job, place: Place) -> list[str]:
    return [flag.replace("{runs}", str(place.runs)) for flag in job.flags]


def _data(place: Place, prefix: str = "") -> list[str]:
    return [f"--{prefix}data_dir={place.data_dir}"] if place.data_dir else []
