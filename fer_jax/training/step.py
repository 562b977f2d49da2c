"""The state of a run, and the compiled step that advances it."""

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import metrics
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from data_prep.contract import UserError
from fer_jax.training.mesh import replicated, split_over_devices
from fer_jax.training.prediction import Graph, split, to_unit_range


@flax.struct.dataclass
class EpochMetrics(metrics.Collection):
    """Means over the training images of the epoch so far, as the network met them."""

    loss: metrics.Average.from_output("loss")  # type: ignore[valid-type]
    accuracy: metrics.Accuracy


class TrainState(flax.struct.PyTreeNode):
    """All that changes while training, as one tree of arrays; whoever changes it returns it."""

    step: Int[Array, ""]
    params: nnx.State
    statistics: nnx.State  # What is not trained: the running means and variances.
    optimizer: optax.OptState
    plateau: Any  # Of the plateau rule; None without one.
    dropout_key: Array
    metrics: EpochMetrics


def create_state(
    build: Callable[..., nnx.Module],
    optimizer: optax.GradientTransformation,
    plateau: optax.GradientTransformationExtraArgs | None,
    *,
    seed: int,
    mesh: Mesh,
) -> TrainState:
    """Draws the initial state, on every device of the mesh.

    Args:
      build: makes the network, given `rngs`.
      optimizer: whose state is part of the state.
      plateau: likewise.
      seed: of parameters and dropout.
      mesh: where the state lives.
    """

    def init() -> TrainState:
        params_key, dropout_key = jax.random.split(jax.random.key(seed))
        _, params, statistics = split(build(rngs=nnx.Rngs(params_key)))
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            statistics=statistics,
            optimizer=optimizer.init(params),
            plateau=plateau.init(params) if plateau else None,
            dropout_key=jax.random.key_data(dropout_key),
            metrics=EpochMetrics.empty(),
        )

    return jax.jit(init, out_shardings=replicated(mesh))()


def make_train_step(
    graph: Graph,
    optimizer: optax.GradientTransformation,
    *,
    label_smoothing: float,
    class_weights: Float[np.ndarray, " classes"],
    mesh: Mesh,
) -> jax.stages.Wrapped:
    """Returns the jitted step from state and batch to next state and loss; it consumes the state.

    The loss is the mean over the whole batch, on however many devices, of
    `class_weights[label] * cross_entropy`, with smoothed labels (Szegedy et al., 2016).
    """

    def step(state: TrainState, batch: dict[str, Array]) -> tuple[TrainState, Float[Array, ""]]:
        labels = batch["label"]
        dropout_key = jax.random.fold_in(jax.random.wrap_key_data(state.dropout_key), state.step)

        def loss_of(params):
            # A copy, or BatchNorm's update would write into variables of the outer trace.
            model = nnx.merge(graph, params, state.statistics, copy=True)
            model.train()
            logits = model(to_unit_range(batch["image"]), rngs=nnx.Rngs(dropout=dropout_key))
            targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), label_smoothing)
            losses = optax.softmax_cross_entropy(logits, targets)
            _, _, statistics = split(model)
            return jnp.mean(jnp.asarray(class_weights)[labels] * losses), (logits, statistics)

        (loss, (logits, statistics)), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            state.params
        )
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
        if state.plateau is not None:
            updates = jax.tree.map(lambda update: state.plateau.scale * update, updates)
        next_state = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            statistics=statistics,
            optimizer=optimizer_state,
            metrics=state.metrics.merge(
                EpochMetrics.single_from_model_output(loss=loss, logits=logits, labels=labels)
            ),
        )
        return next_state, loss

    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(replicated(mesh), split_over_devices(mesh)),
        out_shardings=replicated(mesh),
    )


def make_end_epoch(
    plateau: optax.GradientTransformationExtraArgs | None, mesh: Mesh
) -> Callable[[TrainState, float], TrainState]:
    """Returns the jitted step between epochs; it consumes the state.

    It tells the plateau rule the validation loss and empties the metrics.
    """

    def end_epoch(state: TrainState, validation_loss: Float[Array, ""]) -> TrainState:
        if plateau is not None:
            _, next_plateau = plateau.update({}, state.plateau, value=validation_loss)
            state = state.replace(plateau=next_plateau)
        return state.replace(metrics=EpochMetrics.empty())

    return jax.jit(end_epoch, donate_argnums=0, out_shardings=replicated(mesh))


class FiniteLosses:
    """Checks each step's loss some steps late, so that the device is never waited for."""

    _LATE = 16

    def __init__(self) -> None:
        self._pending: deque[tuple[int, Float[Array, ""] | float]] = deque()

    def add(self, step: int, loss: Float[Array, ""] | float) -> None:
        """Takes the loss of `step`, and checks the one of 16 calls ago."""
        self._pending.append((step, loss))
        if len(self._pending) > self._LATE:
            self._check()

    def check_all(self) -> None:
        """Checks all losses taken: call it before anything is saved.

        Raises:
          UserError: the first loss that is not finite, and its step; as `add` does.
        """
        while self._pending:
            self._check()

    def _check(self) -> None:
        step, loss = self._pending.popleft()
        if not math.isfinite(value := float(loss)):
            raise UserError(
                f"the loss is {value} at step {step}: stopped, earlier checkpoints are kept; "
                "lower learning_rate or set clip_norm, and start in a new workdir"
            )
