"""Shards: together they are the study, and each is about as large as the others."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from helpers.child_processes import fork_command, may_fork, stand_ins
from helpers.studies import BASE, document
from weight_feedback.lab.commands import cli
from weight_feedback.lab.execution.runner import missing, run
from weight_feedback.lab.store.store import Store
from weight_feedback.lab.study.shards import Shard, parse_shard
from weight_feedback.lab.study.study import Arm, Study
from weight_feedback.lab.study.toml import load_study
from weight_feedback.lab.tasks.notebook.settings import Training

SCRIPT = Path(__file__).parents[2] / "examples" / "slurm_array.sh"
NAMES = ("plain", "pooled", "sketched")
ARMS = tuple(Arm(name=name, model=f"mnist-{name}", label=name) for name in NAMES)


def study(seeds: int, cohort: int = 1) -> Study:
    training = Training(epochs=1, cohort=cohort)
    return Study(name="many", title="Many", data="generated", seeds=seeds, training=training, arms=ARMS)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 12, 40])
@pytest.mark.parametrize(("seeds", "cohort"), [(10, 1), (12, 4)])
def test_parts_are_disjoint_whole_and_balanced(count, seeds, cohort) -> None:
    trials = list(study(seeds, cohort).trials())
    parts = [Shard(number, count).of(trials) for number in range(1, count + 1)]
    assert sorted((arm.name, trial.seed) for part in parts for arm, trial in part) == sorted(
        (arm.name, trial.seed) for arm, trial in trials
    )
    for part in parts:
        here = {trial for _, trial in part}
        assert all(set(trial.cohort()) <= here for trial in here)
        assert [pair for pair in trials if pair in part] == part  # in the study's order
    for counts in (
        [len(part) for part in parts],
        *([Counter(a.name for a, _ in p)[n] for p in parts] for n in NAMES),
    ):
        assert max(counts) - min(counts) <= cohort


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "-1/4", "a/b", "1/4/", "1.0/4", "\u0661/4"])
def test_what_is_no_shard_is_refused(text) -> None:
    with pytest.raises(ValueError, match=r"shard: expected I/N with I from 1 to N, as 1/8 to 8/8, got "):
        parse_shard(text)


def results(folder: Path) -> dict[str, object]:
    """Everything that must be equal, bit for bit."""
    found: dict[str, object] = {}
    wanted, store = load_study(str(folder.parent / "tiny.toml")), Store(folder)
    assert missing(wanted, store) == []
    for _, each in (*wanted.trials(), *wanted.swaps()):
        record = store.read(each)
        assert record is not None, each.file_name
        found[each.file_name] = record.result
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("whole")
    (folder / "tiny.toml").write_text(document(BASE), encoding="utf-8")
    run(load_study(str(folder / "tiny.toml")), Store(folder / "tiny"), jobs=1)
    return results(folder / "tiny")


def test_shards_that_share_a_folder_end_with_a_report(tmp_path, capsys, whole) -> None:
    (tmp_path / "tiny.toml").write_text(document(BASE), encoding="utf-8")
    for number, left, jobs in ((1, 2, "--jobs"), (2, 0, "--workers")):
        args = ["run", f"{tmp_path}/tiny.toml", "--out", str(tmp_path), jobs, "1", "--shard", f"{number}/2"]
        with stand_ins():
            cli.main(args)
        out = capsys.readouterr().out
        assert "tiny: 2 trials, 0 finished, 2 to run, 1 side by side" in out
        assert (f"shard {number}/2 is through; {left} trials of the study aren't in" in out) == bool(left)
        assert (tmp_path / "tiny" / "report.html").exists() == (left == 0)
        assert bool(list((tmp_path / "tiny").glob("swaps/*.json"))) == (left == 0)
    assert results(tmp_path / "tiny") == whole


@pytest.mark.skipif(os.name != "posix", reason="runs a shell script, and forks")
@may_fork
def test_a_slurm_array_is_the_same_study(tmp_path, capsys, whole) -> None:
    """What the script that sbatch runs starts: a process for each part, side by side, in folders of their own."""
    (tmp_path / "tiny.toml").write_text(document(BASE), encoding="utf-8")
    program = tmp_path / "bin" / "weight-feedback"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "SLURM_ARRAY_TASK_COUNT": "2",
        "SLURM_CPUS_PER_TASK": "1",
        "STUDY": "tiny.toml",
    }
    tasks = []
    for number in ("1", "2"):
        given = subprocess.run(
            [SCRIPT], env=environment | {"SLURM_ARRAY_TASK_ID": number}, capture_output=True, text=True, check=True
        )
        # A fork spares the start of Python and PyTorch.
        tasks.append(fork_command(given.stdout.splitlines(), before=partial(os.chdir, tmp_path)))
    for number, task in enumerate(tasks, start=1):
        code, printed = task.end()
        assert code == 0, printed
        said = " ".join(printed.split())
        assert f"shard {number}/2 is through; 2 trials of the study aren't in shards/{number}/tiny" in said
    cli.main(["merge", f"{tmp_path}/tiny", *(f"{tmp_path}/shards/{number}/tiny" for number in (1, 2))])
    assert "4 trials, 0 swaps and 2 weights copied" in capsys.readouterr().out
    with stand_ins():
        cli.main(["run", f"{tmp_path}/tiny.toml", "--out", str(tmp_path), "--jobs", "1"])
    assert "4 trials, 4 finished, 0 to run" in capsys.readouterr().out
    assert results(tmp_path / "tiny") == whole
