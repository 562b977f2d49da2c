"""Checkpoints of a run, kept by Orbax: the latest to resume from, the best to use.

checkpoints/<step>/
  model/         parameters and statistics, or their moving averages; all that prediction needs
  training/      the rest of the state
  input/         position in the stream of batches
  progress/      history, and seconds of training
  metrics/       numbers of the epoch; empty within an epoch
  digests.json   SHA-256 of every file above, written before the folder gets its name
checkpoints/<step>.damaged/   what was found damaged and set aside
"""

import contextlib
import copy
import hashlib
import itertools
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, override

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import nnx
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN
from orbax.checkpoint.options import MultiprocessingOptions

from fer_jax.errors import UserError, warn, write_atomically
from fer_jax.processes import worker
from fer_jax.training.step import TrainState

SCORES: dict[str, Callable[[Mapping[str, float]], float]] = {
    "val_accuracy": lambda metrics: metrics.get("val_accuracy", -math.inf),
    "val_loss": lambda metrics: -metrics.get("val_loss", math.inf),
    "last": lambda metrics: metrics.get("step", -math.inf),
}
"""Values of `config.best_by`, each with its score of an epoch; higher is better."""

_ITEMS = ("model", "training", "input", "progress", "metrics")
_DIGESTS = "digests.json"
_UNFINISHED = ".orbax-checkpoint-tmp"


