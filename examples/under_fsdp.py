"""FSDP2: weights in shards, feedback of all. Run: torchrun --standalone --nproc-per-node 2 examples/under_fsdp.py.

Prints the "loss of 2 processes", and what the "first block hears"; one process gives the same, to rounding.
"""

import argparse
import os

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.fsdp import fully_shard

import weight_feedback as wf


def main(steps: int) -> None:
    """Train on a part of each batch, as every process does."""
    dist.init_process_group()  # torchrun says who is who; gloo on CPUs, nccl on GPUs
    rank, size = dist.get_rank(), dist.get_world_size()
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if device.type != "cpu":
        torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]))
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)) for _ in range(4)]
    model = nn.Sequential(*blocks).to(device)
    # First attach, then shard: layers hear all weights, whichever process has them.
    wf.attach(model, into="*.0", reads="all", summary=wf.CountSketch(26, scale="calibrated"))
    for block in blocks:
        fully_shard(block)
    fully_shard(model)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    x = torch.randn(32, 64, generator=torch.Generator().manual_seed(1)).to(device)
    x, y = x[rank::size], x.square()[rank::size]
    wf.refresh(model)  # before the first forward, and whenever the weights have changed
    for _ in range(steps):
        optimiser.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimiser.step()
        wf.refresh(model)
        wf.advance(model)
    total = loss.detach() / size
    dist.all_reduce(total)
    if rank == 0:
        heard = wf.signals(model)["0.0"]()
        print(f"loss of {size} processes: {total:.4f}; first block hears z with norm {heard.norm():.3f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    main(parser.parse_args().steps)
