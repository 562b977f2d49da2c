"""The state of a run, and the step that advances it."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import metrics
from flax import nnx
from jaxtyping import Array, Float, Int

from fer_jax.errors import UserError
from fer_jax.models.functional import Graph, split
from fer_jax.models.layers import to_unit_range
from fer_jax.training.ensemble import Members

Batch = dict[str, Array]
"""`image`: UInt8[batch, 48, 48, 1]; `label`: Int32[batch]."""


@flax.struct.dataclass
class EpochMetrics(metrics.Collection):
    """Means over the training images of the epoch so far, as the network met them."""

    loss: metrics.Average.from_output("loss")  # type: ignore[valid-type]
    accuracy: metrics.Accuracy


class TrainState(flax.struct.PyTreeNode):
    """All that changes while training, as one tree of arrays; whoever changes it returns it."""

    step: Int[Array, ""]
    params: nnx.State
    statistics: nnx.State  # What is not trained: running means and variances, frozen layers.
    ema: Any  # Moving averages of params and statistics, by these names; None without them.
    optimizer: optax.OptState
    rate_scale: Float[Array, ""]  # This member's learning rate, over that of the schedule.
    plateau: Any  # Of the plateau rule; None without one.
    random_key: Array
    metrics: EpochMetrics

    @property
    def scale(self) -> Float[Array, ""]:
        """What the schedule's learning rate is multiplied by."""
        return self.rate_scale * (1.0 if self.plateau is None else self.plateau.scale)

    @property
    def network(self) -> dict[str, nnx.State]:
        """The params and statistics, by these names, to predict with."""
        return self.ema or {"params": self.params, "statistics": self.statistics}


Step = Callable[[TrainState, Batch], tuple[TrainState, Float[Array, ""]]]


def create_state(
    build: Callable[..., nnx.Module],
    optimizer: optax.GradientTransformation,
    plateau: optax.GradientTransformationExtraArgs | None,
    *,
    members: Members,
    seeds: Sequence[int],
    rate_scales: Sequence[float] = (),
    ema: bool = False,
) -> TrainState:
    """Draws the initial state on the devices, of one network or of all members.

    Args:
      build: makes the network, given `rngs`.
      optimizer: whose state is part of the state.
      plateau: likewise.
      members: how many there are, and where the state lives.
      seeds: of each member's parameters, dropout and mixup.
      rate_scales: of each member, see `TrainState`; empty: 1.
      ema: whether the state has moving averages.
    """

    def init(seed: Int[Array, ""], rate_scale: Float[Array, ""]) -> TrainState:
        params_key, random_key = jax.random.split(jax.random.key(seed))
        _, params, statistics = split(build(rngs=nnx.Rngs(params_key)))
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            statistics=statistics,
            ema={"params": params, "statistics": statistics} if ema else None,
            optimizer=optimizer.init(params),
            rate_scale=rate_scale,
            plateau=plateau.init(params) if plateau else None,
            random_key=jax.random.key_data(random_key),
            metrics=EpochMetrics.empty(),
        )

    compiled = jax.jit(members.each(init), out_shardings=members.state_sharding)
    scales = members.array(rate_scales or [1.0] * members.count).astype(np.float32)
    return compiled(members.array(seeds).astype(np.int32), scales)


