"""Benford's law holds where it must, and is refused where it does not."""

import numpy as np
import pytest

from tokjax.core.errors import SpecError, TokenizerError
from tokjax.measure.benford import LAW, benford, leading_digits


def test_leading_digits_are_exact_at_powers_of_ten():
    values = [10**k + d for k in range(1, 18) for d in (-1, 0, 1)]
    assert leading_digits(values).tolist() == [int(str(v)[0]) for v in values]
    assert leading_digits([1, 9, np.iinfo(np.int64).max]).tolist() == [1, 9, 9]


def test_powers_of_two_follow_the_law():
    found = benford([2**k for k in range(62)])
    assert LAW.sum() == pytest.approx(1.0)
    assert found.p_value > 0.5 and found.deviation < 0.02
    spread = benford((10 ** np.random.default_rng(0).uniform(0, 8, 20_000)).astype(np.int64) + 10**8)
    assert spread.p_value < 1e-9  # one added digit in front is all that is left


def test_the_law_is_accepted_and_the_uniform_refused():
    values = (10 ** np.random.default_rng(0).uniform(3, 8, 20_000)).astype(np.int64)
    assert benford(values).p_value > 0.01 and benford(values).deviation < 0.006
    uniform = benford(np.random.default_rng(0).integers(1, 10, 1000))
    assert uniform.p_value < 1e-9 and uniform.deviation > 0.015
    assert benford([5]).shares[4] == 1.0


def test_both_p_values_agree_on_many_counts():
    values = (10 ** np.random.default_rng(4).uniform(3, 6, 500)).astype(np.int64)
    drawn = benford(values, draws=4000)
    assert drawn.p_value == pytest.approx(benford(values).p_value, abs=0.04)  # 5 standard errors of 4000 draws
    assert benford(values, draws=99) == benford(values, draws=99)


def test_few_counts_have_an_exact_p_value():
    found = benford([9, 90], draws=20_000)
    # Only two nines, of all pairs of digits, lie as far from the law.
    assert found.p_value == pytest.approx(LAW[8] ** 2, abs=1e-3)


def test_errors():
    with pytest.raises(TokenizerError, match="at least 1"):
        benford([0, 4])
    with pytest.raises(SpecError, match="draws"):
        benford([1], draws=-1)
