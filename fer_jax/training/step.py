"""The state of a run, and the step that advances it."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
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
from fer_jax.training.distillation import Distillation
from fer_jax.training.ensemble import Members, typed
from fer_jax.training.targets import TARGETS, Targets

Batch = dict[str, Array]
"""`image`: UInt8[batch, size, size, channels]; `label`: Int32[batch]; perhaps `votes`:
Float32[batch, classes]."""


@flax.struct.dataclass
class EpochMetrics(metrics.Collection):
    """Means over the training images of the epoch so far, each at its own step's weights."""

    loss: metrics.Average.from_output("loss")  # type: ignore[valid-type]
    accuracy: metrics.Accuracy


STEP_KNOBS = ("weight_decay", "clip_norm", "label_smoothing", "mixup", "cutmix", "ema_decay")
"""Knobs of a step that a sweep can vary, besides the learning rate."""


class TrainState(flax.struct.PyTreeNode):
    """Everything that changes in training, as one tree of arrays."""

    step: Int[Array, ""]
    params: nnx.State
    statistics: nnx.State  # Not trained: running means and variances, frozen layers.
    ema: Any  # Moving averages of params and statistics, under these names; or None.
    optimizer: optax.OptState
    rate_scale: Float[Array, ""]  # This member's learning rate divided by the schedule's.
    knobs: dict[str, Array]  # This member's values of other knobs in which the members differ.
    plateau: Any  # State of the plateau rule, or None.
    random_key: Array
    metrics: EpochMetrics

    @property
    def scale(self) -> Float[Array, ""]:
        """The factor on the schedule's learning rate."""
        return self.rate_scale * (1.0 if self.plateau is None else self.plateau.scale)

    @property
    def network(self) -> dict[str, nnx.State]:
        """The params and statistics to predict with, under these names."""
        return self.ema or {"params": self.params, "statistics": self.statistics}


Step = Callable[..., tuple[TrainState, Float[Array, ""]]]
"""A function from a state, a `Batch` and perhaps teachers' weights to the next state and loss."""


def create_state(
    build: Callable[..., nnx.Module],
    optimizer: optax.GradientTransformation,
    plateau: optax.GradientTransformationExtraArgs | None,
    *,
    members: Members,
    seeds: Sequence[int],
    rate_scales: Sequence[float] = (),
    knobs: Mapping[str, Sequence[Any]] | None = None,
    ema: bool = False,
) -> TrainState:
    """Draws the initial state of all members on the devices.

    Args:
      build: makes the network, given `rngs`.
      optimizer: the optimiser.
      plateau: the plateau rule, or None.
      members: number and layout of the members.
      seeds: seed of each member's parameters, dropout and mixup.
      rate_scales: `TrainState.rate_scale` of each member; empty: 1.
      knobs: each member's values of knobs in which the members differ, for `TrainState.knobs`.
      ema: whether the state has moving averages.
    """

    def init(
        seed: Int[Array, ""], rate_scale: Float[Array, ""], knobs: dict[str, Array]
    ) -> TrainState:
        params_key, random_key = jax.random.split(jax.random.key(seed))
        _, params, statistics = split(build(rngs=nnx.Rngs(params_key)))
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            statistics=statistics,
            ema={"params": params, "statistics": statistics} if ema else None,
            optimizer=optimizer.init(params),
            rate_scale=rate_scale,
            knobs=knobs,
            plateau=plateau.init(params) if plateau else None,
            random_key=jax.random.key_data(random_key),
            metrics=EpochMetrics.empty(),
        )

    compiled = jax.jit(members.each(init), out_shardings=members.state_sharding)
    scales = members.array(rate_scales or [1.0] * members.count).astype(np.float32)
    own = {knob: members.array(typed(values)) for knob, values in (knobs or {}).items()}
    return compiled(members.array(seeds).astype(np.int32), scales, own)