class Checkpoints:
    """The checkpoints in a directory, to be read."""

    def __init__(self, directory: Path, *, best_by: str):
        self._directory = directory.resolve()
        self._best_by = best_by

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, in order."""
        return self._steps()

    def _steps(self) -> list[int]:
        if not self._directory.is_dir():
            return []
        return sorted(int(path.name) for path in self._directory.iterdir() if path.name.isdecimal())

    def choose_step(self, which: str) -> int:
        """Returns the step that `which` names: "best", "latest" or a number.

        It reads the metrics only, and nothing else of a checkpoint needs to be there.

        Raises:
          UserError: there is no such checkpoint; the message lists the others.
        """
        steps = self._steps()
        scores = {step: score for step in steps if (score := self._score(step)) is not None}
        if which == "latest" and steps:
            return steps[-1]
        if which == "best" and scores:
            # If several are equally good, the latest, which Orbax keeps.
            return max(scores, key=lambda step: (scores[step], step))
        if which.isdecimal() and int(which) in steps:
            return int(which)
        missing = f"no checkpoint {which!r}"
        if which == "best" and steps:
            missing = "no best checkpoint before the run's first epoch ends"
        raise UserError(
            f"{missing} in {self._directory}: {_list(steps)}; say best, latest or a step"
        )

    def find_step(self, which: str) -> int:
        """Returns the step of the checkpoint that `which` names: "best", "latest" or a number.

        Raises:
          UserError: there is no such checkpoint, or it is damaged; the message lists the others.
        """
        found = self.choose_step(which)
        if damage := self.damage(found, "model", "metrics"):
            others = [step for step in self._steps() if not self.damage(step, "model", "metrics")]
            raise UserError(
                f"checkpoint {found} in {self._directory} is damaged: {damage}; choose an intact "
                f"one: {_list(others)}"
            )
        return found

    def restore_model(
        self, step: int, params: nnx.State, statistics: nnx.State
    ) -> tuple[nnx.State, nnx.State]:
        """Returns the parameters and statistics of the checkpoint at `step`.

        Args:
          step: step of a checkpoint, see `find_step`.
          params: arrays, or abstract arrays, with the shapes, types and placement wanted.
          statistics: the same for the statistics.

        Raises:
          UserError: the checkpoint is damaged, or belongs to another network.
        """
        network = {"params": params, "statistics": statistics}
        restored = _place(self._restore(step, model=network)["model"], network)
        return restored["params"], restored["statistics"]

    def restore(self, step: int, state: TrainState) -> tuple[TrainState, Any, dict[str, Any]]:
        """Restores the checkpoint at `step`.

        Args:
          step: step of a checkpoint.
          state: state with the shapes, types and placement that the restored one takes.

        Returns:
          The state, the input position and the progress, as they were saved.

        Raises:
          UserError: the checkpoint is damaged, or belongs to another network.
        """
        wanted = {"model": state.network, "training": _training_part(state)}
        restored = self._restore(step, **wanted, input=None, progress=None)
        network, training = (_place(restored[item], tree) for item, tree in wanted.items())
        state = state.replace(**(network if state.ema is None else {"ema": network}))
        return state.replace(**training), restored["input"], restored["progress"]

    def damage(self, step: int, *items: str) -> str:
        """Returns what is wrong with a checkpoint's files, or "".

        Args:
          step: step of the checkpoint.
          items: items to look at; default: all.
        """
        folder, items = self._directory / str(step), items or _ITEMS
        try:
            if missing := [item for item in items if not (folder / item).is_dir()]:
                return f"{missing[0]} is missing"
            if "metrics" in items and not isinstance(self._metrics(step), dict):
                return "metrics are not numbers of an epoch"
            try:
                digests = json.loads((folder / _DIGESTS).read_bytes())
            except FileNotFoundError:
                return ""  # Older than digests.
            for name, digest in digests.items():
                item = name.partition("/")[0]
                if item not in _ITEMS:  # A flipped bit there would leave a file unchecked.
                    return f"{_DIGESTS} names {name}, which is no part of a checkpoint"
                if item not in items:
                    continue
                if _sha256(folder / name) != digest:
                    return f"{name} has changed since it was written"
        except FileNotFoundError as error:
            return f"{Path(error.filename).relative_to(folder)} is missing"
        except (OSError, ValueError, AttributeError) as error:
            return str(error)
        return ""

    def _metrics(self, step: int) -> Any:
        return json.loads((self._directory / str(step) / "metrics" / "metrics").read_bytes())

    def _score(self, step: int) -> float | None:
        """Returns the score of a checkpoint; None within an epoch, infinity if it is unknown."""
        if self.damage(step, "metrics"):
            return math.inf
        metrics = self._metrics(step)
        return SCORES[self._best_by](metrics) if metrics else None

    def _restore(self, step: int, **items: Any) -> Mapping[str, Any]:
        """Restores items: NumPy arrays of the shapes and types given, or for None a JSON object."""
        folder = self._directory / str(step)
        if damage := self.damage(step, *items):
            raise UserError(f"{folder} is damaged: {damage}")
        for item, tree in items.items():
            if item == "model" and (difference := _difference(folder / item, tree)):
                raise UserError(
                    f"{folder} holds another network than the run's config.json: {difference}"
                )
        arguments = {
            item: ocp.args.JsonRestore() if tree is None else ocp.args.StandardRestore(_empty(tree))
            for item, tree in items.items()
        }
        try:
            options = ocp.CompositeOptions(multiprocessing_options=_alone())
            with ocp.Checkpointer(
                ocp.CompositeCheckpointHandler(composite_options=options),
                multiprocessing_options=_alone(),
            ) as checkpointer:
                return checkpointer.restore(folder, args=ocp.args.Composite(**arguments))
        except Exception as error:  # TensorStore's have many types. Older runs have no digests.
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            raise UserError(f"{folder} cannot be restored, it may be damaged: {reason}") from error


class CheckpointWriter(Checkpoints):
    """The checkpoints of a run in training, saved asynchronously. `close` waits.

    All processes call its methods. Process 0 alone uses the files, and shares what it reads.
    """

    def __init__(self, directory: Path, *, best_by: str, latest: int = 2):
        """Sets damaged checkpoints aside, and says so; deletes what a killed save left.

        Args:
          directory: folder of the checkpoints.
          best_by: key of `SCORES`.
          latest: number of the latest checkpoints that are kept.
        """
        super().__init__(directory, best_by=best_by)
        self._saving = 0
        self._manager: ocp.CheckpointManager | None = None
        if jax.process_index() != 0:
            return
        for unfinished in self._directory.glob(f"*{_UNFINISHED}*"):
            shutil.rmtree(unfinished)
        for step in self._steps():
            if damage := self.damage(step):
                self._set_aside(step, damage)
        with self._told():
            self._directory.mkdir(parents=True, exist_ok=True)
        # `max_to_keep` with `best_fn` would delete the latest checkpoint, which a run resumes from.
        # The one before stands in for it if it is damaged.
        keep = AnyPreservationPolicy([LatestN(latest), BestN(n=1, get_metric_fn=SCORES[best_by])])
        self._manager = ocp.CheckpointManager(
            epath.Path(self._directory),
            # Orbax keeps metrics beside the checkpoints only if it has a `best_fn`.
            options=ocp.CheckpointManagerOptions(
                preservation_policy=keep,
                best_fn=SCORES[best_by],
                async_options=ocp.AsyncOptions(post_finalization_callback=self._write_digests),
                multiprocessing_options=_alone(),
                create=False,  # With these options Orbax creates no folder.
            ),
        )

    @override
    def steps(self):
        return worker.share("steps", self._steps)

    @override
    def find_step(self, which):
        return worker.share("step", lambda: super(CheckpointWriter, self).find_step(which))

    def save(
        self,
        state: TrainState,
        position: Any,
        progress: Mapping[str, Any],
        metrics: Mapping[str, float],
    ) -> None:
        """Starts saving. A checkpoint without metrics, as within an epoch, never counts as best.

        Raises:
          UserError: this or the last checkpoint cannot be written.
        """
        if self._manager is None:
            return
        with self._told():
            self._manager.wait_until_finished()
            self._saving = int(state.step)
            # Copies, because they are written in the background while the run goes on.
            arrays = jax.tree.map(np.array, (state.network, _training_part(state)))
            self._manager.save(
                self._saving,
                args=ocp.args.Composite(
                    model=ocp.args.StandardSave(arrays[0]),
                    training=ocp.args.StandardSave(arrays[1]),
                    input=ocp.args.JsonSave(position),
                    progress=ocp.args.JsonSave(copy.deepcopy(progress)),
                ),
                metrics=metrics,
                force=True,
            )

    def delete_after(self, step: int) -> None:
        """Deletes the checkpoints of later steps, because the run goes on from this one."""
        later = [other for other in self.steps() if other > step]
        if self._manager:
            for other in later:
                self._manager.delete(other)

    def wait(self) -> None:
        """Blocks until everything saved is on disk.

        Raises:
          UserError: the last checkpoint cannot be written.
        """
        if self._manager:
            with self._told():
                self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and releases the directory. Raises what `wait` raises."""
        if self._manager:
            with self._told():
                self._manager.close()

    @override
    def _restore(self, step, **items):
        if jax.process_count() == 1:
            return super()._restore(step, **items)
        trees = {item: tree for item, tree in items.items() if tree is not None}
        restored: dict[str, Any] = {item: _empty(tree) for item, tree in trees.items()}
        if jax.process_index() == 0:
            restored = dict(super()._restore(step, **items))
        objects = {item: restored.get(item) for item in items.keys() - trees.keys()}
        arrays = multihost_utils.broadcast_one_to_all({item: restored[item] for item in trees})
        return arrays | worker.share("checkpoint", lambda: objects)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:  # TensorStore raises the last two.
            code = re.search(r"os_error_code='(\d+)'", str(error))
            reason = os.strerror(int(code[1])) if code else str(error)[:300]
            raise UserError(
                f"cannot save step {self._saving} in {self._directory}: {reason}; mend it and "
                "start the same command, which goes on from the checkpoint before"
            ) from error

    def _set_aside(self, step: int, damage: str) -> None:
        folder = self._directory / str(step)
        names = (f"{step}.damaged" + (f".{n}" if n else "") for n in itertools.count())
        aside = next(path for name in names if not (path := self._directory / name).exists())
        folder.rename(aside)
        warn(f"checkpoint {folder} is damaged ({damage}); it is called {aside.name} now")

    def _write_digests(self) -> None:
        """Writes digests.json. Orbax calls it in its thread, just before it commits."""
        [folder] = self._directory.glob(f"{self._saving}{_UNFINISHED}*")
        files = sorted(path for path in folder.glob("*/**/*") if path.is_file())
        digests = {path.relative_to(folder).as_posix(): _sha256(path) for path in files}
        write_atomically(folder / _DIGESTS, json.dumps(digests, indent=1))


