"""Strange surroundings: names, locales, closed streams, no network, no home, a wrong clock; real processes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from helpers.child_processes import stand_ins
from helpers.limits import SECONDS
from weight_feedback.lab.commands import cli
from weight_feedback.lab.commands.terminal import RunDisplay
from weight_feedback.lab.execution.progress import Progress
from weight_feedback.lab.execution.runner import run
from weight_feedback.lab.store.store import Store
from weight_feedback.lab.study.toml import load_study
from weight_feedback.lab.training import checkpoints

posix = pytest.mark.skipif(os.name != "posix", reason="closes streams, and sets a POSIX locale")

STUDY = """
name = "tiny"
title = "Größe − 🧪"
data = "mnist-5k"
seeds = 2
training = {epochs = 1, batch_size = 1000}
arms = [
  {name = "plain", model = "mnist-plain", label = "ohne − π"},
  {name = "pooled", model = "mnist-pooled", label = "w/"},
]
"""
MAIN = ("-c", "from weight_feedback.lab.commands.cli import main; main()")
#: 255 bytes, as many as file systems take.
LONGEST = "a study's 'ünd' 🧪 " + "x" * (255 - len("a study's 'ünd' 🧪 ".encode()))
#: Gives several commands in one process, in which sockets can't even be made.
COMMANDS = """
import json, sys

def refuse(event, args):
    if event.startswith("socket.") and event != "socket.gethostname":
        raise OSError(f"the network is blocked: {event}")

sys.addaudithook(refuse)
from weight_feedback.lab.commands.cli import main
for args in json.loads(sys.argv[1]):
    main(args)
"""
#: Gives several commands in one process, each with an output that nobody reads any more.
UNREAD = """
import json, os, sys
from weight_feedback.lab.commands.cli import main

broken, codes = os.dup(1), {}
for args in json.loads(sys.argv[1]):
    os.dup2(broken, 1)
    try:
        main(args)
    except SystemExit as end:
        codes[" ".join(args)] = end.code
    else:
        codes[" ".join(args)] = 0
