"""What every worker of a cluster must have: this package, the study's folder, its data, and equal surroundings."""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import weight_feedback
from weight_feedback.lab.data.catalogue import ENVIRONMENT
from weight_feedback.lab.execution.backends import Backend
from weight_feedback.lab.execution.progress import ProgressFiles
from weight_feedback.lab.store.provenance import differences
from weight_feedback.lab.store.store import Store, StoreError
from weight_feedback.lab.tasks.base import Trial
from weight_feedback.lab.tasks.loading import find_task
from weight_feedback.lab.training.environment import choose_device, surroundings

_ALTERNATIVE = (
    "or run the study in shards, `weight-feedback run STUDY --shard 1/N` to N/N, and `weight-feedback merge` them"
)


@dataclass(frozen=True)
class Site:
    """What the workers of one run must see.

    Args:
        folder: of the study's results.
        progress: of the run, in that folder; its name can't be guessed.
        trials: the first of each arm.
        data_dir: where data files are looked for.
        data: name and fingerprint of all data and code that trials use, as the run's own process sees them.
        device: see `choose_device`.
        threads: of PyTorch in each trial.
        version: of this package.
    """

    folder: Path
    progress: ProgressFiles
    trials: tuple[Trial, ...]
    data_dir: Path | None
    data: tuple[tuple[str, str], ...]
    device: str
    threads: int
    version: str = weight_feedback.__version__


def shared_paths(store: Store, data_dir: Path | None) -> tuple[Store, Path | None]:
    """Return a store and a folder of data by paths that mean the same in any process that sees them.

    Args:
        store: of the study.
        data_dir: where data files are looked for; None: the folder that the environment names here, if it does.
    """
    named = data_dir or os.environ.get(ENVIRONMENT)
    return Store(Path.cwd() / store.folder), Path.cwd() / Path(named).expanduser() if named else None


@functools.cache
def inspect(site: Site) -> dict[str, Any]:
    """See whether this process can work for a run; once, for that doesn't change.

    Args:
        site: what it must see.

    Returns:
        Its surroundings; see `surroundings`.

    Raises:
        ValueError: it can't; the message says what is missing, and what to do.
    """
    if weight_feedback.__version__ != site.version:
        raise StoreError(
            f"expected weight-feedback {site.version}, found {weight_feedback.__version__}; install the same "
            "everywhere"
        )
    if not site.progress.alive:
        raise StoreError(
            f"{site.folder}: expected the folder of results that the run itself writes to, but it can't be seen "
            f"there; give a folder that all machines share (--out), {_ALTERNATIVE}"
        )
    Store(site.folder).probe()
    found = find_task(site.trials[0].task).fingerprints(site.trials, site.data_dir)
    for name, fingerprint in site.data:
        if found.get(name) != fingerprint:
            raise StoreError(f"{name}: expected fingerprint {fingerprint}, found {found.get(name)}")
    return surroundings(choose_device(site.device)) | {"threads": site.threads}


def check_site(site: Site, expected: Mapping[str, Any] | None) -> None:
    """See that this process can work for a run, which has begun: it may have joined later than others.

    Args:
        site: what it must see.
        expected: surroundings, or None if any will do.

    Raises:
        StoreError: it can't.
    """
    name = f"{socket.gethostname()}, process {os.getpid()}"
    try:
        here = inspect(site)
    except (ValueError, OSError) as error:
        raise StoreError(f"worker {name}: {error}") from None
    _compare(name, here, expected)


def agree(backend: Backend, site: Site, mixed: bool) -> dict[str, Any]:
    """Ask all workers whether they can work for a run, before it begins.

    Args:
        backend: of the workers.
        site: what they must see.
        mixed: whether they may have different surroundings.

    Returns:
        The surroundings of one of them.

    Raises:
        StoreError: one can't, or they differ.
    """
    answers = backend.everywhere(functools.partial(inspect, site))
    if not answers:
        raise StoreError("expected workers, found none; start some")
    for name, answer in answers.items():
        if isinstance(answer, Exception):
            raise StoreError(f"worker {name}: {_said(answer)}")
    first: dict[str, Any] = next(iter(answers.values()))
    for name, answer in answers.items():
        _compare(name, answer, None if mixed else first)
    return first


def _said(error: Exception) -> str:
    if isinstance(error, (ValueError, OSError)):
        return str(error)
    return f"expected weight-feedback {weight_feedback.__version__}, as here, but: {type(error).__name__}: {error}"


def _compare(name: str, here: Mapping[str, Any], expected: Mapping[str, Any] | None) -> None:
    if expected is not None and (phrases := differences(here, [expected])):
        raise StoreError(
            f"worker {name}: its surroundings aren't those of the others ({'; '.join(phrases)}), so that equal "
            "settings needn't give equal bits; take workers of one kind, or mix them with --mixed"
        )