def make_train_step(
    graph: Graph,
    optimizer: optax.GradientTransformation,
    *,
    class_weights: Float[np.ndarray, " classes"],
    label_smoothing: float = 0.0,
    mixup: float = 0.0,
    ema_decay: float = 0.0,
) -> Step:
    """Returns the function, of one network, from state and batch to next state and loss.

    The loss is the mean over the whole batch, on however many devices, of
    `class_weights[label] * cross_entropy`.

    Args:
      graph: the network's structure.
      optimizer: the one whose state is part of the state.
      class_weights: of each class in the loss.
      label_smoothing: share of a label that is spread over all classes (Szegedy et al., 2016).
      mixup: alpha of the beta distribution of the weight at which each image, and its label, is
        mixed with another one of the batch (Zhang et al., 2018); 0: none is.
      ema_decay: of the state's exponential moving averages, if it has them; lower in the first
        steps, when there is little to average: at most (1 + step) / (10 + step).
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Float[Array, ""]]:
        labels, images = batch["label"], to_unit_range(batch["image"])
        random_key = jax.random.fold_in(jax.random.wrap_key_data(state.random_key), state.step)
        targets = optax.smooth_labels(jax.nn.one_hot(labels, len(class_weights)), label_smoothing)
        targets *= jnp.asarray(class_weights)[labels][:, None]
        if mixup:
            # The key itself is dropout's.
            share = jax.random.beta(jax.random.fold_in(random_key, 1), mixup, mixup)
            # The greater one to the image whose label the accuracy counts. By the smaller one the
            # batch is the same, from its end to its beginning.
            share = jnp.maximum(share, 1 - share)
            images, targets = (share * x + (1 - share) * x[::-1] for x in (images, targets))

        def loss_of(params):
            # A copy, or BatchNorm's update would write into variables of the outer trace.
            model = nnx.merge(graph, params, state.statistics, copy=True)
            model.train()
            logits = model(images, rngs=nnx.Rngs(dropout=random_key))
            _, _, statistics = split(model)
            return optax.softmax_cross_entropy(logits, targets).mean(), (logits, statistics)

        (loss, (logits, statistics)), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            state.params
        )
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
        scale = (
            state.rate_scale if state.plateau is None else state.rate_scale * state.plateau.scale
        )
        params = optax.apply_updates(state.params, jax.tree.map(lambda x: scale * x, updates))
        ema = state.ema
        if ema is not None:
            decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
            latest = {"params": params, "statistics": statistics}
            ema = optax.incremental_update(latest, ema, 1 - decay)
        next_state = state.replace(
            step=state.step + 1,
            params=params,
            statistics=statistics,
            ema=ema,
            optimizer=optimizer_state,
            metrics=state.metrics.merge(
                EpochMetrics.single_from_model_output(loss=loss, logits=logits, labels=labels)
            ),
        )
        return next_state, loss

    return step


def make_end_epoch(
    plateau: optax.GradientTransformationExtraArgs | None, members: Members
) -> Callable[[TrainState, Any], TrainState]:
    """Returns the compiled step between epochs; it consumes the state.

    It tells the plateau rule the validation loss, of each member, and empties the metrics.
    """

    def end_epoch(state: TrainState, validation_loss: Float[Array, ""]) -> TrainState:
        if plateau is not None:
            _, next_plateau = plateau.update({}, state.plateau, value=validation_loss)
            state = state.replace(plateau=next_plateau)
        return state.replace(metrics=EpochMetrics.empty())

    sharding = members.state_sharding
    return jax.jit(members.each(end_epoch), donate_argnums=0, out_shardings=sharding)


class FiniteLosses:
    """Checks losses some calls late, so that the device is never waited for."""

    _LATE = 16

    def __init__(self) -> None:
        self._pending: deque[tuple[int, Float[Array | np.ndarray, "*members steps"]]] = deque()

    def add(self, step: int, losses: Float[Array | np.ndarray, "*members steps"]) -> None:
        """Takes the losses of the steps from `step` on, and checks those of 16 calls ago."""
        self._pending.append((step, losses))
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
        first, pending = self._pending.popleft()
        losses = np.asarray(pending)
        if np.isfinite(losses).all():
            return
        by_step = losses.reshape(-1, losses.shape[-1]).T  # Of which each has a loss per member.
        step, member = np.argwhere(~np.isfinite(by_step))[0]
        which = f" of member {member}" if losses.ndim > 1 else ""
        raise UserError(
            f"the loss{which} is {by_step[step, member]} at step {first + step}: stopped, earlier "
            "checkpoints are kept; lower learning_rate or set clip_norm, and start in a new workdir"
        )