def make_train_step(
    graph: Graph,
    optimizer: optax.GradientTransformation,
    *,
    class_weights: Float[np.ndarray, " classes"],
    targets: Targets = TARGETS["majority"],
    label_smoothing: float = 0.0,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    ema_decay: float = 0.0,
    accumulate: int = 1,
    distillation: Distillation | None = None,
) -> Step:
    """Returns the function from one network's state and a batch to its next state and its loss.

    The loss is the mean of `class_weights[label] * targets.loss` over the whole batch, on any
    number of devices. With distillation, that of the teachers' predictions is mixed in.

    Knobs in which the members of a run differ are in the state, which goes before the arguments.

    Args:
      graph: the network's structure.
      optimizer: the optimiser.
      class_weights: weight of each class in the loss.
      targets: what the network learns from labels or votes.
      label_smoothing: share of a label that is spread over all classes (Szegedy et al., 2016).
      mixup: alpha of the beta distribution of the weight that mixes each image and its label with
        another one of the batch (Zhang et al., 2018); 0 mixes none.
      cutmix: probability that the step pastes a rectangle of each image into another one instead,
        with the rectangle's share of the label (Yun et al., 2019).
      ema_decay: decay of the exponential moving averages, if the state has them. It is at most
        (1 + step) / (10 + step), because there is little to average in the first steps.
      accumulate: number of micro-batches that a batch is computed in, one after the other. Their
        gradients are averaged for one update. The statistics of batch normalisation are those of
        each micro-batch, and dropout draws anew in each.
      distillation: what the network learns from teachers, or None.
    """

    optimizer = optax.with_extra_args_support(optimizer)
    constants = {
        "label_smoothing": label_smoothing,
        "mixup": mixup,
        "cutmix": cutmix,
        "ema_decay": ema_decay,
    }

    def step(
        state: TrainState, batch: Batch, teachers: Any = None
    ) -> tuple[TrainState, Float[Array, ""]]:
        knobs: dict[str, Any] = {**constants, **state.knobs}
        labels, images = batch["label"], to_unit_range(batch["image"])
        random_key = jax.random.fold_in(jax.random.wrap_key_data(state.random_key), state.step)
        wanted = targets.of(batch, len(class_weights), jax.random.fold_in(random_key, 2))
        wanted = optax.smooth_labels(wanted, knobs["label_smoothing"])
        wanted *= jnp.asarray(class_weights)[labels][:, None]
        if {"mixup", "cutmix"} & state.knobs.keys() or mixup or cutmix:
            images, wanted = _mix(images, wanted, random_key, knobs)

        def loss_of(params, statistics, key, images, wanted):
            # Without a copy BatchNorm's update would write into variables of the outer trace.
            model = nnx.merge(graph, params, statistics, copy=True)
            model.train()
            logits = model(images, rngs=nnx.Rngs(dropout=key))
            _, _, statistics = split(model)
            loss = targets.loss(logits, wanted)
            if distillation:
                loss = distillation.mix_in(loss, logits, images, teachers)
            return loss.mean(), (logits, statistics)

        gradients, loss, logits, statistics = _in_micro_batches(
            jax.value_and_grad(loss_of, has_aux=True),
            state.params,
            state.statistics,
            random_key,
            (images, wanted),
            accumulate,
        )
        updates, optimizer_state = optimizer.update(
            gradients, state.optimizer, state.params, **state.knobs
        )
        scale = (
            state.rate_scale if state.plateau is None else state.rate_scale * state.plateau.scale
        )
        params = optax.apply_updates(state.params, jax.tree.map(lambda x: scale * x, updates))
        ema = state.ema
        if ema is not None:
            decay = jnp.minimum(knobs["ema_decay"], (1 + state.step) / (10 + state.step))
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


def _mix(
    images: Float[Array, "batch height width channels"],
    wanted: Float[Array, "batch classes"],
    key: Array,
    knobs: Mapping[str, Any],
) -> tuple[Array, Array]:
    """Mixes each image and its target with those at the same place of the reversed batch.

    All images of a step are mixed alike, each pixel by its weight.
    """
    # Dropout uses the key itself, and others its children 2 and 3.
    share_key, box_key = (jax.random.fold_in(key, k) for k in (1, 4))
    mixes = knobs["mixup"] > 0
    alpha = jnp.where(mixes, knobs["mixup"], 1.0)
    share = jnp.where(mixes, jax.random.beta(share_key, alpha, alpha), 1.0)
    size = images.shape[1:3]
    chance, area, *centre = jax.random.uniform(box_key, (2 + len(size),))
    distances = jnp.meshgrid(
        *(abs(jnp.arange(n) + 0.5 - n * at) / n for n, at in zip(size, centre, strict=True)),
        indexing="ij",
    )
    outside = jnp.maximum(*distances) > jnp.sqrt(area) / 2
    weights = jnp.where(chance < knobs["cutmix"], outside, share)
    share = weights.mean()
    # Accuracy counts the label of the image with the greater share. Exchanging the shares only
    # reverses the order of the batch.
    weights, share = jnp.where(share < 0.5, 1 - weights, weights), jnp.maximum(share, 1 - share)
    weights = weights[..., None]
    return (
        weights * images + (1 - weights) * images[::-1],
        share * wanted + (1 - share) * wanted[::-1],
    )


