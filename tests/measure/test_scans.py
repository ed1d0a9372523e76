"""Scans visit every cell once, and can be undone; Hilbert's goes from neighbour to neighbour."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokjax.core.errors import SourceError, SpecError, UnknownNameError
from tokjax.measure.scans import SCANS, patches, scan, scan_order, unscan

SIDE = st.integers(1, 24)


def steps(order, height, width):
    """Absolute steps down and across, int [H W - 1, 2]."""
    return np.abs(np.diff(np.stack(np.divmod(scan_order(order, height, width), width), axis=1), axis=0))


@given(SIDE, SIDE, st.sampled_from(SCANS), st.integers(1, 5))
def test_scans_are_permutations_and_invert(height, width, order, window):
    grid = np.arange(2 * height * width).reshape(2, height, width)
    stream = scan(grid, order, window=window)
    assert stream.shape == (2, height * width)
    assert sorted(stream[0]) == list(range(height * width))
    np.testing.assert_array_equal(unscan(stream, order, height, width, window=window), grid)


@given(SIDE, SIDE)
def test_hilbert_goes_from_neighbour_to_neighbour(height, width):
    moved = steps("hilbert", height, width)
    diagonal = moved.sum(axis=1) != 1
    longer_odd = max(height, width) % 2 == 1 and min(height, width) % 2 == 0
    assert diagonal.sum() <= longer_odd
    assert (moved[diagonal] == 1).all()


@given(SIDE, SIDE)
def test_boustrophedon_goes_from_neighbour_to_neighbour(height, width):
    assert (steps("boustrophedon", height, width).sum(axis=1) == 1).all()


def test_hilbert_keeps_neighbours_close():
    """In a square of side 2^k, any 4^j consecutive cells from a multiple of 4^j on are a square."""
    rows, columns = np.divmod(scan_order("hilbert", 16, 16), 16)
    for size in (4, 16, 64):
        for part in (rows.reshape(-1, size), columns.reshape(-1, size)):
            assert (np.ptp(part, axis=1) + 1 == np.sqrt(size)).all()


def test_small_orders_by_hand():
    grid = np.arange(12).reshape(3, 4)
    assert scan(grid, "raster").tolist() == list(range(12))
    assert scan(grid, "boustrophedon").tolist() == [0, 1, 2, 3, 7, 6, 5, 4, 8, 9, 10, 11]
    assert scan(grid, "column").tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]
    assert scan(grid, "windows").tolist() == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 10, 11]
    assert scan(grid[:2, :2], "hilbert").tolist() == [0, 4, 5, 1]


def test_patches_are_the_windows_of_the_grid():
    grid = np.arange(24).reshape(2, 3, 4)
    found = patches(grid, 2, 3)
    assert found.shape == (2, 4, 6)
    assert found[0].tolist() == [[0, 1, 2, 4, 5, 6], [1, 2, 3, 5, 6, 7], [4, 5, 6, 8, 9, 10], [5, 6, 7, 9, 10, 11]]


def test_errors():
    with pytest.raises(UnknownNameError, match="Did you mean 'hilbert'"):
        scan_order("hilbrt", 2, 2)
    with pytest.raises(SpecError, match="window: got 0"):
        scan_order("windows", 2, 2, window=0)
    with pytest.raises(SpecError, match="grid"):
        scan_order("raster", 0, 2)
    with pytest.raises(SourceError, match="reshape it first"):
        scan(np.arange(4), "raster")
    with pytest.raises(SourceError, match="needs 6 tokens"):
        unscan(np.arange(4), "raster", 2, 3)
    with pytest.raises(SourceError, match="No window of 2 by 2 fits"):
        patches(np.zeros((1, 5), int))
    with pytest.raises(ValueError, match="read-only"):
        scan_order("raster", 2, 2)[0] = 1
