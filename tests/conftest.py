"""Settings of all tests."""

from __future__ import annotations

import os

# The tests are spread over processes; more threads in each would only get into each other's way: those of NumPy,
# which reads this when it is imported, and those of PyTorch.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import Phase, settings

torch.set_num_threads(1)

# How long an example takes depends on what else the machine does; and what is drawn must not decide whether someone
# else's change passes. `--hypothesis-profile=explore` draws anew each time.
settings.register_profile("tests", deadline=None, derandomize=True)
settings.load_profile("tests")
settings.register_profile("explore", deadline=None)
# Of `mutants.py`, to which it is enough that there is an example.
settings.register_profile("mutants", deadline=None, phases=[Phase.explicit, Phase.generate])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Let what a test draws, and its fixtures, depend on none that ran before it in the same process."""
    torch.manual_seed(0)
