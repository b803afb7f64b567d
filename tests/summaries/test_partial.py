"""Shares of a projection: what some rows contribute, wherever the tensors are cut."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import weight_feedback as wf

PROJECTIONS = {
    "count": lambda: wf.CountSketch(4),
    "count-many-buckets": lambda: wf.CountSketch(30),
    "count-several-nonzeros": lambda: wf.CountSketch(6, nonzeros=3, scale="xavier"),
    "dense": lambda: wf.DenseProjection(5),
    "kronecker": lambda: wf.KroneckerProjection(6, factors=(2, 3), scale="adjoint-isometry"),
    "calibrated": lambda: wf.CountSketch(5, scale="calibrated"),
}
SHAPES = [(7, 5), (9,), (4, 2, 3, 3), ()]
WEIGHTS = {
    f"w{index}": torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(index))
    for index, shape in enumerate(SHAPES)
}


@pytest.fixture(params=PROJECTIONS)
def projection(request) -> wf.Projection:
    return PROJECTIONS[request.param]().bind(WEIGHTS)


def shares(projection: wf.Projection, cuts: list[list[int]]) -> list[torch.Tensor]:
    """The shares of each tensor's rows, cut at these places."""
    found = []
    for index, (weight, places) in enumerate(zip(WEIGHTS.values(), cuts, strict=True)):
        rows = weight.reshape(weight.shape or 1)
        edges = [0, *sorted(min(place, len(rows)) for place in places), len(rows)]
        found += [projection.partial(index, rows[a:b], a) for a, b in itertools.pairwise(edges)]
    return found


@settings(max_examples=40)
@given(cuts=st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=4, max_size=4))
@pytest.mark.parametrize("kind", PROJECTIONS)
def test_shares_add_up(kind: str, cuts: list[list[int]]) -> None:
    projection = PROJECTIONS[kind]().bind(WEIGHTS)
    torch.testing.assert_close(
        torch.stack(shares(projection, cuts)).sum(0), projection(*WEIGHTS.values()), rtol=1e-12, atol=1e-12
    )


def test_a_share_is_that_of_its_rows_alone(projection) -> None:
    for index, (weight, start, end) in enumerate([(w, 1, 3) for w in list(WEIGHTS.values())[:3]]):
        alone = [torch.zeros_like(w) for w in WEIGHTS.values()]
        alone[index][start:end] = weight[start:end]
        torch.testing.assert_close(
            projection.partial(index, weight[start:end], start), projection(*alone), rtol=1e-12, atol=1e-12
        )


def test_shares_of_blocks_larger_than_the_sketch_reads_at_a_time() -> None:
    weights = {name: torch.randn(rows, 1024, dtype=torch.float64) for name, rows in (("a", 700), ("b", 900))}
    sketch = wf.CountSketch(10, nonzeros=2).bind(weights)
    found = sketch.partial(0, weights["a"], 0)
    for start, end in ((0, 1), (1, 899), (899, 900)):
        found = found + sketch.partial(1, weights["b"][start:end], start)
    torch.testing.assert_close(found, sketch(*weights.values()), rtol=1e-10, atol=1e-10)


def test_no_rows_have_no_share(projection) -> None:
    share = projection.partial(1, WEIGHTS["w1"][:0], 9)
    assert torch.equal(share, torch.zeros(projection.out_features, dtype=torch.float64))


@pytest.mark.parametrize(
    ("index", "shape", "start"), [(0, (2, 4), 0), (0, (2, 5), 6), (1, (2, 1), 0), (1, (3,), -1), (3, (2,), 0)]
)
def test_what_are_no_rows_is_refused(projection, index: int, shape: tuple[int, ...], start: int) -> None:
    with pytest.raises(ValueError, match=rf"partial: w{index} has shape \[.*\], got rows of shape .* from row"):
        projection.partial(index, torch.zeros(shape, dtype=torch.float64), start)
