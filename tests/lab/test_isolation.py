"""Each trial of somebody's own task has a process of its own: nothing that one leaves behind reaches the next."""

from __future__ import annotations

import io
import os
import re
import sys
import textwrap
from dataclasses import replace
from functools import partial
from pathlib import Path

import joblib
import pytest

from helpers.calls import dies, exits, forever, hangs, interrupts_itself, leaves_one, raises, speaks, typed, who
from helpers.child_processes import Forking, living, may_fork, wait_until
from weight_feedback import lab
from weight_feedback.lab.execution import isolation, runner, workers
from weight_feedback.lab.execution.isolation import ProcessDiedError, call_forked, call_fresh
from weight_feedback.lab.execution.progress import progress_files
from weight_feedback.lab.study.scripts import load_script

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="trials are forked on Linux alone"),
    may_fork,
]

CALLS = pytest.mark.parametrize("call", [call_forked, call_fresh])


@CALLS
def test_a_call_returns_and_raises_as_it_would_here(call) -> None:
    large = call(partial(who, 10**6), forever)
    assert large[0] != os.getpid()
    assert large[1] == b"x" * 10**6
    with pytest.raises(ValueError, match=r"'wrong', 3"):
        call(raises, forever)


@CALLS
@pytest.mark.parametrize(("work", "how"), [(dies, "SIGKILL"), (exits, "exit code 3")])
def test_a_process_that_dies_is_said(call, work, how) -> None:
    with pytest.raises(ProcessDiedError, match=rf"its process died \({how}\)"):
        call(work, forever)


@CALLS
def test_a_process_that_nobody_waits_for_is_ended(call, monkeypatch) -> None:
    monkeypatch.setattr(isolation, "_SECONDS", 0.01)
    with pytest.raises(ProcessDiedError, match="SIGKILL"):
        call(hangs, lambda: False)


@CALLS
def test_what_it_starts_ends_with_it(call, tmp_path) -> None:
    child = call(partial(leaves_one, tmp_path / "group"), forever)
    group = int((tmp_path / "group").read_text())
    assert group != os.getpgid(0)
    wait_until(lambda: not living(group), f"the end of process {child}")


@CALLS
def test_nothing_is_typed_into_it(call) -> None:
    if call is call_fresh:
        pytest.skip("its standard input says whether this process lives")
    assert call(typed, forever) == b""


LEAKY = """
    import os, random
    import numpy as np
    import torch
    from weight_feedback import lab

    STATE = {"trials": 0}
    LOADED = []

    def prepare():
        LOADED.append(os.getpid())
        with open("prepared", "a") as file:
            print(os.getpid(), file=file)

    def train(trial: lab.Context, *, shift: float = 0.0, mode: str = "") -> dict[str, float]:
        found = [
            torch.get_default_dtype() is torch.float32, torch.get_num_threads() == 1, "LEFT" not in os.environ,
            os.getcwd() == HOME, STATE["trials"] == 0, len(LOADED) == 1, torch.is_grad_enabled(),
            os.getpid() not in seen(),
        ]
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(2)
        torch.set_grad_enabled(False)
        os.environ["LEFT"] = "1"
        os.chdir("/")
        STATE["trials"] += 1
        with open(HOME + "/pids", "a") as file:
            print(os.getpid(), file=file)
        if trial.seed == 1 and shift == 0:
            if mode == "kill":
                os.kill(os.getpid(), 9)
            if mode == "exit":
                raise SystemExit("given up")
        return {"dirty": found.count(False) + shift}

    HOME = os.getcwd()

    def seen():
        try:
            return [int(line) for line in open(HOME + "/pids")]
        except FileNotFoundError:
            return []

    study = lab.Study(
        name="leaky", title="Leaky", task=train, seeds=3, arms={"plain": {}, "shifted": {"shift": 1.0}},
        metrics={"dirty": lab.Metric("", better="lower")},
    )
"""


@pytest.fixture
def leaky(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "leaky.py").write_text(textwrap.dedent(LEAKY))
    yield load_script("leaky.py")
    sys.modules.pop("leaky", None)


def dirty(study: lab.Study, store: lab.Store) -> list[list[float]]:
    return [result.curves["dirty"][:, 0].tolist() for result in lab.analyse(study, store).arms]


@pytest.mark.parametrize(("jobs", "fork"), [(1, True), (2, True), (1, False)])
def test_nothing_reaches_the_next_trial(leaky, monkeypatch, jobs, fork) -> None:
    if not fork:
        monkeypatch.setattr(workers, "may_fork", lambda _: False)
    store = lab.Store("out")
    seeds = None if fork else 1
    assert lab.run(leaky, store, jobs=jobs, seeds=seeds) == 2 * (seeds or 3)
    assert dirty(leaky, store) == [[0.0] * (seeds or 3), [1.0] * (seeds or 3)]
    prepared = Path("prepared").read_text().split()
    assert len(prepared) == len({*prepared})
    # Each of these processes runs several trials, or is one of them.
    assert len(prepared) <= jobs if fork else len(prepared) == 2


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("kill", r"its process died \(SIGKILL\), killed from outside or because memory ran out, 2 times"),
        ("exit", "failed: .*SystemExit: given up"),
    ],
)
def test_a_trial_that_ends_its_process_fails_alone(leaky, mode, said) -> None:
    study = lab.Study(**{**leaky.model_dump(), "mode": mode})
    store = lab.Store("out")
    with pytest.warns(UserWarning, match="leaky-train-seed-00001-") as warned:
        lab.run(study, store, jobs=1, retries=1)
    assert any(re.search(said, str(one.message)) for one in warned)
    missing = [(arm.name, trial.seed) for arm, trial in study.trials() if not store.finished(trial)]
    assert missing == [("plain", 1)]


