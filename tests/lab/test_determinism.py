"""What is promised of bits: a trial's result depends on its settings alone, whatever is around it.

Elsewhere: any number of workers and alone (`test_runner`), cohorts (`test_cohorts`), interruptions
(`test_checkpoints`).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import weight_feedback
from weight_feedback.lab.tasks.notebook import training as notebook_training
from weight_feedback.lab.tasks.notebook.settings import NetworkTrial, Pooled, Projected, Training
from weight_feedback.lab.training.run import Options, run_cohort

SETTINGS = {"data": "generated", "seed": 1}
TRAINING = Training(epochs=2, batch_size=250, lr=0.05)
COHORT = TRAINING.model_copy(update={"cohort": 2})
SUMMARY = Projected(k=8)
TRIALS = {
    "projected": NetworkTrial(**SETTINGS, model="mnist-projected", training=TRAINING),
    "yoked": NetworkTrial(
        **SETTINGS, model="mnist-plain", training=TRAINING, signal="yoked", summary=Projected(k=8)
    ),
    "cohort": NetworkTrial(
        **SETTINGS, model="mnist-plain", training=COHORT, signal="noise", summary=Projected(k=8)
    ),
    "cohort stale": NetworkTrial(
        **SETTINGS,
        model="mnist-plain",
        training=COHORT,
        signal="stale",
        summary=Pooled(k=26, kernels=((25, 22), (2, 25))),
    ),
}


class Cut(Exception):  # noqa: N818 - an interruption, not an error
    """Training is cut short here."""


def results(names: list[str], **options) -> dict[str, list[dict]]:
    return {
        name: [record.result for record in run_cohort(TRIALS[name].cohort(), Options(threads=1, **options))]
        for name in names
    }


@pytest.fixture(scope="module")
def expected() -> dict[str, list[dict]]:
    return results(list(TRIALS))


def test_neither_order_nor_global_state_matters(expected, monkeypatch) -> None:
    threads, seen = torch.get_num_threads(), []
    build = notebook_training.build_cohort

    def watched(*args):
        seen.append(torch.get_num_threads())
        return build(*args)

    monkeypatch.setattr(notebook_training, "build_cohort", watched)
    torch.set_num_threads(threads + 1)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 - the global state is what this is about
    random.seed(99)
    try:
        assert results(list(reversed(TRIALS))) == expected
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    # What is computed of initial weights isn't left to the caller's threads either.
    assert seen == [1] * len(TRIALS)


ELSEWHERE = """
import json, random, sys
import numpy, torch
from pathlib import Path
from weight_feedback.lab.tasks.notebook.settings import NetworkTrial
from weight_feedback.lab.training.run import Options, run_cohort
seed, folder, trials = json.loads(sys.argv[1])
random.seed(seed); numpy.random.seed(seed); torch.manual_seed(seed)
found, resumed = {}, []
for name, settings in trials:
    cohort = NetworkTrial.model_validate_json(settings).cohort()
    records = run_cohort(cohort, Options(threads=1, checkpoint=Path(folder) / name))
    found[name] = [record.result for record in records]
    resumed.append(records[0].provenance["resumed"])
print(json.dumps([found, resumed]))
"""


def start_elsewhere(seed: int, checkpoints: Path, names: list[str], cwd: Path, **environment) -> subprocess.Popen:
    trials = [(name, TRIALS[name].model_dump_json()) for name in names]
    source = Path(weight_feedback.__file__).parents[1]  # in another folder, a relative PYTHONPATH leads nowhere
    return subprocess.Popen(
        [sys.executable, "-c", ELSEWHERE, json.dumps([seed, str(checkpoints), trials])],
        stdout=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(source), **environment},
    )


def test_other_processes_at_once_in_other_surroundings_give_the_same_bits(expected, tmp_path) -> None:
    """One starts all trials, in another order; the other goes on with what was interrupted here."""

    def interrupt(*_: object) -> None:
        raise Cut

    cut, folder = tmp_path / "cut", tmp_path / "a folder 🙂"
    folder.mkdir()
    for name in TRIALS:
        with pytest.raises(Cut):
            results([name], checkpoint=cut / name, checkpoint_seconds=0, on_epoch=interrupt)
    names = list(TRIALS)
    processes = [
        start_elsewhere(1, tmp_path / "none", names[::-1], folder, PYTHONHASHSEED="1", LC_ALL="C", TZ="Asia/Tokyo"),
        start_elsewhere(
            2, cut, names, tmp_path, PYTHONHASHSEED="2", LC_ALL="C.UTF-8", TZ="America/Lima", OMP_NUM_THREADS="2"
        ),
    ]
    for process, times in zip(processes, (0, 1), strict=True):
        output, _ = process.communicate(timeout=300)
        found, resumed = json.loads(output)
        assert process.returncode == 0
        assert resumed == [times] * len(TRIALS)
        assert found == expected
