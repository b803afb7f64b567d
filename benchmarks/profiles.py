"""Where the time of a training step goes, on one thread: the operations that take most of it.

python benchmarks/profiles.py
"""

from __future__ import annotations

import torch
from torch.profiler import ProfilerActivity, profile

from timing import machine
from training import COHORT, STEPS, made_up
from weight_feedback.lab.tasks.notebook.lockstep import Lockstep
from weight_feedback.lab.tasks.notebook.networks import build, find_network
from weight_feedback.lab.tasks.notebook.settings import Training
from weight_feedback.lab.training.environment import keep_freed_memory, thread_count

NETWORKS = ["mnist-plain", "cifar10-plain"]
ROWS = 8


def profiled(network: str, cohort: int) -> None:
    """Train for an epoch, and print what took how long, each network's share a step.

    Args:
        network: a name.
        cohort: how many networks are trained as one.
    """
    data = made_up(find_network(network).data)
    models = [build(network, seed) for seed in range(cohort)]
    once = Training(epochs=1)
    Lockstep(models, data, once, range(cohort)).train_epoch()
    with profile(activities=[ProfilerActivity.CPU]) as measured:
        Lockstep(models, data, once, range(cohort)).train_epoch()
    operations = measured.key_averages()
    shares = {op.key: op.self_cpu_time_total / 1e3 / STEPS / cohort for op in operations}
    total = sum(shares.values())
    print(
        f"\n{network}, cohort of {cohort}: {total:.2f} ms a step and network, its part of one evaluation included"
    )
    for name, share in sorted(shares.items(), key=lambda item: -item[1])[:ROWS]:
        print(f"{name:>44}: {share:6.2f} ms, {share / total:4.0%}")


def main() -> None:
    """Profile both networks, alone and as the benchmark of training has them."""
    keep_freed_memory()
    print(machine())
    with thread_count(1):
        for network in NETWORKS:
            for cohort in sorted({1, COHORT[find_network(network).data]}):
                profiled(network, cohort)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