def test_workers_that_have_another_version_of_the_file_stop_the_run(leaky, tmp_path) -> None:
    text = (tmp_path / "leaky.py").read_text()
    (tmp_path / "leaky.py").write_text(text.replace("found.count(False)", "2 * found.count(False)"))
    with pytest.raises(ValueError, match="leaky:train: its code has changed since the run began"):
        lab.run(leaky, lab.Store("out"), jobs=2)
    assert not list(lab.Store("out").trials.glob("*.json"))


def test_an_edited_helper_module_reaches_the_workers_of_the_next_run(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    text = textwrap.dedent(ON_GPUS).replace("import os", "import own_helper")
    text = text.replace('os.environ["CUDA_VISIBLE_DEVICES"]', "own_helper.VALUE")
    (tmp_path / "with_helper.py").write_text(text)
    try:
        for value in ("first", "second"):
            (tmp_path / "own_helper.py").write_text(f"VALUE = {value!r}")
            study, store = load_script("with_helper.py"), lab.Store(value)
            lab.run(study, store, jobs=2, device="cpu")
            kept = {store.read(trial).result["kept"]["gpu"] for _, trial in study.trials()}
            assert kept == {value}
            sys.modules.pop("own_helper"), sys.modules.pop("with_helper")
    finally:
        for name in ("own_helper", "with_helper"):
            sys.modules.pop(name, None)


def test_a_failing_prepare_is_each_trials_failure(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    text = textwrap.dedent(LEAKY).replace("LOADED.append(os.getpid())", "raise OSError('no data')")
    (tmp_path / "leaky.py").write_text(text)
    try:
        study = load_script("leaky.py")
        with pytest.warns(UserWarning, match="failed: leaky-train-seed-00000-.*: OSError: no data"):
            lab.run(study, lab.Store("out"), jobs=1, seeds=1)
    finally:
        sys.modules.pop("leaky", None)


class Locked(io.StringIO):
    """A stream that no other process can write to, as one whose lock a thread holds."""

    def __init__(self) -> None:
        super().__init__()
        self.owner = os.getpid()

    def write(self, text: str) -> int:
        assert os.getpid() == self.owner
        return super().write(text)


def test_a_forked_process_writes_to_streams_of_its_own(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdout", Locked())
    monkeypatch.setattr(sys, "stderr", Locked())
    assert call_forked(speaks, forever) == 7


@CALLS
def test_an_interrupt_within_it_is_an_error_with_its_traceback(call) -> None:
    with pytest.raises(RuntimeError, match="KeyboardInterrupt: enough") as raised:
        call(interrupts_itself, forever)
    assert "in interrupts_itself" in raised.value.__notes__[0]


def test_a_worker_of_a_dead_run_begins_nothing(leaky, monkeypatch, tmp_path) -> None:
    with progress_files(tmp_path) as progress:
        worker = workers.Worker(leaky, lab.Store("out"), progress, None, "cpu", None, 60.0)
        assert worker._waited_for()()
        orphan = replace(worker, driver=1 + max(os.getpid(), os.getppid()))
        with pytest.raises(workers.RunOverError, match="has ended"):
            orphan.run_cohort(leaky.arms[0], [leaky.trial(leaky.arms[0], 0)])
        assert not Path("pids").exists()


def test_only_trials_on_a_cpu_are_forked() -> None:
    assert isolation.may_fork("cpu")
    assert not isolation.may_fork("cuda")
    assert not isolation.may_fork("cuda:1")


ON_GPUS = """
    import os
    from weight_feedback import lab

    def train(trial: lab.Context, *, shift: float = 0.0) -> dict[str, float]:
        trial.keep("gpu", os.environ["CUDA_VISIBLE_DEVICES"])
        return {"error": shift + trial.rng(str(shift)).normal()}

    study = lab.Study(
        name="gpus", title="GPUs", task=train, seeds=2, arms={"plain": {}, "shifted": {"shift": 1.0}},
        metrics={"error": lab.Metric("", better="lower")},
    )
"""


def test_trials_are_spread_over_gpus(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "on_gpus.py").write_text(textwrap.dedent(ON_GPUS))
    study, store = load_script("on_gpus.py"), lab.Store("out")
    # No GPU is needed to see which one a process is told to take.
    monkeypatch.setattr(runner, "_gpus", lambda *_: ("4", "7"))
    monkeypatch.setattr(workers, "may_fork", lambda _: False)
    monkeypatch.setattr(workers, "_GPUS", {})
    with joblib.parallel_config(backend=Forking()):
        lab.run(study, store, device="cpu", per_device=1)
    kept = {store.read(trial).result["kept"]["gpu"] for _, trial in study.trials()}
    assert kept == {"4", "7"}
    sys.modules.pop("on_gpus")


def test_gpus_are_named_as_this_process_sees_them(monkeypatch, leaky) -> None:
    monkeypatch.setattr(runner, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert runner._gpus(leaky, "cuda", False) == ("0", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-8f")
    assert runner._gpus(leaky, "cuda", False) == ("3", "GPU-8f")
    for study, device, elsewhere in (
        (leaky, "cpu", False),
        (leaky, "cuda", True),
        (lab.load_study("quick"), "cuda", False),
    ):
        with pytest.raises(ValueError, match="per_device: expected a task of your own, on GPUs of this machine"):
            runner._gpus(study, device, elsewhere)
