"""Stratified splits of records, by class and, if there are groups, without cutting through one."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

_SEED = 2013  # The 80/20 split of training images is the same in every run.


def stratified_split(
    labels: Int[np.ndarray, " n"],
    fraction: float,
    groups: Sequence[str] | None = None,
    *,
    seed: int = _SEED,
) -> tuple[Int[np.ndarray, " kept"], Int[np.ndarray, " aside"]]:
    """Sets aside floor(fraction * n_c) records of each class c.

    With groups, such as persons, whole groups are set aside, in a random order and as long as they
    bring the classes nearer to these numbers.

    Args:
      labels: class index of each record.
      fraction: fraction to set aside.
      groups: group of each record; "" is a record on its own.
      seed: seed of the choice.

    Returns:
      The numbers of the records kept and of those set aside, each ascending; the same in every
      call.
    """
    rng = np.random.default_rng(seed)
    aside = np.zeros(len(labels), bool)
    if groups is None:
        for label in np.unique(labels):
            of_class = rng.permutation(np.flatnonzero(labels == label))
            aside[of_class[: int(fraction * len(of_class))]] = True
        return np.flatnonzero(~aside), np.flatnonzero(aside)

    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group or f"\0{index}", []).append(index)
    names = sorted(members)
    classes = int(labels.max(initial=0)) + 1
    missing = (fraction * np.bincount(labels, minlength=classes)).astype(int)
    for position in rng.permutation(len(names)):
        indices = members[names[position]]
        left = missing - np.bincount(labels[indices], minlength=classes)
        if np.abs(left).sum() < np.abs(missing).sum():
            aside[indices], missing = True, left
    return np.flatnonzero(~aside), np.flatnonzero(aside)
