"""What a network learns from labels or votes: one function for each value of `config.targets`.

Barsoum et al., "Training Deep Networks for Facial Expression Recognition with Crowd-Sourced Label
Distribution", ICMI 2016, sections 3.1 to 3.4.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from fer_jax.data.records import Records
from fer_jax.errors import UserError

SHARE_OF_A_LABEL = 0.3
"""Share of the votes from which on a class counts as one of an image's labels for "multi"."""

Batch = dict[str, Array]
"""`label`: Int32[batch]; and for all targets but "majority" `votes`: Float32[batch, classes]."""


class Targets(NamedTuple):
    """What a network learns from a batch, and how far it is from that.

    Attributes:
      of: function from a batch, the number of classes and a random key to targets,
        Float[batch, classes].
      loss: function from logits and targets to the loss of each image, Float[batch].
      by_votes: whether the targets need votes.
    """

    of: Callable[[Batch, int, Array], Float[Array, "batch classes"]]
    loss: Callable[
        [Float[Array, "batch classes"], Float[Array, "batch classes"]], Float[Array, " batch"]
    ]
    by_votes: bool = True


def _majority(batch: Batch, classes: int, key: Array) -> Float[Array, "batch classes"]:
    """1 for the label."""
    del key
    return jax.nn.one_hot(batch["label"], classes)


def _shares(batch: Batch, classes: int, key: Array) -> Float[Array, "batch classes"]:
    """Each class's share of the votes for any class; in the paper "cross-entropy loss"."""
    del classes, key
    return batch["votes"] / batch["votes"].sum(axis=-1, keepdims=True)


def _draw(batch: Batch, classes: int, key: Array) -> Float[Array, "batch classes"]:
    """1 for a class that is drawn by the votes anew in each step: "probabilistic label drawing"."""
    return jax.nn.one_hot(jax.random.categorical(key, jnp.log(batch["votes"])), classes)


def _all_labels(batch: Batch, classes: int, key: Array) -> Float[Array, "batch classes"]:
    """1 for each class with enough votes, and for that with most: "multi-label learning"."""
    del classes, key
    votes = batch["votes"]
    enough = jnp.minimum(SHARE_OF_A_LABEL, votes.max(axis=-1, keepdims=True))
    return (votes >= enough).astype(votes.dtype)


def _nearest_label(
    logits: Float[Array, "batch classes"], targets: Float[Array, "batch classes"]
) -> Float[Array, " batch"]:
    """Cross-entropy with that label which the network finds most probable."""
    return -jnp.where(targets > 0, jax.nn.log_softmax(logits), -jnp.inf).max(axis=-1)


TARGETS = {
    "majority": Targets(_majority, optax.softmax_cross_entropy, by_votes=False),
    "probability": Targets(_shares, optax.softmax_cross_entropy),
    "drawn": Targets(_draw, optax.softmax_cross_entropy),
    "multi": Targets(_all_labels, _nearest_label),
}
"""The targets, by the value of `config.targets`."""


def choose_targets(config: ConfigDict, training: Records) -> tuple[Targets, Records]:
    """Returns the targets of a config, and the records without the votes that they do not need.

    Raises:
      UserError: the records have no votes, or another knob changes targets that must stay 0 or 1.
    """
    name = config.targets
    if name == "multi" and (config.mixup or config.label_smoothing or config.balance_classes):
        raise UserError(
            "targets is 'multi', which goes without mixup, label_smoothing and balance_classes; "
            "set them to 0, 0 and False"
        )
    targets = TARGETS[name]
    if not targets.by_votes:
        return targets, dataclasses.replace(training, votes=None)
    if training.votes is None:
        raise UserError(
            f"targets is {name!r}, but the records have no votes; prepare them with "
            "`python -m data_prep --labels=ferplus` or from a table with votes, or set "
            "--config.targets=majority"
        )
    return targets, training
