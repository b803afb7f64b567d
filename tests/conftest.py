"""Settings of all tests."""

from __future__ import annotations

import torch

# The tests are spread over processes; more threads in each would only get into each other's way.
torch.set_num_threads(1)
