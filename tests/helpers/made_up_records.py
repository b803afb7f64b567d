"""Records of trials, made up, for tests of the store."""

from __future__ import annotations

from weight_feedback.lab.store.store import Record
from weight_feedback.lab.study.trials import Swap
from weight_feedback.lab.tasks.notebook.settings import NetworkTrial, Projected, Training

TRIAL = NetworkTrial(data="generated", training=Training(epochs=1, batch_size=125), model="mnist-plain", seed=0)
OWN = TRIAL.model_copy(update={"signal": "own", "summary": Projected(k=2)})
SWAP = Swap(trial=OWN, heard="zeros")
PROVENANCE = {"host": "ä", "torch": "2"}


def record(trial: NetworkTrial | Swap, **changes: object) -> Record:
    kind = "swap" if isinstance(trial, Swap) else "trial"
    result = {
        kind: trial.settings(),
        "data": "0" * 64,
        "epochs": [{"accuracy": 97.3, "loss": -0.0}],
        "step_losses": [2.3, 1e-17],
    }
    return Record(result | changes, PROVENANCE)


RECORD = record(TRIAL)
