"""Sets images aside for validation and test, without cutting through a person or video."""

import os
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from data_prep.candidates import Candidate
from fer_jax.data.splits import stratified_split
from fer_jax.errors import UserError


def add_groups(candidates: Sequence[Candidate], pattern: str) -> list[Candidate]:
    """Gives each candidate the group that --group_by finds in its file's name, or in its path.

    The group is the pattern's first group, or all that it matches.

    Raises:
      UserError: the pattern is wrong, or finds nothing in any name.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--group_by {pattern!r} is no regular expression: {error}.") from None
    grouped = []
    for candidate in candidates:
        place = candidate.name
        found = compiled.search(os.path.basename(place)) or compiled.search(place)
        group = (found[1] if compiled.groups else found[0]) if found else None
        grouped.append(replace(candidate, group=group or ""))
    if candidates and not any(candidate.group for candidate in grouped):
        raise UserError(
            f"--group_by {pattern!r} finds no group in any file name, such as "
            f"{candidates[0].name}: give a regular expression that does."
        )
    return grouped


def set_aside(
    candidates: Sequence[Candidate],
    classes: Sequence[str],
    fractions: dict[str, float],
    seed: int,
) -> list[Candidate]:
    """Moves a fraction of the images of each class from train to another split.

    Args:
      candidates: the candidates, labelled.
      classes: class names, in label order.
      fractions: fraction of train by split.
      seed: seed of the choice.

    Raises:
      UserError: there is such a split already.
    """
    moved = list(candidates)
    splits = {candidate.split for candidate in candidates}
    left = 1.0
    for split, fraction in fractions.items():
        if not fraction:
            continue
        if split in splits:
            raise UserError(
                f"the source has a {split} split already: leave --{split}_fraction out."
            )
        places = [place for place, one in enumerate(moved) if one.split == "train"]
        labels = np.array([classes.index(moved[place].label) for place in places], int)
        groups = [moved[place].group for place in places]
        # Without the small addition, rounding could turn 3 of 10 images into 2.
        share = fraction / left + 1e-9
        _, aside = stratified_split(labels, share, groups if any(groups) else None, seed=seed)
        for index in aside:
            moved[places[index]] = replace(moved[places[index]], split=split)
        left -= fraction
    return moved
