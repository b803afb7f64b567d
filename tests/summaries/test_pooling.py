from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import weight_feedback as wf
from helpers import reference

ONE = torch.tensor([[1.0, 5, 2, -1, 9], [3, 0, -7, 4, 9], [8, 8, 8, 8, 8]])
TWO = torch.tensor([[6.0, -2, -3, -4], [-5, -6, 7, -8]])


def z(summary: wf.Summary, *weights: torch.Tensor) -> list[float]:
    named = {f"w{index}": weight for index, weight in enumerate(weights)}
    return summary.bind(named)(*weights).tolist()


def test_max_by_hand() -> None:
    assert z(wf.MaxPool([(2, 2)]), ONE) == [5, 4]
    assert z(wf.MaxPool([(1, 3)]), ONE) == [5, 3, 8]
    assert z(wf.MaxPool([(3, 5)]), ONE) == [9]


def test_average_by_hand() -> None:
    assert z(wf.AvgPool([(2, 2)]), ONE) == [9 / 4, -2 / 4]
    assert z(wf.AvgPool([(2, 1)], transpose=[True]), TWO) == [0.5, -4, 2, -6]


def test_joined_along_columns_then_flattened() -> None:
    # [[5, 2], [8, 8]] beside [[6, -3], [-5, 7]], row by row.
    tall = torch.tensor([[1.0, 5, 2, -1], [8, 8, 8, 8]])
    assert z(wf.MaxPool([(1, 2), (1, 2)]), tall, TWO) == [5, 2, 6, -3, 8, 8, -5, 7]
    assert z(wf.MaxPool([(1, 2), (1, 2)], transpose=[True, False]), tall, TWO) == [5, 8, 6, -3, 2, 8, -5, 7]
    assert z(wf.MaxPool([(1, 2), (1, 2)], transpose=[False, True]), tall, TWO) == [5, 2, 6, -5, 8, 8, -3, 7]


def test_padding_stands_at_the_end() -> None:
    summary = wf.MaxPool([(2, 2)], 5, fill=0.25)
    assert z(summary, ONE) == [5, 4, 0.25, 0.25, 0.25]
    assert summary.padding == 3
    assert z(wf.MaxPool([(2, 2)], 3), ONE) == [5, 4, 1]


def test_size_is_known_once_bound() -> None:
    summary = wf.AvgPool([(1, 1)])
    assert summary.out_features is None
    summary.bind({"w": ONE})
    assert (summary.out_features, summary.padding) == (15, 0)


def test_convolutions_are_read_as_matrices() -> None:
    weight = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    assert z(wf.MaxPool([(2, 4)]), weight) == z(wf.MaxPool([(2, 4)]), weight.reshape(4, 12))
    assert z(wf.MaxPool([(2, 4)]), weight)[1] == weight[:2, 1].max()
    assert z(wf.MaxPool([(1, 2)]), torch.tensor([1.0, 2, 3])) == [2]
    assert z(wf.MaxPool([(1, 1)]), torch.tensor(4.0)) == [4]


def test_memory_layout_does_not_matter() -> None:
    weight = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    assert z(wf.MaxPool([(2, 4)]), weight.to(memory_format=torch.channels_last)) == z(wf.MaxPool([(2, 4)]), weight)


def test_left_over_rows_and_columns_stay_unread() -> None:
    # The notebook's: 60 rows in windows of 25, so rows 50 to 59 don't count.
    generator = torch.Generator().manual_seed(0)
    fc1, fc2 = torch.randn(60, 186, generator=generator), torch.randn(10, 60, generator=generator)
    summary = wf.MaxPool([(25, 31), (2, 25)], 26, transpose=[False, True])
    summary.bind({"fc1": fc1, "fc2": fc2})
    assert summary.padding == 4
    before = summary(fc1, fc2)
    fc1[50:] = 100
    fc2[:, 50:] = 100
    assert torch.equal(summary(fc1, fc2), before)
    fc1[49, 0] = 100  # the last row that counts: the second of two rows of 6 + 5 windows
    assert summary(fc1, fc2)[11] == 100


