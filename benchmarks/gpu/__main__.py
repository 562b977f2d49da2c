"""Measures what needs a GPU within some minutes, most wanted first, and stops in time.

Example:
  python -m benchmarks.gpu --minutes=9 --output=gpu --data_dir=data/fer2013 --torch_python=python3
  python -m benchmarks.gpu --minutes=9 --output=gpu --data_dir=data/fer2013 --list
  python -m benchmarks.gpu --minutes=9 --output=toy --toy

`plan.py` has the jobs. A job whose file is in benchmarks/results/ or in the output for this
hardware is left out, unless the file was copied from a page. A job starts if it is likely to fit;
the first training that is not gets the rest of the time. When the time is over, a training saves,
and the next call goes on. The output has:

  results/   files for benchmarks/results/
  weights/   float16 weights in pieces of at most 15 MB, see `pieces.py`
  runs/      the runs themselves, unless --runs names another folder

Nothing is fetched from a network. With --toy everything is tiny, for a rehearsal on a CPU.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags

from benchmarks import children, record
from benchmarks.gpu import jobs, pieces, plan
from benchmarks.gpu.budget import Budget
from benchmarks.gpu.jobs import Command, Place
from benchmarks.gpu.plan import Job
from fer_jax import cli
from fer_jax.config import suggest
from fer_jax.errors import UserError
from fer_jax.workdir import CONFIG, WEIGHTS

_RESERVE = 20.0  # Seconds at the end, to save and to split weights.
_WORTH_STARTING = 60.0  # Less is mostly imports and compilation.
_MOST_PIECES = 8

_HARDWARE = "import json; from benchmarks import record; print(json.dumps(record.machine()))"


def define_flags() -> None:
    """Defines the flags."""
    flags.DEFINE_float("minutes", None, "Time for everything.", lower_bound=0, required=True)
    cli.define_path("output", "Folder to write to, or to go on in.", required=True)
    cli.define_path("runs", "Folder of the runs; default: runs/ in the output.")
    flags.DEFINE_string("data_dir", "", "Folder of the records; default: as in training.")
    flags.DEFINE_string("torch_python", "", "Interpreter that has PyTorch.")
    flags.DEFINE_list("only", [job.name for job in plan.JOBS], "Jobs to do.")
    flags.DEFINE_bool("toy", False, "Do everything at a tiny size.")
    flags.DEFINE_bool("list", False, "Print what would be done, and end.")


def main(arguments: Sequence[str]) -> None:
    """Does the jobs, and prints what each came to."""
    cli.refuse_arguments(arguments)
    options = flags.FLAGS
    budget = Budget(60 * options.minutes - (0 if options.toy else _RESERVE))
    names = {job.name: job for job in plan.JOBS}
    if unknown := [name for name in options.only if name not in names]:
        raise UserError(f"there is no job {unknown[0]!r}{suggest(unknown[0], names)}")
    wanted = [names[name] for name in names if name in options.only]
    if options.toy:
        wanted = [plan.toy(job) for job in wanted]
    children.stop_on_sigterm()
    output = Path(options.output)
    place = Place(
        output=output,
        runs=Path(options.runs or output / "runs"),
        known=(output / "results", *(() if options.toy else (record.RESULTS,))),
        data_dir=options.data_dir,
        torch_python=options.torch_python,
        hardware=_hardware(),
    )
    do(wanted, place, budget, dry=options.list)


def do(wanted: Sequence[Job], place: Place, budget: Budget, *, dry: bool = False) -> None:
    """Does the jobs that are not done, as far as they fit, and keeps weights."""
    _join_weights(place)
    left = [job for job in wanted if not _is_done(job, wanted, place)]
    for job in wanted:
        if job not in left:
            print(f"{job.name}: done before", flush=True)
    if dry:
        for job in left:
            print(f"{job.name}: about {job.seconds:.0f} s")
        return
    for job, whole in _order(left, place, budget):
        before, problem = budget.left, ""
        try:
            for command in jobs.commands(job, place):
                if budget.left <= 0:
                    raise UserError("stopped, for the time is over")
                launch(command, budget.left)
        except UserError as error:
            problem = str(error)
        taken = before - budget.left
        print(f"{job.name}: {problem or 'done'} after {taken:.0f} s", flush=True)
        if not problem and whole:
            budget.finished(job, taken)
        if job.keep and not problem:
            _keep_weights(job, place)


def _hardware() -> str:
    """Returns the name of the hardware, from a process of its own, which frees it again."""
    found = subprocess.run([sys.executable, "-c", _HARDWARE], capture_output=True, text=True)
    if found.returncode:
        raise children.failure("jax", found.stderr, found.returncode)
    return record.slug(json.loads(found.stdout.splitlines()[-1]))


def launch(command: Command, seconds: float) -> None:
    """Runs a command in a process of its own, and ends it by SIGTERM after some seconds.

    Raises:
      UserError: it failed, or it was stopped.
    """
    with subprocess.Popen(jobs.program(command), stderr=subprocess.STDOUT) as process:
        try:
            status = process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            process.terminate()  # Training saves before it ends.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(2 * _RESERVE)
            process.kill()
            raise UserError("stopped, for the time is over") from None
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
    if status:
        raise UserError(f"{command[0]} ended with status {status}")


def _order(left: list[Job], place: Place, budget: Budget) -> Iterator[tuple[Job, bool]]:
    """Yields the next job that fits, and whether it starts from its beginning; then one in part."""
    waiting = list(left)
    while ready := [job for job in waiting if _is_ready(job, place)]:
        fitting = [job for job in ready if budget.fits(job)]
        if not fitting and budget.left < _WORTH_STARTING:
            return
        # Only a training can go on another time.
        job = next((job for job in fitting or ready if fitting or job.kind == "accuracy"), None)
        if job is None:
            return
        waiting.remove(job)
        yield job, not (place.runs / job.name).exists()


def _is_ready(job: Job, place: Place) -> bool:
    return not job.needs or jobs.is_finished(place.runs / job.needs)


def _is_done(job: Job, wanted: Sequence[Job], place: Place) -> bool:
    """Whether a job's measurement is there, and its run too if another job reads it."""
    files = [folder / jobs.file_name(job, place.hardware) for folder in place.known]
    found = [record.read_file(path) for path in files if path.exists()]
    recorded = any("transcribed" not in each for each in found)
    readers = [each for each in wanted if each.needs == job.name]
    read = all(_is_done(each, wanted, place) for each in readers)
    return recorded and (read or jobs.is_finished(place.runs / job.name))


def _keep_weights(job: Job, place: Place) -> None:
    """Splits a run's weights, the student's first: they replace others if there is no room."""
    folder = place.output / "weights"
    command = ("benchmarks.gpu.pieces", f"--split={place.runs / job.name}")
    try:
        launch((*command, f"--folder={folder / job.name}"), 2 * _RESERVE)
    except UserError as error:
        print(f"{job.name}: its weights are not kept: {error}", flush=True)
    # The plan has the student, which is wanted most, after its teachers.
    for other in sorted(folder.glob("*/"), key=lambda path: path.name == job.name):
        if len(list(folder.glob(f"*/{WEIGHTS}.*"))) > _MOST_PIECES:
            print(f"{other.name}: no room for its weights", flush=True)
            for path in other.iterdir():
                path.unlink()
            other.rmdir()


def _join_weights(place: Place) -> None:
    """Makes runs that only came back in pieces model folders, from which others can learn."""
    for folder in sorted((place.output / "weights").glob("*/")):
        if (folder / CONFIG).exists() and not (place.runs / folder.name).exists():
            pieces.join(folder, place.runs / folder.name)


if __name__ == "__main__":
    cli.run(main, define_flags)