def _alone() -> MultiprocessingOptions:
    """Returns Orbax's options for a process that reads or writes without the others."""
    number = jax.process_index()
    return MultiprocessingOptions(
        primary_host=number, active_processes={number}, barrier_sync_key_prefix=f"process_{number}"
    )


def _empty(tree: Any) -> Any:
    """Returns NumPy arrays of the shapes and types of a tree."""
    return jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), tree)


def _place(arrays: Any, like: Any) -> Any:
    """Places NumPy arrays, equal in all processes, on the devices of a tree's arrays."""
    return jax.tree.map(
        lambda array, leaf: jax.make_array_from_callback(
            leaf.shape, leaf.sharding, array.__getitem__
        ),
        arrays,
        like,
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _difference(folder: Path, tree: Any) -> str:
    """Returns the first array whose shape is another than that of `tree`, or ""."""
    metadata = ocp.StandardCheckpointHandler().metadata(epath.Path(folder))
    saved, wanted = (
        {
            jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape
            for path, leaf in jax.tree.leaves_with_path(shapes)
        }
        for shapes in (metadata.tree, tree)
    )
    for name in sorted(saved.keys() | wanted.keys()):
        if saved.get(name) != wanted.get(name):
            return f"{name} has shape {saved.get(name)}, not {wanted.get(name)}"
    return ""


def _list(steps: list[int]) -> str:
    return f"it holds {', '.join(map(str, steps))}" if steps else "it holds none"


def _training_part(state: TrainState) -> dict[str, Any]:
    part = {
        "step": state.step,
        "optimizer": state.optimizer,
        "plateau": state.plateau,
        "random_key": state.random_key,
        "metrics": state.metrics,
    }
    if state.ema is not None:  # Without averages these are the model itself.
        part |= {"params": state.params, "statistics": state.statistics}
    return part
