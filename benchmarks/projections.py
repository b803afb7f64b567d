"""Projections of weights, timed against a stored matrix, a plain read of the weights, and scikit-learn.

python benchmarks/projections.py
"""

from __future__ import annotations

import argparse
import warnings
from functools import partial

import numpy as np
import torch
from sklearn.random_projection import GaussianRandomProjection, SparseRandomProjection

import weight_feedback as wf
from timing import Target, finish, interleaved, show
from weight_feedback.lab.training.environment import keep_freed_memory

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
        # By default, most weights are in none of its 460 sums; here each is in one, as in the sketch.
        once = SparseRandomProjection(K, density=1 / K, random_state=0).fit(x)
        gaussian = GaussianRandomProjection(K, random_state=0).fit(x)
    return interleaved(
        {
            "CountSketch": lambda: sketch(rows),
            "scikit-learn, sparse": lambda: sparse.transform(x),
            "scikit-learn, sparse, each weight once": lambda: once.transform(x),
            "scikit-learn, Gaussian": lambda: gaussian.transform(x),
            "dense, drawn again at each call": lambda: regenerated(rows.flatten()),
        },
        3,
    )


@torch.no_grad()
def main() -> None:
    """Measure, print, and check the targets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="rounds of the fast ones")
    repeats = parser.parse_args().repeats
    keep_freed_memory()
    w = torch.randn(SIZE)
    rows = w.view(1000, -1)
    sketch, dense = wf.CountSketch(K).bind({"w": rows}), wf.DenseProjection(K).bind({"w": rows})
    kronecker = wf.KroneckerProjection(K).bind({"w": rows})
    fast = interleaved(
        {
            "CountSketch, 860,000 → 460": lambda: sketch(rows),
            "w.sum()": w.sum,
            "KroneckerProjection": lambda: kronecker(rows),
            "DenseProjection": lambda: dense(rows),
            "dense, as the notebook stored it": partial(torch.matmul, w, torch.randn(SIZE, K)),
        },
        repeats,
    )
    slow = alternatives(sketch, rows)
    large = torch.from_numpy(np.random.default_rng(0).standard_normal(LARGE, dtype=np.float32)).view(1000, -1)
    whole = wf.CountSketch(K).bind({"w": large})
    read = interleaved({"CountSketch, 10⁸ → 460": lambda: whole(large), "w.sum(), 10⁸": large.sum}, 7)
    for name, value in {**fast, **slow, **read}.items():
        show(name, 1e3 * value, "ms")
    quick, total, _, ours_stored, stored = fast.values()
    ours, sparse, once, gaussian, regenerated_dense = slow.values()
    whole_sketch, whole_read = read.values()
    show("scikit-learn sparse, each weight once / CountSketch", once / ours, "times as long")
    show("DenseProjection / CountSketch", ours_stored / quick, "times as long")
    finish(
        [
            Target("the notebook's stored P / CountSketch, time", stored / quick, least=200),
            Target("CountSketch / stored P, memory", state_bytes(sketch) / state_bytes(dense), most=1 / 1000),
            Target("CountSketch / w.sum(), time", quick / total, most=12),
            Target("CountSketch of 10⁸ weights, share of read speed", whole_read / whole_sketch, least=0.25),
            Target("its state, bytes a weight", state_bytes(whole) / LARGE, most=1.2),
            Target("scikit-learn, sparse / CountSketch, time", sparse / ours, least=20),
            Target("scikit-learn, Gaussian / CountSketch, time", gaussian / ours, least=20),
            Target("dense, drawn again / CountSketch, time", regenerated_dense / ours, least=20),
        ]
    )


if __name__ == "__main__":
    main()
