"""Paired tests against SciPy's, the normal approximation, and numbers worked by hand."""

import numpy as np
import pytest
from scipy.stats import binomtest, chi2

from fer_jax.reporting.significance import holm, mcnemar, paired_difference


@pytest.mark.parametrize(("first", "second"), [(0, 1), (3, 3), (9, 2), (1, 12), (445, 47), (0, 0)])
def test_mcnemar_is_the_binomial_test(first, second):
    expected = binomtest(first, first + second).pvalue if first + second else 1
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_worked_by_hand():
    # Only one model is right on 6 images, the first on 1 of them: 2 * (1 + 6) / 2**6.
    assert mcnemar(1, 5) == pytest.approx(14 / 64)


def test_mcnemar_nears_the_corrected_chi_square():
    statistic = (abs(320 - 260) - 1) ** 2 / (320 + 260)
    assert mcnemar(320, 260) == pytest.approx(chi2.sf(statistic, 1), rel=0.01)


def test_mcnemar_errs_as_often_as_it_says():
    """For two equally good models p is below 5 % in some cases, but in at most 5 % of them."""
    random = np.random.default_rng(0)
    p_values = np.array([mcnemar(k, 200 - k) for k in random.binomial(200, 0.5, 2000).tolist()])
    assert 0.02 < (p_values < 0.05).mean() <= 0.05 + 0.01


def test_paired_difference_covers_the_truth():
    """In 500 comparisons with a model 4 points better, the 95 % interval misses about 25 times."""
    random = np.random.default_rng(1)
    n, missed = 2000, 0
    for _ in range(500):
        only_first, only_second, _ = random.multinomial(n, (0.12, 0.08, 0.8)).tolist()
        difference, low, high = paired_difference(only_first, only_second, n)
        assert low < difference < high
        missed += not low <= 0.04 <= high
    assert 12 <= missed <= 40


def test_holm_worked_by_hand():
    # 0.01 * 4, 0.02 * 3; 0.03 * 2 is no less than that; 0.04 * 1 may not fall below it.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.7, 0.9]) == [1, 1]
    assert holm([0.2]) == [0.2]
