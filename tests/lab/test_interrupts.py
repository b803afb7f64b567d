"""Ctrl-C and SIGTERM: what is finished is kept, how to go on is said, and no process is left."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from multiprocessing import resource_tracker

import pytest

from helpers.child_processes import Forking, fork_command, living, may_fork, wait_until
from helpers.limits import SECONDS
from helpers.studies import compare_networks, study_text
from weight_feedback.lab.commands import cli
from weight_feedback.lab.execution import jobs
from weight_feedback.lab.execution.interrupts import Interrupted, interruptible
from weight_feedback.lab.execution.runner import missing
from weight_feedback.lab.store.store import Store
from weight_feedback.lab.study.toml import load_study
from weight_feedback.lab.tasks.notebook.task import NOTEBOOK

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sends signals, and looks at /proc"),
    may_fork,
]

STUDY = compare_networks()


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "a study's.toml"  # a command line must quote it
    path.write_text(study_text(STUDY))
    return path


def hold_all_but_the_first(monkeypatch) -> None:
    train = type(NOTEBOOK).run_together

    def held(task, trials) -> None:
        if (trials[0].settings.model, trials[0].seed) != ("mnist-plain", 0):
            threading.Event().wait()
        train(task, trials)

    monkeypatch.setattr(type(NOTEBOOK), "run_together", held)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_finished_is_kept_and_how_to_go_on_is_said(tmp_path, monkeypatch, study, number) -> None:
    hold_all_but_the_first(monkeypatch)
    store = Store(tmp_path / "tiny")
    child = fork_command(["run", study, "--out", tmp_path, "--jobs", 2, "--device", "cpu"])
    wait_until(lambda: list(store.trials.glob("[!.]*")), "a finished trial")
    wait_until(lambda: len(list(store.folder.glob("progress/*/under-way/*"))) == 2, "two trials under way")
    os.kill(child.pid, number)
    code, out = child.end()
    assert code == 128 + number
    wait_until(lambda: not living(child.pid), "no process of the run")
    assert not (store.folder / "progress").exists()

    said, command = out.splitlines()[-1].split(" To go on: ")
    assert said == "stopped; what is finished is kept."
    assert len(missing(load_study(str(study)), store)) == 3
    monkeypatch.undo()
    program, *args = shlex.split(command)
    assert program == "weight-feedback"
    cli.main([*args, "--jobs", "1"])
    assert missing(load_study(str(study)), store) == []


def test_a_second_one_ends_it_at_once_whatever_it_waits_for(tmp_path, monkeypatch, study) -> None:
    resource_tracker.ensure_running()  # or else the run would start it, and have it among its processes
    hold_all_but_the_first(monkeypatch)
    waiting = tmp_path / "waiting"

    def wait(*_: object, **__: object) -> None:
        waiting.touch()
        threading.Event().wait()

    monkeypatch.setattr(Forking, "abort_everything", wait)
    store = Store(tmp_path / "tiny")
    child = fork_command(["run", study, "--out", tmp_path, "--jobs", 2, "--device", "cpu"])
    wait_until(lambda: len(list(store.folder.glob("progress/*/under-way/*"))) == 2, "two trials under way")
    os.kill(child.pid, signal.SIGINT)
    wait_until(waiting.exists, "an end that is waited for")
    assert len(living(child.pid)) == 3
    os.kill(child.pid, signal.SIGINT)
    assert child.end()[0] == 130
    wait_until(lambda: not living(child.pid), "no process of the run")


ENDS_AT_ONCE = """
import signal
import threading
from pathlib import Path
from joblib import Parallel, delayed
from joblib._parallel_backends import LokyBackend
from weight_feedback.lab.execution.interrupts import interruptible

def hold(name):
    Path(FOLDER, name).touch()
    signal.pause()

def wait(*_, **__):
    Path(FOLDER, "waiting").touch()
    threading.Event().wait()

LokyBackend.abort_everything = wait
signal.signal(signal.SIGINT, signal.default_int_handler)  # which the test runner's shell may ignore
with interruptible():
    Parallel(n_jobs=2)(delayed(hold)(f"held-{i}") for i in range(2))
"""


def test_a_second_one_ends_the_processes_that_users_have(tmp_path) -> None:
    command = [sys.executable, "-c", f"FOLDER = {str(tmp_path)!r}\n{ENDS_AT_ONCE}"]
    run = subprocess.Popen(command, start_new_session=True)
    try:
        wait_until(lambda: len(list(tmp_path.glob("held-*"))) == 2, "two workers that do something")
        run.send_signal(signal.SIGINT)
        wait_until((tmp_path / "waiting").exists, "an end that is waited for")
        run.send_signal(signal.SIGINT)
        assert run.wait(SECONDS) == 130
        wait_until(lambda: not living(run.pid), "no process of the run")
    finally:
        if living(run.pid):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()


def test_one_that_comes_between_the_results_of_workers_leaves_none(tmp_path, monkeypatch, study) -> None:
    hold_all_but_the_first(monkeypatch)

    @contextmanager
    def interrupted():
        yield
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr(jobs, "interrupts_blocked", interrupted)
    child = fork_command(["run", study, "--out", tmp_path, "--jobs", 2, "--device", "cpu"])
    code, out = child.end()
    assert code == 130
    wait_until(lambda: not living(child.pid), "no process of the run")
    assert "To go on: " in out.splitlines()[-1]


STARTS_WORKERS = """
import signal
from joblib import Parallel, delayed
from weight_feedback.lab.execution.interrupts import interrupts_blocked

with interrupts_blocked():
    print(Parallel(n_jobs=2)([delayed(signal.pthread_sigmask)(signal.SIG_BLOCK, []) for _ in range(2)]))
print(signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""


def test_workers_are_deaf_from_their_start() -> None:
    # A process of its own, in which joblib has started nothing yet.
    found = subprocess.run([sys.executable, "-c", STARTS_WORKERS], check=True, capture_output=True, text=True)
    deaf = {signal.SIGINT}
    assert found.stdout.splitlines() == [str([deaf, deaf]), str(set())]


def test_other_commands_keep_nothing(capsys, monkeypatch) -> None:
    monkeypatch.setattr("weight_feedback.lab.training.run.run_trial", lambda *_, **__: terminate())
    with pytest.raises(SystemExit) as caught:
        cli.main(["train", "mnist-plain", "--data", "generated"])
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert caught.value.code == 143
    assert capsys.readouterr().err == "stopped\n"


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait()


def test_signals_are_handled_only_where_nobody_else_does() -> None:
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
            with pytest.raises(Interrupted, match="SIGTERM"):
                terminate()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with interruptible():
            pass
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, usual)


def test_another_thread_handles_no_signals() -> None:
    found = []

    def work() -> None:
        with interruptible():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]