print(json.dumps(codes), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("expected")
    (folder / "tiny.toml").write_text(STUDY, encoding="utf-8")
    study, store = load_study(str(folder / "tiny.toml")), Store(folder / "tiny")
    run(study, store, jobs=1)
    return [store.read(trial).result for _, trial in study.trials()]


@pytest.fixture
def strange(tmp_path) -> Path:
    """A folder whose name is as strange as can be, with a study in it, and a link to where results are to go."""
    folder = tmp_path / LONGEST
    (folder / "there").mkdir(parents=True)
    (folder / "really.toml").write_text(STUDY, encoding="utf-8")
    (folder / "tiny.toml").symlink_to("really.toml")
    (folder / "out").symlink_to("there")
    return folder


def start(args: list[object], folder: Path, *, around: str = '"$@"', **environment: str) -> subprocess.Popen[bytes]:
    """Start a program in a folder; variables that are set to nothing aren't there."""
    there = {name: value for name, value in (os.environ | environment).items() if value}
    command = ["sh", "-c", f"exec {around}", "sh", sys.executable, *map(str, args)]
    return subprocess.Popen(command, cwd=folder, env=there, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def check(folder: Path, expected: list[dict]) -> None:
    study, store = load_study(str(folder / "tiny.toml")), Store(folder / "there" / "tiny")
    assert [store.read(trial).result for _, trial in study.trials()] == expected
    assert "Größe − 🧪" in (store.folder / "report.md").read_text(encoding="utf-8")
    assert (store.folder / "report.html").stat().st_size > 100_000


@posix
def test_names_locale_home_and_network(strange, expected) -> None:
    commands = [[command, "tiny.toml", "--out", "out"] for command in ("run", "report", "plot", "export")]
    text = json.dumps([[*commands[0], "--jobs", "1"], *commands[1:], ["data", "list"]])
    environment = {"LC_ALL": "C", "HOME": "", "TZ": "Pacific/Kiritimati", "TERM": "", "XDG_CACHE_HOME": ""}
    with start(["-c", COMMANDS, text], strange, **environment) as process:
        out, err = process.communicate(timeout=2 * SECONDS)
    assert process.returncode == 0, err
    assert "ohne − π".encode() in out  # Python takes UTF-8 where the locale says nothing
    assert (strange / "there" / "tiny" / "trials.csv").is_file()
    check(strange, expected)


@posix
def test_a_locale_and_a_home_that_can_do_nothing(strange, expected) -> None:
    """What can't be shown is shown as question marks; files are as ever."""
    environment = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    environment |= {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null/cache"}
    args = [*MAIN, "run", "tiny.toml", "--out", strange / "out", "--jobs", "1"]
    with start(args, strange, **environment) as process:
        out, err = process.communicate(timeout=2 * SECONDS)
    assert process.returncode == 0, err
    assert b"ohne ? ?" in out
    check(strange, expected)


@posix
def test_a_reader_that_goes_away(strange, expected) -> None:
    """As `| head -1` does: the work is done all the same, in silence."""
    with start([*MAIN, "run", "tiny.toml", "--out", "out", "--jobs", "1"], strange) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert b"4 trials, 0 finished" in process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == 0, err
    assert b"Traceback" not in err
    check(strange, expected)


def test_output_that_nobody_reads_any_more_ends_nothing(tmp_path) -> None:
    calls = [["--help"], ["--version"], *([name, "--help"] for name in cli.COMMANDS)]
    calls += [["data", "verify", "generated"], ["data", "list"]]
    calls += [["match-dimensions", "--a", "160", "--b", "50", "--c", "10"]]
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", UNREAD, json.dumps([*calls, ["plot", "nope"]])]
    found = subprocess.run(command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, timeout=SECONDS)
    os.close(writer)
    *message, codes = found.stderr.decode().splitlines()
    assert message[0].startswith("error: no study 'nope'")
    assert "Broken" not in " ".join(message)
    assert json.loads(codes) == {**{" ".join(call): 0 for call in calls}, "plot nope": 2}
    assert found.returncode == 0


@posix
def test_closed_streams(strange, expected) -> None:
    args = [*MAIN, "run", "tiny.toml", "--out", "out", "--jobs", "1"]
    with start(args, strange, around='"$@" <&- >&- 2>&-') as process:
        process.communicate(timeout=2 * SECONDS)
    assert process.returncode == 0
    check(strange, expected)


def test_clocks_decide_nothing(tmp_path, monkeypatch) -> None:
    """Neither one that is wrong, nor one that is set back or forward between runs."""
    path = tmp_path / "tiny.toml"
    path.write_text(STUDY.replace("mnist-5k", "generated").replace("1000", "250"), encoding="utf-8")
    study, found = load_study(str(path)), []

    for year in (None, 1971, 2100):
        if year:

            class Wrong(datetime):
                @classmethod
                def now(cls, tz=None, year=year) -> datetime:
                    return datetime(year, 1, 1, tzinfo=tz)

            monkeypatch.setattr(checkpoints, "datetime", Wrong)
            monkeypatch.setattr(time, "time", lambda year=year: datetime(year, 1, 1, tzinfo=UTC).timestamp())
        store = Store(tmp_path / str(year))
        assert run(study, store, seeds=1, jobs=1) == 2
        for number, file in enumerate(sorted(store.folder.rglob("*"))):
            os.utime(file, (10**9 * (number % 5),) * 2)  # from 1970 to 2096
        monkeypatch.undo()
        assert run(study, store, jobs=1) == 2
        assert run(study, store, jobs=1) == 0
        records = [store.read(trial) for _, trial in study.trials()]
        assert {record.provenance["started"][:4] == str(year) for record in records[:2]} == {year is not None}
        found.append([record.result for record in records])
    assert found[0] == found[1] == found[2]


def test_a_terminal_gets_a_bar() -> None:
    file = io.StringIO()
    with RunDisplay(Console(file=file, force_terminal=True, width=100), "tiny") as shown:
        shown.begin(4, 3, 6, 2)
        shown.progress(Progress(epochs=4, running=1, done=2, failed=0))
        shown.note("failed: [bold]x\x1b[2J")
    printed = file.getvalue()
    assert "4/6 epochs; trials: 1 running, 2 done, 0 failed" in printed
    assert "failed: [bold]x\\x1b[2J" in printed


def test_errors_are_shown_as_they_are(capsys, tmp_path) -> None:
    with pytest.raises(SystemExit), stand_ins():
        cli.main(["report", f"[bold]{tmp_path}\x1b[2J\n.toml"])
    err = capsys.readouterr().err
    assert "[bold]" in err
    assert "\x1b" not in err
