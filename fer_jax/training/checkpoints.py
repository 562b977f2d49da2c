"""Checkpoints of a run, kept by Orbax: the latest to resume from, the best to use."""

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import orbax.checkpoint as ocp
from etils import epath
from flax import nnx
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from fer_jax.errors import UserError
from fer_jax.training.step import TrainState

SCORES: dict[str, Callable[[Mapping[str, float]], float]] = {
    "val_accuracy": lambda metrics: metrics.get("val_accuracy", -math.inf),
    "val_loss": lambda metrics: -metrics.get("val_loss", math.inf),
}
"""Values of `config.best_by`, each with its score of an epoch; higher is better."""


class Checkpoints:
    """Saves a run's state asynchronously under `directory`, and restores it. `close` waits.

    A checkpoint holds four items:
      model: parameters and statistics, or their moving averages; all that prediction needs.
      training: the rest of the state.
      input: position in the stream of batches.
      progress: history, and seconds of training.
    """

    def __init__(
        self, directory: epath.PathLike, *, best_by: str, latest: int = 1, create: bool = True
    ):
        self._score = SCORES[best_by]
        # `max_to_keep` with `best_fn` would delete the latest checkpoint, which a run resumes from.
        keep = AnyPreservationPolicy([LatestN(latest), BestN(n=1, get_metric_fn=self._score)])
        self._manager = ocp.CheckpointManager(
            epath.Path(directory).resolve(),
            # Orbax keeps metrics beside the checkpoints only if it has a `best_fn`.
            options=ocp.CheckpointManagerOptions(
                preservation_policy=keep,
                best_fn=self._score,
                create=create,
            ),
        )

    def save(
        self,
        state: TrainState,
        position: Any,
        progress: Mapping[str, Any],
        metrics: Mapping[str, float],
    ) -> None:
        """Starts saving. A checkpoint without metrics, as within an epoch, never counts as best."""
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                model=ocp.args.StandardSave(state.network),
                training=ocp.args.StandardSave(_training_part(state)),
                input=ocp.args.JsonSave(position),
                # A copy, because it is written in the background while the run goes on.
                progress=ocp.args.JsonSave(copy.deepcopy(progress)),
            ),
            metrics=metrics,
            force=True,
        )

    def steps(self) -> set[int]:
        """Returns the steps that have a checkpoint."""
        return set(self._manager.all_steps())

    def delete_after(self, step: int) -> None:
        """Deletes the checkpoints of later steps, because the run goes on from this one."""
        for later in [other for other in self.steps() if other > step]:
            self._manager.delete(later)

    def restore(self, step: int, state: TrainState) -> tuple[TrainState, Any, dict[str, Any]]:
        """Restores the checkpoint at `step`.

        Args:
          step: step of a checkpoint.
          state: state with the shapes, types and placement that the restored one takes.

        Returns:
          The state, the input position and the progress, as they were saved.
        """
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                model=ocp.args.StandardRestore(state.network),
                training=ocp.args.StandardRestore(_training_part(state)),
                input=ocp.args.JsonRestore(),
                progress=ocp.args.JsonRestore(),
            ),
        )
        network = restored["model"]
        state = state.replace(**(network if state.ema is None else {"ema": network}))
        return state.replace(**restored["training"]), restored["input"], restored["progress"]

    def restore_model(
        self, step: int, params: nnx.State, statistics: nnx.State
    ) -> tuple[nnx.State, nnx.State]:
        """Returns the parameters and statistics of the checkpoint at `step`.

        Args:
          step: step of a checkpoint, see `find_step`.
          params: arrays, or abstract arrays, with the shapes, types and placement wanted.
          statistics: the same for the statistics.
        """
        item = ocp.args.StandardRestore({"params": params, "statistics": statistics})
        restored = self._manager.restore(step, args=ocp.args.Composite(model=item))["model"]
        return restored["params"], restored["statistics"]

    def find_step(self, which: str) -> int:
        """Returns the step of the checkpoint that `which` names: "best", "latest" or a number.

        Raises:
          UserError: there is no such checkpoint; the message lists the existing ones.
        """
        steps = sorted(self._manager.all_steps())
        scored = {step: self._manager.metrics(step) for step in steps}
        if which == "latest" and steps:
            return steps[-1]
        if which == "best" and any(scored.values()):
            # If several are equally good, the latest, which Orbax keeps.
            return max((self._score(metrics), step) for step, metrics in scored.items() if metrics)[
                1
            ]
        if which.isdecimal() and int(which) in steps:
            return int(which)
        held = f"it holds {', '.join(map(str, steps))}" if steps else "it holds none"
        raise UserError(
            f"no checkpoint {which!r} in {self._manager.directory}: {held}; "
            "say best, latest or a step"
        )

    def wait(self) -> None:
        """Blocks until everything saved is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and releases the directory."""
        self.wait()
        self._manager.close()


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