@pytest.mark.parametrize("kind", [wf.MaxPool, wf.AvgPool])
def test_errors(kind: type[wf.MaxPool] | type[wf.AvgPool]) -> None:
    name = kind.__name__
    with pytest.raises(ValueError, match=rf"{name}: kernel sizes must be at least 1, got \[\(2, 0\)\]"):
        kind([(2, 0)])
    for size in (0, -1, 2.5):
        with pytest.raises(ValueError, match=f"{name}: out_features must be a whole number .* got {size}"):
            kind([(1, 1)], size)
    with pytest.raises(ValueError, match="transpose needs one flag a kernel, got 1 flags for 2 kernels"):
        kind([(1, 1), (1, 1)], transpose=[True])
    with pytest.raises(ValueError, match=f"{name} has 1 kernels, but reads 2 tensors"):
        z(kind([(1, 1)]), ONE, TWO)
    with pytest.raises(ValueError, match=r"kernel \(2, 5\) is larger than w0, a 2x4 matrix"):
        z(kind([(2, 5)]), TWO)
    with pytest.raises(ValueError, match=r"kernel \(3, 4\) is larger than w0, a 2x4 matrix"):
        z(kind([(3, 4)]), TWO)
    with pytest.raises(ValueError, match=r"equal row counts .* got 3x5 and 2x4; change the kernels"):
        z(kind([(1, 1), (1, 1)]), ONE, TWO)
    with pytest.raises(ValueError, match="pooling gives 15 numbers, more than out_features=14"):
        z(kind([(1, 1)], 14), ONE)


# match_dimensions


def test_matches_of_the_notebook() -> None:
    matches = wf.match_dimensions(160, 50, 10)
    assert wf.Match(dw=22, dx=26, padding=4, m=31, n=25) in matches
    assert wf.Match(dw=28, dx=29, padding=1, m=21, n=25) in matches
    assert matches == reference.match_dimensions(160, 50, 10, (10, 39), (10, 49), (10, 159))


@settings(max_examples=60)
@given(
    a=st.integers(1, 60),
    b=st.integers(1, 40),
    c=st.integers(1, 13),
    dx=st.tuples(st.integers(1, 30), st.integers(0, 40)),
    n=st.tuples(st.integers(1, 12), st.integers(0, 40)),
    m=st.tuples(st.integers(1, 12), st.integers(0, 40)),
)
def test_equals_brute_force(a, b, c, dx, n, m) -> None:
    matches = wf.match_dimensions(a, b, c, dx=dx, n=n, m=m)
    assert matches == reference.match_dimensions(a, b, c, dx, n, m)
    assert all(isinstance(number, int) for match in matches for number in match)


def test_default_ranges() -> None:
    assert wf.match_dimensions(60, 40, 6) == reference.match_dimensions(60, 40, 6, (10, 39), (10, 39), (10, 59))


def test_order() -> None:
    matches = wf.match_dimensions(160, 100, 10)
    assert len({match.n for match in matches}) > 1
    assert matches == sorted(matches, key=lambda match: (match.dx, match.n, match.m))


def test_odd_output_stays_unread() -> None:
    assert wf.match_dimensions(160, 50, 11) == wf.match_dimensions(160, 50, 10)


def test_solutions_can_be_built() -> None:
    for dw, dx, padding, m, n in wf.match_dimensions(160, 50, 9)[:20]:
        summary = wf.MaxPool([(n, m), (2, n)], dx, transpose=[False, True])
        summary.bind({"fc1": torch.zeros(50, 160 + dx), "fc2": torch.zeros(9, 50)})
        assert (summary.padding, dw + padding) == (padding, dx)


@pytest.mark.parametrize(
    ("name", "arguments", "ranges"),
    [
        ("a", (0, 5, 5), {}),
        ("b", (5, -1, 5), {}),
        ("c", (5, 5, 0), {}),
        ("dx", (5, 5, 5), {"dx": (0, 5)}),
        ("n", (5, 5, 5), {"n": (0, 5)}),
        ("m", (5, 5, 5), {"m": (-3, 5)}),
    ],
)
def test_match_errors(name, arguments, ranges) -> None:
    with pytest.raises(ValueError, match=f"match_dimensions: {name} must be at least 1, got"):
        wf.match_dimensions(*arguments, **ranges)
