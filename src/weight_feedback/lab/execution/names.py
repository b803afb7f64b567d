"""The names of what can run trials, and of what can be told of them; for the command line, without either."""

from __future__ import annotations

from typing import Literal

BackendName = Literal["loky", "dask", "ray"]
TrackerName = Literal["tensorboard", "mlflow", "wandb"]
