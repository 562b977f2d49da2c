"""Creates a config's Optax optimiser, schedule and plateau rule; decides on early stopping."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import reduce_on_plateau

from fer_jax.errors import UserError

# Keras's epsilons, with which the published systems were trained.
OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": lambda rate: optax.adam(rate, eps=1e-7),
    # As optax.adamw, with a decay that may be swept.
    "adamw": lambda rate, decay: optax.chain(
        optax.scale_by_adam(eps=1e-7), decay, optax.scale_by_learning_rate(rate)
    ),
    "rmsprop": lambda rate: optax.rmsprop(rate, decay=0.9, eps=1e-7),
    "sgd": lambda rate: optax.sgd(rate, momentum=0.9, nesterov=True),
}

SCHEDULES = ("constant", "cosine", "plateau")


def create_schedule(
    config: Mapping[str, Any], *, steps_per_epoch: int, total_steps: int
) -> optax.Schedule:
    """Returns the learning rate by step, before the plateau rule's factor.

    Args:
      config: `learning_rate`; `schedule`, one of `SCHEDULES`; `warmup_epochs`, over which the rate
        rises linearly from zero.
      steps_per_epoch: steps of one epoch.
      total_steps: steps of the whole run; the cosine reaches zero at their end.

    Raises:
      UserError: there is no such schedule, or the warm-up is longer than the run.
    """
    rate, name = config["learning_rate"], config["schedule"]
    warmup_steps = round(config["warmup_epochs"] * steps_per_epoch)
    if name not in SCHEDULES:
        raise UserError(f"schedule is {name!r}; choose one of {', '.join(SCHEDULES)}")
    if warmup_steps and warmup_steps >= total_steps:
        raise UserError(f"warmup_epochs = {config['warmup_epochs']} is as long as the whole run")
    if name == "cosine":
        after = optax.cosine_decay_schedule(rate, total_steps - warmup_steps)
    else:
        after = optax.constant_schedule(rate)
    if not warmup_steps:
        return after
    warmup = optax.linear_schedule(0.0, rate, warmup_steps)
    return optax.join_schedules([warmup, after], [warmup_steps])


def create_optimizer(
    config: Mapping[str, Any], schedule: optax.Schedule, swept: Collection[str] = ()
) -> optax.GradientTransformation:
    """Returns the optimiser.

    Its `update` takes the knobs that are swept as keywords.

    Args:
      config: `optimizer`, a key of `OPTIMIZERS`; `clip_norm`, the largest global norm of the
        gradient, 0 for no limit; `weight_decay`, which applies to kernels only and is decoupled
        for adamw (Loshchilov and Hutter, 2019) and added to the gradient for the others.
      schedule: learning rate by step.
      swept: names of the knobs in which the members differ.

    Raises:
      UserError: there is no such optimiser.
    """
    name = config["optimizer"]
    if name not in OPTIMIZERS:
        raise UserError(f"optimizer is {name!r}; choose one of {', '.join(OPTIMIZERS)}")

    def part(knob: str, make: Callable[[Any], optax.GradientTransformation]) -> Any:
        return _swept(knob, make) if knob in swept else make(config[knob])

    decay = part("weight_decay", lambda x: optax.add_decayed_weights(x, mask=_kernels))
    parts = []
    if config["clip_norm"] or "clip_norm" in swept:
        parts.append(part("clip_norm", _clip))
    if name == "adamw":
        parts.append(OPTIMIZERS[name](schedule, decay))
    else:
        if config["weight_decay"] or "weight_decay" in swept:
            parts.append(decay)
        parts.append(OPTIMIZERS[name](schedule))
    return optax.chain(*parts)


def _swept(
    knob: str, make: Callable[[Any], optax.GradientTransformation]
) -> optax.GradientTransformationExtraArgs:
    """Returns a transformation whose strength is a keyword of `update`, named after the knob."""

    def update(updates: Any, state: Any, params: Any = None, **knobs: Any) -> tuple[Any, Any]:
        return make(knobs[knob]).update(updates, state, params)

    return optax.GradientTransformationExtraArgs(make(1.0).init, update)


def _clip(norm: Any) -> optax.GradientTransformation:
    """Clips by a global norm; 0, which only a sweep passes, clips nothing."""
    limit = jnp.where(norm > 0, norm, jnp.inf) if isinstance(norm, jax.Array) else norm
    return optax.clip_by_global_norm(limit)


def create_plateau(
    config: Mapping[str, Any],
) -> optax.GradientTransformationExtraArgs | None:
    """Returns the rule that cuts the rate once the validation loss stops falling, or None.

    Its state's `scale` multiplies the updates. Its `update` takes the loss once an epoch.

    Args:
      config: `schedule`, "plateau" for this rule; `plateau` with `factor`, `patience` in epochs,
        and `min_delta`, the least fall of the loss that counts.
    """
    if config["schedule"] != "plateau":
        return None
    plateau = config["plateau"]
    return reduce_on_plateau(
        factor=plateau["factor"],
        patience=plateau["patience"],
        rtol=0.0,
        atol=plateau["min_delta"],
    )


def stagnates(config: Mapping[str, Any], losses: Sequence[float]) -> bool:
    """Whether it is time to stop early.

    Args:
      config: `early_stopping_patience`, number of epochs without a fall of the loss after which to
        stop, 0 for never; `plateau` with `min_delta`, the least fall that counts.
      losses: validation loss after each epoch so far.
    """
    best, waited = math.inf, 0
    for loss in losses:
        if loss < best - config["plateau"]["min_delta"]:
            best, waited = loss, 0
        else:
            waited += 1
    return 0 < config["early_stopping_patience"] <= waited


def _kernels(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
