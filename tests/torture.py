"""Torture: tiny studies are killed anywhere, and what they leave must be what an undisturbed one leaves.

As a program, it goes on for as many kills as it is told; see ``python tests/torture.py --help``. Each study runs
in a process that is forked from this one, in which all is imported and warm, so that a kill costs half a second.
Pictures are stand-ins of the same size: how files come about is tortured, not how pictures do.
"""

from __future__ import annotations

import os

# Before anything is imported that would start threads.
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}

import gc
import itertools
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import IO, Any

import torch
import tyro
import vl_convert
from matplotlib.figure import Figure
from rich.console import Console
from safetensors.numpy import load

from helpers.killed_processes import Work, adopt, alone, complete, finish, fork, kill_at, points, require
from helpers.own_training import study as own_study
from helpers.studies import compare_signals
from weight_feedback.lab.commands.presenting import present
from weight_feedback.lab.data import datasets
from weight_feedback.lab.execution.runner import run
from weight_feedback.lab.store.merge import merge
from weight_feedback.lab.store.store import Store, read_declaration, read_record
from weight_feedback.lab.study.study import Study
from weight_feedback.lab.tasks.fields import weights_digest
from weight_feedback.lab.training.run import Options, run_trial

CONSOLE = Console(soft_wrap=True)
#: Which workers of a pool use, that are new processes.
LOAD = datasets.load
#: After so many kills, on average, a study is let go on to its end.
KILLS_A_FOLDER = 4
#: What is published once and stays.
PUBLISHED = ("trials", "swaps", "weights", "declaration.json", "study.json")
PNG, SVG = b"\x89PNG" + bytes(50_000) + b"IEND", b"<svg>" + b" " * 10_000 + b"</svg>"


def study(seeds: int, cohort: int = 1) -> Study:
    """Return a study with weights that are kept, donors, swaps, and a declaration."""
    training = {"epochs": 2, "batch_size": 50, "cohort": cohort}
    return compare_signals("yoked", "own", seeds=seeds, training=training)


def warm_up() -> None:
    """Import, compute and allocate here what each forked process would otherwise do again."""
    torch.set_num_threads(1)
    vl_convert.vegalite_to_png = lambda *_, **__: PNG
    vl_convert.vegalite_to_svg = lambda *_, **__: SVG.decode()
    vl_convert.javascript_bundle = lambda *_, **__: " " * 900_000
    Figure.savefig = _save_stand_in
    data = datasets.load("generated")
    few = replace(
        data,
        train_images=data.train_images[:100],
        train_labels=data.train_labels[:100],
        test_images=data.test_images[:20],
        test_labels=data.test_labels[:20],
    )
    # Not in the workers of a pool: they are new processes, and take all of it.
    datasets.load = lambda *_, **__: few
    with tempfile.TemporaryDirectory() as folder:
        for cohort in (1, 2):
            work(study(cohort, cohort), Path(folder) / str(cohort))()
        for _, trial in own_study(1).trials():
            run_trial(trial, Options(metrics=own_study().reported))
    gc.collect()
    gc.freeze()  # statsmodels collects garbage in each report, which takes long where so much is imported
    assert alone()


def _save_stand_in(self: Figure, file: IO[bytes], *, format: str, **_: object) -> None:  # noqa: A002
    file.write(SVG if format == "svg" else PNG)


# What is in a folder


def files(folder: Path, kinds: Sequence[str] = ()) -> dict[str, bytes]:
    """Return relative name to content of all files but temporary ones; or of some kinds."""
    names = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(name): (folder / name).read_bytes()
        for name in names
        if not name.name.startswith(".") and (not kinds or name.parts[0] in kinds)
    }


def meaning(folder: Path, name: str, content: bytes) -> Any:
    """Return what must be the same, bit for bit, each time a file is made; of reports, that they are whole."""
    if name.startswith("weights/"):
        return weights_digest(load(content))
    if name.startswith(("trials/", "swaps/")):
        return read_record(folder / name).result
    if name == "declaration.json":
        return read_declaration(folder / name)._replace(time="")
    if name == "study.json":
        return content
    return content[-6:]


