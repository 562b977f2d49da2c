"""Votes of several annotators for one image."""

import math
import re
from collections.abc import Mapping, Sequence

from data_prep.images import RejectedError
from data_prep.label_map import Naming


def read_counts(cells: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """Returns the votes for each name.

    Args:
      cells: one cell such as "angry:3;happy:7" or "0 3 7", or one cell for each name.
      names: names of the classes in the order of the numbers; a cell with names needs none.

    Raises:
      RejectedError: they are no votes, or there are none.
    """
    if len(cells) == 1:
        parts = [part.strip() for part in re.split(r"[;|,]", cells[0]) if part.strip()]
        if parts and all(":" in part for part in parts):
            names, cells = zip(*(part.rsplit(":", 1) for part in parts), strict=True)
        else:
            cells = re.split(r"[\s;|,]+", cells[0].strip())
    if not names:
        raise RejectedError("votes without names: write angry:3;happy:7, or give a --label_map")
    if len(cells) != len(names) or len({*names}) != len(names):
        raise RejectedError(f"{len(cells)} votes for {len({*names})} classes")
    try:
        counts = {name: float(cell) for name, cell in zip(names, cells, strict=True)}
    except ValueError:
        raise RejectedError(f"votes {' '.join(cells)[:40]!r} are no numbers") from None
    if not all(number >= 0 and math.isfinite(number) for number in counts.values()):
        raise RejectedError(f"votes {' '.join(cells)[:40]!r} are not all from 0 up")
    if not any(counts.values()):
        raise RejectedError("no votes")
    return counts


def to_shares(counts: Mapping[str, float], naming: Naming) -> tuple[float, ...]:
    """Returns the share of all annotators that chose each class, in label order.

    Numbers that sum to at most 1 are shares already. Votes for names that are left out count as
    annotators. The shares sum to 0 if all votes are for such names.
    """
    shares = dict.fromkeys(naming.classes, 0.0)
    total = max(1.0, sum(counts.values()))
    for name, number in counts.items():
        if naming[name]:
            shares[naming[name]] += number / total
    return tuple(shares.values())
