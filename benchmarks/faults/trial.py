"""Starts a run, kills it at random moments, and starts it again until it ends."""

import contextlib
import dataclasses
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks import children
from benchmarks.faults import phases
from benchmarks.faults.results import difference
from fer_jax.errors import UserError
from fer_jax.workdir import METRICS

_TINY = (
    *("epochs=8", "steps_per_epoch=50", "batch_size=16", "eval_batch_size=64"),
    'model.layers=(("conv",8),"batch_norm","max_pool",("conv",16),"max_pool","max_pool",'
    '("dropout",0.2),"flatten",("dense",16))',
)

KINDS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "every-n-steps": ("checkpoint_every_steps=7",),
    "device-input": ("input=device",),
    "ensemble": ("ensemble=2",),
    "ema-plateau-mixup": (
        *("ema_decay=0.9", "schedule=plateau", "plateau.patience=1", "plateau.min_delta=0.1"),
        "mixup=0.2",
    ),
    "early-stopping-streaming": (
        *("early_stopping_patience=2", "learning_rate=0.01", "epochs=30", "memory_gib=0.0"),
    ),
    "two-processes": (),
}
"""Knobs of each kind of run, beside those of a tiny network."""

_SIGTERMS = 0.25  # share of the faults
_PATIENCE = 60.0  # seconds from a signal until all processes must have ended
_LIMIT = 600.0  # seconds for a whole run


@dataclasses.dataclass(frozen=True)
class Reference:
    """An unbroken run.

    Attributes:
      workdir: folder of the run.
      epochs: number of its epochs.
      start: seconds from the start to the first step.
      loop: seconds from there to the last epoch.
      end: seconds from there to the end.
    """

    workdir: Path
    epochs: int
    start: float
    loop: float
    end: float


@dataclasses.dataclass(frozen=True)
class Fault:
    """A signal that a run was given.

    Attributes:
      signal: "SIGKILL" or "SIGTERM".
      phase: what the run was doing.
      seconds: how long it took to end.
      status: exit status of the first process.
    """

    signal: str
    phase: str
    seconds: float
    status: int


@dataclasses.dataclass(frozen=True)
class Trial:
    """A run that was given faults; `problem` says what differs from the unbroken run, if any."""

    kind: str
    faults: Sequence[Fault]
    problem: str


