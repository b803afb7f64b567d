"""Projections of weights, timed against a stored matrix, a plain read of the weights, and scikit-learn.

python benchmarks/projections.py
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import torch
from sklearn.random_projection import GaussianRandomProjection, SparseRandomProjection

import weight_feedback as wf
from timing import Target, finish, interleaved

#: What the notebook's CIFAR-10 network reads, about, and hears.
SIZE, K = 860_000, 460
LARGE = 100_000_000
BLOCK = 20_000


def state_bytes(summary: wf.Summary) -> int:
    """Return the memory that a summary keeps.

    Args:
        summary: bound.
    """
    return sum(buffer.numel() * buffer.element_size() for buffer in summary.buffers())


def regenerated(weights: torch.Tensor) -> torch.Tensor:
    """Project by a dense matrix that is drawn again, block by block, at every call.

    Args:
        weights: shape ``[D]``.
    """
    z = torch.zeros(K)
    generator = torch.Generator()
    for index, block in enumerate(weights.split(BLOCK)):
        generator.manual_seed(index)
        z += torch.randn(K, len(block), generator=generator) @ block
    return z


@torch.no_grad()
def alternatives(sketch: wf.CountSketch, rows: torch.Tensor) -> dict[str, float]:
    """Time scikit-learn's maps and a regenerated one against the sketch.

    Args:
        sketch: bound.
        rows: the weights.
    """
    x = rows.numpy().reshape(1, -1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparse = SparseRandomProjection(K, random_state=0).fit(x)
        gaussian = GaussianRandomProjection(K, random_state=0).fit(x)
    return interleaved(
        {
            "sketch": lambda: sketch(rows),
            "sparse": lambda: sparse.transform(x),
            "gaussian": lambda: gaussian.transform(x),
            "regenerated": lambda: regenerated(rows.flatten()),
        },
        3,
    )


@torch.no_grad()
def main() -> None:
    """Measure, print, and check the targets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=25, help="rounds of the fast ones")
    repeats = parser.parse_args().repeats
    w = torch.randn(SIZE)
    rows = w.view(1000, -1)
    sketch, dense = wf.CountSketch(K).bind({"w": rows}), wf.DenseProjection(K).bind({"w": rows})
    kronecker = wf.KroneckerProjection(K).bind({"w": rows})
    fast = interleaved(
        {
            "sketch": lambda: sketch(rows),
            "sum": w.sum,
            "kronecker": lambda: kronecker(rows),
            "dense": lambda: dense(rows),
        },
        repeats,
    )
    slow = alternatives(sketch, rows)
    large = torch.from_numpy(np.random.default_rng(0).standard_normal(LARGE, dtype=np.float32)).view(1000, -1)
    whole = wf.CountSketch(K).bind({"w": large})
    read = interleaved({"sketch": lambda: whole(large), "sum": large.sum}, 5)
    for name, seconds in {**fast, **{f"{name} (slow round)": s for name, s in slow.items()}}.items():
        print(f"{name:>24}: {1e3 * seconds:10.3f} ms")
    finish(
        [
            Target("dense P / CountSketch, time", fast["dense"] / fast["sketch"], least=200),
            Target("CountSketch / dense P, memory", state_bytes(sketch) / state_bytes(dense), most=1 / 1000),
            Target("CountSketch / w.sum()", fast["sketch"] / fast["sum"], most=12),
            Target("sum / CountSketch, 10⁸ weights", read["sum"] / read["sketch"], least=0.25),
            Target("state, bytes a weight", state_bytes(whole) / LARGE, most=1.2),
            Target("sklearn sparse / CountSketch", slow["sparse"] / slow["sketch"], least=20),
            Target("sklearn Gaussian / CountSketch", slow["gaussian"] / slow["sketch"], least=20),
            Target("regenerated dense / CountSketch", slow["regenerated"] / slow["sketch"], least=20),
        ]
    )


if __name__ == "__main__":
    main()