@dataclass
class Reference:
    """A study that ran undisturbed: what others must become.

    Attributes:
        study: which one.
        jobs: trials side by side.
        folder: where it is.
        seconds: how long it took.
    """

    study: Study
    folder: Path
    jobs: int = 1
    seconds: float = field(init=False)
    expected: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        start = time.perf_counter()
        complete(self.work(self.folder), self.folder)
        self.seconds = time.perf_counter() - start
        self.expected = self.found(self.folder)
        kinds = {name.split("/")[0] for name in self.expected}
        published = PUBLISHED if self.study.task == "notebook" else ("trials", "declaration.json", "study.json")
        require(kinds >= {*published, "figures", "report.md", "report.html"}, self.folder, f"holds only {kinds}")

    def work(self, folder: Path, report: bool = True) -> Work:
        return work(self.study, folder, self.jobs, report)

    def found(self, folder: Path) -> dict[str, Any]:
        return {name: meaning(folder, name, content) for name, content in files(folder).items()}

    def check_killed(self, folder: Path) -> dict[str, bytes]:
        """Check what is there after a kill: nothing but what belongs there, whole. Return what is published."""
        for name, content in files(folder).items():
            if name in self.expected:
                there = meaning(folder, name, content)
                require(there == self.expected[name], folder, f"{name} isn't what it is undisturbed")
            else:  # something that is removed in the end
                require(name.split("/")[0] not in PUBLISHED, folder, f"{name} is in no undisturbed run")
        return files(folder, PUBLISHED)

    def check_kept(self, folder: Path, before: dict[str, bytes]) -> None:
        """Check that what was published is as it was."""
        after = files(folder, PUBLISHED)
        for name, content in before.items():
            kept = after.get(name) == content
            if not kept and name.startswith("weights/") and name in after:
                # The metadata of such a file come in any order; before its trial is published, it may be rewritten.
                kept = weights_digest(load(after[name])) == weights_digest(load(content))
            require(kept, folder, f"{name} was published, but is lost or another now")

    def check_finished(self, folder: Path) -> None:
        """Check that a folder is what an undisturbed run leaves, no file less and none more."""
        found = self.found(folder)
        for name in sorted(self.expected.keys() | found.keys()):
            require(name in found, folder, f"{name} is missing")
            require(name in self.expected, folder, f"{name} is in no undisturbed run")
            require(found[name] == self.expected[name], folder, f"{name} isn't what it is undisturbed")


def work(tiny: Study, folder: Path, jobs: int = 1, report: bool = True) -> Work:
    def all_of_it() -> None:
        run(tiny, Store(folder), jobs=jobs, checkpoint_seconds=0)  # a checkpoint after every epoch, however short
        if report:
            present(Console(file=StringIO()), tiny, Store(folder), "weight-feedback run tiny")

    return all_of_it


# The tortures: each yields once a kill


def at_failpoints_of_a_run(reference: Reference, part: slice, scratch: Path) -> Generator[str]:
    """Kill a run wherever it can be, or in a part of these places, each in a new folder; and let it run again."""
    for point in points(reference.work(scratch / "all", report=False), scratch / "log")[part]:
        folder = scratch / point.replace(":", "-")
        kill_at(point, reference.work(folder, report=False), folder)
        before = reference.check_killed(folder)
        complete(reference.work(folder, report=False), folder)
        reference.check_kept(folder, before)
        made = {name: there for name, there in reference.found(folder).items() if name.split("/")[0] in PUBLISHED}
        expected = {name: there for name, there in reference.expected.items() if name.split("/")[0] in PUBLISHED}
        require(made == expected, folder, f"after a kill at {point}, found {made.keys()}, or other results")
        shutil.rmtree(folder)
        yield point


def at_failpoints_of_a_report(reference: Reference, scratch: Path) -> Generator[str]:
    """Kill a report wherever it can be; each begins with what the one before left."""
    folder, whole = scratch / "report", files(reference.folder)

    def report() -> None:
        present(Console(file=StringIO()), reference.study, Store(folder), "weight-feedback run tiny")

    shutil.copytree(reference.folder, folder)
    for path in folder.rglob("*.*"):  # the first is written into an empty place, the others over an older one
        if path.is_file() and path.relative_to(folder).parts[0] not in PUBLISHED:
            path.unlink()
    for point in points(report, scratch / "log"):
        kill_at(point, report, folder)
        for name, content in files(folder).items():
            require(whole.get(name) == content, folder, f"{name} isn't whole after a kill at {point}")
        yield point
    complete(report, folder)
    require(files(folder) == whole, folder, "the last report isn't what it is undisturbed")


def at_failpoints_of_a_merge(reference: Reference, scratch: Path) -> Generator[str]:
    """Kill a merge wherever it can be, and let it run again."""
    source, trial = scratch / "source", next(reference.study.trials())[1]
    shutil.copytree(reference.folder, source)
    whole = files(source, PUBLISHED)

    def into(folder: Path) -> Work:
        # The target has failed where the source has not.
        Store(folder).fail(trial, "another machine's reason")
        return lambda: merge(folder, [source])

    for point in points(into(scratch / "merged"), scratch / "log"):
        folder = scratch / point.replace(":", "-")
        kill_at(point, into(folder), folder)
        before = reference.check_killed(folder)
        complete(lambda: merge(folder, [source]), folder)  # noqa: B023 - it is done before the folder is another
        require(before.items() <= files(folder).items(), folder, "what was merged is lost")
        require(files(folder) == whole, folder, f"after a kill at {point}, not what it is undisturbed")
        shutil.rmtree(folder)
        yield point


