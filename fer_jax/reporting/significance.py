"""Tests whether two models differ by more than chance on the same images."""

import math
from collections.abc import Sequence

import numpy as np


def mcnemar(only_first: int, only_second: int) -> float:
    """Returns the two-sided p-value of McNemar's exact (binomial) test; counts may be zero.

    McNemar, "Note on the Sampling Error of the Difference Between Correlated Proportions or
    Percentages" (1947).

    Args:
      only_first: number of images that only the first model predicts correctly.
      only_second: number of images that only the second model predicts correctly.
    """
    # scipy.stats.binomtest gives the same p-value but takes a second to import.
    from scipy.special import bdtr

    tail = bdtr(min(only_first, only_second), only_first + only_second, 0.5)
    return min(1.0, 2 * float(tail))


def paired_difference(only_first: int, only_second: int, n: int) -> tuple[float, float, float]:
    """Returns the first accuracy minus the second, and its 95 % interval, as fractions.

    This is Wald's interval for paired proportions. `n` is the number of images; the other
    arguments are those of `mcnemar`.
    """
    difference = (only_first - only_second) / n
    variance = (only_first + only_second) / n - difference**2
    margin = 1.959964 * math.sqrt(variance / n)
    return difference, difference - margin, difference + margin


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values adjusted for the number of tests, in the order given.

    Holm, "A Simple Sequentially Rejective Multiple Test Procedure" (1979).
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return adjusted.tolist()