def _in_micro_batches(
    differentiate: Callable,
    params: nnx.State,
    statistics: nnx.State,
    key: Array,
    batch: tuple[Array, Array],
    count: int,
) -> tuple[nnx.State, Array, Array, nnx.State]:
    """Returns the gradients, loss and logits of a batch in `count` parts, and the statistics.

    Every `count`-th image forms a part, so that no image moves between devices, and the parts do
    not depend on the number of devices.
    """
    if count == 1:
        (loss, (logits, statistics)), gradients = differentiate(params, statistics, key, *batch)
        return gradients, loss, logits, statistics
    parts = [x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1) for x in batch]
    keys = jax.random.split(jax.random.fold_in(key, 3), count)

    def add_part(sums: Any, part: Any) -> tuple[Any, Array]:
        gradients, loss, statistics = sums
        (latest, (logits, statistics)), more = differentiate(params, statistics, *part)
        return (jax.tree.map(jnp.add, gradients, more), loss + latest, statistics), logits

    sums = (jax.tree.map(jnp.zeros_like, params), jnp.zeros(()), statistics)
    if jax.default_backend() == "cpu":  # Convolutions are slow in its loops.
        every = []
        for k in range(count):
            part = [x[k] for x in (keys, *parts)]
            # The barrier makes a part wait for the one before, whose memory it takes.
            sums, part = jax.lax.optimization_barrier((sums, part))
            sums, logits = add_part(sums, part)
            every.append(logits)
        logits = jnp.stack(every)
    else:
        sums, logits = jax.lax.scan(add_part, sums, (keys, *parts))
    gradients, loss, statistics = sums
    gradients = jax.tree.map(lambda x: x / count, gradients)
    return gradients, loss / count, logits.swapaxes(0, 1).reshape(-1, logits.shape[-1]), statistics


def make_end_epoch(
    plateau: optax.GradientTransformationExtraArgs | None, members: Members
) -> Callable[[TrainState, Any], TrainState]:
    """Returns the compiled step between epochs, which consumes the state.

    It gives the plateau rule each member's validation loss, and empties the metrics.
    """

    def end_epoch(state: TrainState, validation_loss: Float[Array, ""]) -> TrainState:
        if plateau is not None:
            _, next_plateau = plateau.update({}, state.plateau, value=validation_loss)
            state = state.replace(plateau=next_plateau)
        return state.replace(metrics=EpochMetrics.empty())

    sharding = members.state_sharding
    return jax.jit(members.each(end_epoch), donate_argnums=0, out_shardings=sharding)


class FiniteLosses:
    """Checks losses some calls late, so that the host never waits for the devices."""

    _LATE = 16

    def __init__(self) -> None:
        self._pending: deque[tuple[int, Float[Array | np.ndarray, "*members steps"]]] = deque()

    def add(self, step: int, losses: Float[Array | np.ndarray, "*members steps"]) -> None:
        """Takes the losses of the steps from `step` on, and checks those from 16 calls ago."""
        self._pending.append((step, losses))
        if len(self._pending) > self._LATE:
            self._check()

    def check_all(self) -> None:
        """Checks all losses taken so far. Call it before anything is saved.

        Raises:
          UserError: a loss is not finite; the message has its step. `add` raises it too.
        """
        while self._pending:
            self._check()

    def _check(self) -> None:
        first, pending = self._pending.popleft()
        losses = np.asarray(pending)
        if np.isfinite(losses).all():
            return
        by_step = losses.reshape(-1, losses.shape[-1]).T  # [steps, members]
        step, member = np.argwhere(~np.isfinite(by_step))[0]
        which = f" of member {member}" if losses.ndim > 1 else ""
        raise UserError(
            f"the loss{which} is {by_step[step, member]} at step {first + step}: stopped, earlier "
            "checkpoints are kept; lower learning_rate or set clip_norm, and start in a new workdir"
        )
