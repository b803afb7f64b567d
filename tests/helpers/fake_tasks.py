"""Tasks that train nothing, or little: what they report is drawn, or fails, as their settings or files say."""

from __future__ import annotations

import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch

from helpers.limits import SECONDS as PATIENCE
from helpers.linear_regression import Regression
from helpers.linear_regression import Settings as Weighed
from weight_feedback.lab.study.study import Study
from weight_feedback.lab.tasks.base import Context, Metric, Plan, Task, Trial
from weight_feedback.lab.tasks.fields import Frozen


class Delay(Frozen):
    slower: float = 0.0
    stuck_from: int = 1000


class Seconds(Task):
    """Reports once how long something took; from a seed on, that it never ended."""

    metrics = {"seconds": Metric("s", "lower")}
    Settings = Delay

    def run(self, trial: Context) -> dict[str, float]:
        if trial.seed >= trial.settings.stuck_from:
            return {"seconds": math.inf}
        return {"seconds": 3 + trial.settings.slower + 0.1 * float(trial.rng("noise", trial.trial.key()).normal())}

    def plan(self, trial: Trial, data_dir: Path | None, device: object) -> Plan:
        return Plan(seconds=0.5)


class Shift(Frozen):
    shift: float = 0.0
    epochs: int = 4


class Three(Task):
    """Reports three metrics over some epochs, of which one is missing in every third trial."""

    metrics = {
        "test_loss": Metric("nats", "lower"),
        "validation_loss": Metric("nats", "lower", diverged=9.0),
        "memory": Metric("MB", "lower"),
    }
    Settings = Shift

    def run(self, trial: Context) -> dict[str, float]:
        drawn = trial.rng("noise", trial.trial.key())
        for epoch in trial.epochs(trial.settings.epochs):
            noise = 0.01 * drawn.normal(size=2)
            # On validation data the second epoch is best, on test data the last.
            validation = 1 + (epoch - 2) ** 2 + noise[0]
            trial.report(test_loss=3 - 0.5 * epoch + trial.settings.shift + noise[1], validation_loss=validation)
            trial.diagnose(size=float(epoch), gap=math.nan if epoch == 2 else 1.0)
        trial.keep("parameters", 7)
        return {} if trial.seed % 3 == 2 else {"memory": 100.0 + trial.seed}


class Marked(Weighed):
    marks: str
    """A folder."""


class Mortal(Regression):
    """Kills its process after its second epoch, once for each trial, unless a mark in a folder says that it did."""

    Settings = Marked

    def run(self, trial: Context) -> None:
        mark = Path(trial.settings.marks) / trial.trial.key()
        report, reported = trial.report, 0

        def killed(**metrics: float) -> None:
            nonlocal reported
            report(**metrics)
            reported += 1
            if reported == 3 and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)

        trial.report = killed
        super().run(trial)


class Troubled(Regression):
    """Counts how often each trial is run, and gets into the troubles that a folder has for it; see `Troubles`."""

    def run(self, trial: Context) -> None:
        if folder := os.environ.get(Troubles.variable):
            Troubles(Path(folder)).strike(trial.trial)
        super().run(trial)


class Troubles:
    """What trials of `TROUBLED` get into before they train, in whatever process they are run.

    Args:
        folder: made if need be. Tasks find it by the environment variable `Troubles.variable`.
    """

    variable = "TROUBLES_OF_FAKE_TASKS"

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.held, self._over = folder, folder / "held", folder / "over"

    def give(self, trial: Trial, *kinds: str) -> None:
        """Say what a trial gets into each time that it is run, names of methods, of which the last one stays."""
        (self.folder / f"{trial.file_name}.kinds").write_text("\n".join(kinds))

    def tried(self, trial: Trial) -> int:
        """Return how often a trial was run."""
        file = self.folder / f"{trial.file_name}.tried"
        return len(file.read_text()) if file.exists() else 0

    def end(self) -> None:
        """Let trials that are held go on, and have no more troubles."""
        self._over.touch()

    def strike(self, trial: Trial) -> None:
        with (self.folder / f"{trial.file_name}.tried").open("a") as file:
            file.write("x")
        kinds = self.folder / f"{trial.file_name}.kinds"
        if kinds.exists() and not self._over.exists():
            names = kinds.read_text().splitlines()
            getattr(self, names[min(self.tried(trial), len(names)) - 1])()

    def none(self) -> None:
        pass

    def fail(self) -> None:
        raise RuntimeError("no luck\nat all")

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def die_while_one_is_held(self) -> None:
        self._wait(self.held)
        self.die()

    def leave(self) -> None:
        os._exit(3)

    def leave_while_one_is_held(self) -> None:
        self._wait(self.held)
        self.leave()

    def lack_memory(self) -> None:
        raise MemoryError("no room")

    def lack_memory_in_torch(self) -> None:
        torch.empty(2**50)  # a pebibyte

    def hold(self) -> None:
        """Say so by a file, `held`, and wait for the end of all troubles."""
        self.held.touch()
        self._wait(self._over)

    def _wait(self, file: Path) -> None:
        end = time.monotonic() + PATIENCE
        while not file.exists():
            assert time.monotonic() < end, f"in {PATIENCE} s, not yet: {file}"
            time.sleep(0.01)


SECONDS, THREE, MORTAL, TROUBLED = Seconds(), Three(), Mortal(), Troubled()


def compare_ridges(**changes: Any) -> Study:
    """A study of two arms of `TROUBLED`, of which nothing is declared."""
    fields = {"name": "ridges", "title": "Ridges", "task": "helpers.fake_tasks:TROUBLED", "seeds": 2, "epochs": 2}
    return Study.model_validate({**fields, "arms": {"plain": {}, "ridge": {"ridge": 0.3}}, **changes})