def at_failpoints_of_setting_aside(reference: Reference, scratch: Path) -> Generator[str]:
    """Kill a run while it sets a damaged file aside, and let it run again."""
    trial = next(reference.study.trials())[1]
    damage = reference.folder.joinpath("trials", f"{trial.file_name}.json").read_bytes()[:-1]

    def damaged(folder: Path) -> Work:
        shutil.copytree(reference.folder, folder)
        Store(folder).path(trial).write_bytes(damage)
        return reference.work(folder, report=False)

    for point in points(damaged(scratch / "damaged"), scratch / "log"):
        if point.startswith("aside"):
            folder = scratch / point.replace(":", "-")
            kill_at(point, damaged(folder), folder)
            complete(reference.work(folder, report=False), folder)
            aside = [path.read_bytes() for path in (folder / "damaged").glob("*.json")]
            require(aside == [damage], folder, f"expected the damaged file set aside, found {len(aside)} files")
            shutil.rmtree(folder / "damaged")
            reference.check_finished(folder)
            shutil.rmtree(folder)
            yield point


def at_random(reference: Reference, chance: random.Random, scratch: Path) -> Generator[str]:
    """Kill a run and its report at random moments, a few times over, until it is let go on to its end."""
    for number in itertools.count():
        folder, published, status = scratch / f"random-{number}", dict[str, bytes](), -signal.SIGKILL
        for kill in itertools.count(1):
            if status != -signal.SIGKILL or chance.random() < 1 / KILLS_A_FOLDER:
                break
            # The more is finished, the less there is left to disturb.
            seconds = chance.uniform(0, reference.seconds / kill)
            status = finish(fork(reference.work(folder)), seconds)
            require(status in (0, -signal.SIGKILL), folder, "a run failed; its error is above")
            reference.check_kept(folder, published)
            published = reference.check_killed(folder)
            if status:
                yield f"after {seconds:.3f} s"
        if status:
            complete(reference.work(folder), folder)
        reference.check_kept(folder, published)
        reference.check_finished(folder)
        shutil.rmtree(folder)


def torture(scratch: Path, kind: Callable[..., Generator[str]], *how: Any, most: int | None = None) -> None:
    """Go through all kills of a kind, or the most that are wanted, and say how many there were."""
    name, start, number = kind.__name__.replace("_", " "), time.perf_counter(), 0
    (scratch / name).mkdir(parents=True)
    kills = kind(*how, scratch / name)
    for number, _ in enumerate(itertools.islice(kills, most), start=1):
        if number % 100 == 0:
            CONSOLE.print(f"{name}: {number} kills", markup=False)
    kills.close()
    CONSOLE.print(f"{name}: {number} kills in {time.perf_counter() - start:.0f} s, nothing lost", markup=False)


def one_of(
    jobs: int, index: int, scratch: Path, kills: int, pools: int, own: int, failpoints: bool, seed: int
) -> Work:
    """Return the share of one of several processes."""

    def share() -> None:
        adopt()
        chance, part = random.Random(f"{seed} {index}"), slice(index, None, jobs)
        if failpoints:
            small = Reference(study(1), scratch / "small")
            torture(scratch, at_failpoints_of_a_run, small, part)
            if index == jobs - 1:
                torture(scratch, at_failpoints_of_a_report, small)
                torture(scratch, at_failpoints_of_a_merge, small)
                torture(scratch, at_failpoints_of_setting_aside, small)
        # How many, of which study, by how many workers.
        kinds = {
            "cohorts of 1": (kills - kills // 2, study(2), 1),
            "cohorts of 2": (kills // 2, study(2, 2), 1),
            "two workers": (pools, study(2), 2),
            "trials in processes of their own": (own, own_study(), 1),
        }
        for name, (count, tiny, workers) in kinds.items():
            if mine := len(range(count)[part]):
                if workers > 1:
                    datasets.load = LOAD
                place = scratch / name
                torture(place, at_random, Reference(tiny, place / "undisturbed", workers), chance, most=mine)

    return share


def main(
    kills: int = 3000, pools: int = 30, own: int = 1000, failpoints: bool = True, jobs: int = 2, seed: int = 0
) -> None:
    """Torture the lab; the exit code is 0 if nothing was lost.

    Args:
        kills: at random moments, of studies that run in one process.
        pools: likewise, of studies with two worker processes, which take ten times as long.
        own: likewise, of a study of somebody's own function, whose trials have processes of their own.
        failpoints: whether to kill at every failpoint, each time that it is reached, as well.
        jobs: how many studies at once.
        seed: of the random moments.
    """
    warm_up()
    scratch, start = Path(tempfile.mkdtemp(prefix="torture-")), time.perf_counter()
    shares = []
    for index in range(jobs):
        (scratch / str(index)).mkdir()
        shares.append(fork(one_of(jobs, index, scratch / str(index), kills, pools, own, failpoints, seed)))
    ended = [finish(share) for share in shares]
    if any(ended):
        sys.exit(f"a promise is broken, see above; what is left of it is in {scratch}")
    shutil.rmtree(scratch)
    CONSOLE.print(f"all of it: {time.perf_counter() - start:.0f} s; nothing lost", markup=False)


if __name__ == "__main__":
    tyro.cli(main)
