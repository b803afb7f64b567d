"""Settings of all tests."""

from __future__ import annotations

import torch
from hypothesis import Phase, settings

# The tests are spread over processes; more threads in each would only get into each other's way.
torch.set_num_threads(1)

# How long an example takes depends on what else the machine does.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")
# Of `mutants.py`, to which it is enough that there is an example.
settings.register_profile("mutants", deadline=None, phases=[Phase.explicit, Phase.generate])
