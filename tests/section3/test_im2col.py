"""im2col and col2im: against a loop, and against each other as transposes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from section3.im2col import Pair, col2im, im2col, output_size, pad, pair, windows


class Geometry(NamedTuple):
    """Images (N, H, W, C), and how a window walks over them."""

    shape: tuple[int, ...]
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)

    @property
    def walk(self) -> tuple[Pair, Pair, Pair, Pair]:
        return self.kernel, self.stride, self.padding, self.dilation


def pairs(least: int, most: int) -> st.SearchStrategy[Pair]:
    return st.tuples(st.integers(least, most), st.integers(least, most))


@st.composite
def geometries(draw: st.DrawFn, pool: bool = False) -> Geometry:
    """Any geometry that holds a window; for a `pool`, one that a pool allows."""
    kernel, stride = draw(pairs(1, 3 if pool else 4)), draw(pairs(1, 3))
    dilation = (1, 1) if pool else draw(pairs(1, 3))
    most = (kernel[0] // 2, kernel[1] // 2) if pool else (4, 4)
    padding = draw(st.integers(0, most[0])), draw(st.integers(0, most[1]))
    least = [max(1, d * (k - 1) + 1 - 2 * p) for k, p, d in zip(kernel, padding, dilation)]
    h, w = (n + draw(st.integers(0, 4)) for n in least)
    shape = draw(st.integers(1, 3)), h, w, draw(st.integers(1, 3))
    return Geometry(shape, kernel, stride, padding, dilation)


GEOMETRIES = [
    Geometry((2, 5, 5, 2), (3, 3)),
    Geometry((1, 1, 1, 1), (1, 1)),
    Geometry((2, 7, 5, 3), (3, 5), padding=(1, 2)),
    Geometry((2, 6, 7, 1), (2, 3), stride=(3, 2)),
    Geometry((1, 3, 3, 2), (2, 2), padding=(4, 3)),
    Geometry((2, 8, 7, 2), (3, 2), (2, 1), (1, 3), (2, 3)),
]
geometry_cases = pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)


def some(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def columns_by_loop(x: np.ndarray, geometry: Geometry) -> np.ndarray:
    kernel, (sh, sw), (ph, pw), (dh, dw) = geometry.walk
    x = np.pad(x, ((0, 0), (ph, ph), (pw, pw), (0, 0)))
    _, h, w, channels = x.shape
    return np.array(
        [
            [
                image[top + i * dh, left + j * dw, c]
                for i, j, c in np.ndindex(*kernel, channels)
            ]
            for image in x
            for top in range(0, h - dh * (kernel[0] - 1), sh)
            for left in range(0, w - dw * (kernel[1] - 1), sw)
        ]
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(geometry=geometries())
def test_im2col_is_the_loop_and_col2im_its_transpose(geometry: Geometry) -> None:
    x = some(geometry.shape)
    columns = im2col(x, *geometry.walk)
    np.testing.assert_array_equal(columns, columns_by_loop(x, geometry))
    others = some(columns.shape, seed=1)
    back = col2im(others, x.shape, *geometry.walk)
    assert back.shape == x.shape
    assert np.vdot(columns, others) == pytest.approx(np.vdot(x, back), rel=1e-12, abs=1e-12)


@geometry_cases
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_is_kept(geometry: Geometry, dtype: type) -> None:
    columns = im2col(some(geometry.shape).astype(dtype), *geometry.walk)
    assert columns.dtype == dtype
    assert col2im(columns, geometry.shape, *geometry.walk).dtype == dtype


@geometry_cases
def test_col2im_counts_the_windows_of_each_pixel(geometry: Geometry) -> None:
    """From the ones of im2col come back whole numbers: how often each pixel was copied."""
    pixels = np.arange(1.0, 1 + np.prod(geometry.shape)).reshape(geometry.shape)
    copies = im2col(pixels, *geometry.walk)
    counts = col2im(np.ones_like(copies), geometry.shape, *geometry.walk)
    expected = [(copies == pixel).sum() for pixel in pixels.ravel()]
    np.testing.assert_array_equal(counts.ravel(), expected)


def test_columns_of_a_small_image() -> None:
    x = np.arange(1.0, 10).reshape(1, 3, 3, 1)
    columns = [[1, 2, 4, 5], [2, 3, 5, 6], [4, 5, 7, 8], [5, 6, 8, 9]]
    np.testing.assert_array_equal(im2col(x, (2, 2)), columns)
    sums = [[1, 4, 3], [8, 20, 12], [7, 16, 9]]  # the middle lies in four windows
    np.testing.assert_array_equal(col2im(np.array(columns), x.shape, (2, 2))[0, :, :, 0], sums)


def test_windows_are_a_view() -> None:
    x = some((2, 6, 7, 3))
    view = windows(x, (3, 2), (2, 1), (1, 3))
    assert view.shape == (2, 2, 4, 3, 2, 3)
    assert np.shares_memory(view, x) and not view.flags.writeable
    x[...] = some(x.shape, seed=1)  # the view sees the change
    expected = columns_by_loop(x, Geometry(x.shape, (3, 2), (2, 1), (0, 0), (1, 3)))
    np.testing.assert_array_equal(view.reshape(16, -1), expected)
    turned = x.transpose(0, 2, 1, 3)  # any strides will do
    assert np.shares_memory(windows(turned, (3, 2)), x)
    np.testing.assert_array_equal(
        windows(turned, (3, 2)).reshape(2 * 5 * 5, -1),
        columns_by_loop(turned, Geometry(turned.shape, (3, 2))),
    )


@pytest.mark.parametrize("value", [0.0, -np.inf])
@pytest.mark.parametrize("padding", [(0, 0), (1, 2), (-1, 2), (2, -1), (-2, -1)])
def test_pad_adds_or_cuts_rows_and_columns(padding: Pair, value: float) -> None:
    x = some((2, 5, 4, 3))
    wide = np.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0)), constant_values=value)
    top, left = 3 - padding[0], 3 - padding[1]
    expected = wide[:, top : 11 - top, left : 10 - left]
    padded = pad(x, padding, value)
    np.testing.assert_array_equal(padded, expected)
    assert not np.shares_memory(padded, x)
    out = np.full(expected.shape, np.nan)
    assert pad(x, padding, value, out) is out
    np.testing.assert_array_equal(out, expected)


def test_a_pair() -> None:
    assert pair(3, "kernel") == pair((3, 3), "kernel") == (3, 3)
    assert pair(np.int64(3), "kernel") == (3, 3)  # type: ignore[arg-type]
    assert pair((2, 5), "kernel") == (2, 5) and pair(0, "padding", least=0) == (0, 0)


@pytest.mark.parametrize("value", [0, -1, (0, 1), (1, 2, 3), (1,), 2.5, (1, 2.5), "ab", None])
def test_what_is_no_pair(value: object) -> None:
    with pytest.raises(ValueError, match="stride must be one or two whole numbers of at least 1"):
        pair(value, "stride")  # type: ignore[arg-type]


def test_windows_that_do_not_fit() -> None:
    assert output_size((5, 4), (3, 3), (2, 1), (1, 0), (1, 1)) == (3, 2)
    with pytest.raises(ValueError, match=r"window of 5x4 .* input of 4x9 padded to 4x11"):
        output_size((4, 9), (3, 4), (1, 1), (0, 1), (2, 1))