class Trials:
    """Runs of all kinds on one data set; a context manager that leaves no process behind."""

    def __init__(self, folder: Path):
        """Prepares the data in `folder`, which also takes the runs."""
        self._folder = folder
        self._stacks = folder / "stacks"
        self._data = folder / "data"
        self._running: set[subprocess.Popen] = set()
        self._closed = threading.Event()
        folder.mkdir(parents=True, exist_ok=True)
        self._environment = {
            **os.environ,
            **phases.environment(self._stacks),
            "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
            "PYTHONUNBUFFERED": "1",
        }
        arguments = ["--source=sample", f"--data_dir={self._data}"]
        command = [sys.executable, "-m", "data_prep", *arguments]
        prepared = subprocess.run(command, capture_output=True, text=True)
        if prepared.returncode:
            raise children.failure("data_prep", prepared.stderr, prepared.returncode)

    def __enter__(self) -> "Trials":
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        for process in list(self._running):
            process.kill()

    def reference(self, kind: str) -> Reference:
        """Runs a kind without a fault.

        Raises:
          UserError: the run fails.
        """
        workdir = self._folder / f"{kind}-unbroken"
        began = time.time()
        with self._start(kind, workdir) as processes:
            _wait_for(processes, lambda: _trains(workdir))
            first_step = time.time()
            problem = self._finish(processes, workdir)
        if problem:
            raise UserError(f"{kind}, without a fault: {problem}")
        last_epoch = min(path.stat().st_mtime for path in workdir.glob(f"**/{METRICS}"))
        start, loop, end = np.diff([began, first_step, last_epoch, time.time()])
        return Reference(workdir, _epochs(workdir), start, loop, end)

    def run(self, kind: str, reference: Reference, *, seed: tuple[int, int], most: int) -> Trial:
        """Gives a run one to three faults, at most `most`, and compares it when it has ended."""
        random = np.random.default_rng(seed)
        workdir = self._folder / f"{kind}-{seed[1]}"
        faults, problem, done = [], "", False
        for _ in range(min(most, random.integers(1, 4))):
            with self._start(kind, workdir) as processes:
                if done := self._moment(processes, workdir, reference, random):
                    problem = self._finish(processes, workdir)
                    break
                faults.append(self._fault(processes, workdir, reference.epochs, random))
        if not done:
            with self._start(kind, workdir) as processes:
                problem = self._finish(processes, workdir)
        problem = problem or difference(reference.workdir, workdir)
        if not problem:
            shutil.rmtree(workdir)
        return Trial(kind, faults, problem)

    @contextlib.contextmanager
    def _start(self, kind: str, workdir: Path) -> Iterator[list[subprocess.Popen]]:
        """Starts the command, as one process or two; kills what is left at the end."""
        command = [sys.executable, "-m", "fer_jax.main", "--config=cnn", f"--workdir={workdir}"]
        command += [f"--config.data_dir={self._data}"]
        command += [f"--config.{knob}" for knob in (*_TINY, *KINDS[kind])]
        environment, each = self._environment, [[]]
        if kind == "two-processes":
            with socket.create_server(("localhost", 0)) as server:
                address = f"localhost:{server.getsockname()[1]}"
            command += [f"--coordinator_address={address}", "--num_processes=2"]
            environment = {**environment, "JAX_NUM_CPU_DEVICES": "1"}
            each = [["--process_id=0"], ["--process_id=1"]]
        with contextlib.ExitStack() as stack:
            processes = []
            for k, more in enumerate(each):
                if self._closed.is_set():
                    raise UserError("ended before all trials were done")
                log = stack.enter_context(open(_log(workdir, k), "w"))
                process = subprocess.Popen(
                    [*command, *more], env=environment, stdout=log, stderr=subprocess.STDOUT
                )
                processes.append(process)
                self._running.add(process)
            try:
                yield processes
            finally:
                for process in processes:
                    process.kill()
                    process.wait()
                    self._running.discard(process)

    def _moment(
        self,
        processes: Sequence[subprocess.Popen],
        workdir: Path,
        reference: Reference,
        random: np.random.Generator,
    ) -> bool:
        """Waits for the moment of a fault; returns whether the run has ended before.

        Half of the moments are in the loop over the epochs, a quarter before, a quarter after.
        """
        where = random.choice(["start", "loop", "loop", "end"])
        if where == "loop":
            _wait_for(processes, lambda: _trains(workdir))
        elif where == "end":
            _wait_for(processes, lambda: _epochs(workdir) == reference.epochs)
        until = time.monotonic() + random.uniform(0, getattr(reference, where))
        return all(_wait(process, until=until) for process in processes)

    def _fault(
        self,
        processes: Sequence[subprocess.Popen],
        workdir: Path,
        epochs: int,
        random: np.random.Generator,
    ) -> Fault:
        name = "SIGTERM" if random.random() < _SIGTERMS else "SIGKILL"
        phase = phases.phase_of(
            processes[0],
            workdir,
            self._stacks,
            training=_trains(workdir),
            trained=_epochs(workdir) == epochs,
        )
        start = time.monotonic()
        # One of several processes gets the signal, and all end. Before they train all get it,
        # because each waits for the others until they have met.
        victim = random.integers(len(processes))
        for process in processes[victim : victim + 1] if _trains(workdir) else processes:
            process.terminate() if name == "SIGTERM" else process.kill()
        ended = [_wait(process, until=start + _PATIENCE) for process in processes]
        seconds = time.monotonic() - start
        for process in processes:
            process.kill()
            process.wait()
        if not all(ended):
            raise UserError(
                f"{name} in {phase}: not all processes ended in {_PATIENCE:.0f} seconds"
            )
        return Fault(name, phase, seconds, processes[0].returncode)

    def _finish(self, processes: Sequence[subprocess.Popen], workdir: Path) -> str:
        """Waits for the end of a run; returns what went wrong, if anything."""
        until = time.monotonic() + _LIMIT
        for k, process in enumerate(processes):
            if not _wait(process, until=until):
                return f"not done after {_LIMIT:.0f} s"
            if process.returncode:
                lines = _log(workdir, k).read_text().strip().splitlines() or [""]
                return f"exit status {process.returncode}: {lines[-1]}"
        return ""


def describe(trial: Trial) -> str:
    """Returns a trial in words, such as "SIGKILL in saving; equal"."""
    faults = [f"{fault.signal} in {fault.phase}" for fault in trial.faults]
    return f"{', '.join(faults) or 'no fault'}; {trial.problem or 'equal'}"


def _trains(workdir: Path) -> bool:
    """Returns whether the loop over the epochs has begun since the last start."""
    return "images to train on" in _log(workdir).read_text()


def _epochs(workdir: Path) -> int:
    """Returns how many epochs of a run, or of an ensemble's first member, are in its history."""
    path = next((path for path in workdir.glob(f"**/{METRICS}")), None)
    return len(path.read_text().splitlines()) if path else 0


def _log(workdir: Path, process: int = 0) -> Path:
    return Path(f"{workdir}.{process}.log")


def _wait_for(processes: Sequence[subprocess.Popen], reached: Callable[[], bool]) -> None:
    """Waits until a run has reached a point, or a process has ended."""
    while not reached() and all(process.poll() is None for process in processes):
        time.sleep(0.02)


def _wait(process: subprocess.Popen, *, until: float) -> bool:
    """Waits for a process until a time of the monotonic clock; returns whether it has ended."""
    try:
        process.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        return False
    return True
