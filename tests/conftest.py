"""Settings of all tests."""

from __future__ import annotations

import torch
from hypothesis import settings

# The tests are spread over processes; more threads in each would only get into each other's way.
torch.set_num_threads(1)

# How long an example takes depends on what else the machine does.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")
