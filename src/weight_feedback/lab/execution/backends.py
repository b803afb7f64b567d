"""Where trials run: processes of this machine, or the workers of a Dask or Ray cluster.

joblib has adapters for both engines, and their results are right; what they lack is what a long study needs. With
Dask's (joblib 1.6) a job whose worker died for good is waited for without end. Ray's is a pool of actors that can't
tell which of its jobs died, nor return results as they come. So jobs go through the engines' own futures, a few
at a time, and each engine tries those of a dead worker again elsewhere, as it does by default.
"""

from __future__ import annotations

import importlib
import logging
import operator
import os
import signal
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor

from weight_feedback.lab.execution.interrupts import interrupts_blocked
from weight_feedback.lab.execution.names import BackendName

#: Key of a job, and None when it is done, or why it must be tried again.
Outcome = tuple[str, str | None]
Call = Callable[[], Outcome]
#: That are waited for a cluster to answer, as long as Dask's own clients do.
CONNECT_SECONDS = 30.0
#: That are waited for its first worker, which a queue may have yet to start.
WORKER_SECONDS = 120.0
#: That are waited for a machine of a Ray cluster to say what it sees: it starts a process, which imports PyTorch.
ANSWER_SECONDS = 300.0
_DIED = "its worker died, each time that the cluster tried it"


class Backend(Protocol):
    """Runs calls side by side."""

    @property
    def jobs(self) -> int:
        """How many."""

    @property
    def remote(self) -> bool:
        """Whether they may run on other machines."""

    def outcomes(self, calls: Mapping[str, Call]) -> Generator[Outcome]:
        """Run calls, and yield what comes of each, in the order in which they end.

        Args:
            calls: by key; each can be pickled.

        Raises:
            Exception: what a call raised, or that the workers are lost; the other calls are dropped.
        """

    def everywhere(self, call: Callable[[], Any]) -> dict[str, Any]:
        """Call something once on each worker, or on one of each machine.

        Args:
            call: can be pickled.

        Returns:
            Worker to what came of it: a value, or the exception that it raised.
        """


@dataclass(frozen=True)
class Processes:
    """Processes of this machine, by joblib: loky's, unless joblib's own configuration says otherwise.

    Args:
        jobs: how many; 1: this very process.
    """

    jobs: int
    remote: ClassVar[bool] = False

    def outcomes(self, calls: Mapping[str, Call]) -> Generator[Outcome]:
        """See `Backend`; when a process dies, all do.

        Args:
            calls: by key.
        """
        # Batches of several jobs would be lost together.
        pool = Parallel(n_jobs=self.jobs, batch_size=1, return_as="generator_unordered")
        outcomes: Generator[Outcome] = pool([delayed(operator.call)(call) for call in calls.values()])
        return outcomes

    def renew(self) -> None:
        """Let no worker of an earlier run go on: it may have imported what has changed since."""
        if self.jobs > 1:
            get_reusable_executor().shutdown(wait=True)

    def everywhere(self, call: Callable[[], Any]) -> dict[str, Any]:
        """See `Backend`.

        Args:
            call: is made here, which is where all processes are.
        """
        return {"this machine": call()}


class _Cluster(ABC):
    """What is common to engines: no more calls are submitted than may run side by side."""

    remote: ClassVar[bool] = True

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs

    def outcomes(self, calls: Mapping[str, Call]) -> Generator[Outcome]:
        waiting = iter(calls.items())
        running: dict[Any, str] = {}
        try:
            while True:
                while len(running) < self.jobs and (submitted := next(waiting, None)):
                    running[self._submit(submitted[1])] = submitted[0]
                if not running:
                    return
                for future in self._wait(running):
                    key = running.pop(future)
                    died, outcome = self._take(future)
                    yield (key, f"{_DIED}\n{died}") if died else outcome
        finally:
            self._cancel(running)

    @abstractmethod
    def _submit(self, call: Call) -> Any: ...

    @abstractmethod
    def _wait(self, futures: Collection[Any]) -> Collection[Any]:
        """Wait for some to end, and return these."""

    @abstractmethod
    def _take(self, future: Any) -> tuple[Exception | None, Any]:
        """Return how the worker of a future that has ended died, or None and its result; raise what it raised."""

    @abstractmethod
    def _cancel(self, futures: Collection[Any]) -> None: ...

    @abstractmethod
    def everywhere(self, call: Callable[[], Any]) -> dict[str, Any]: ...


class _Dask(_Cluster):
    def __init__(self, client: Any, jobs: int) -> None:
        super().__init__(jobs)
        self._client = client
        self._distributed = importlib.import_module("distributed")
        self._death = importlib.import_module("distributed.scheduler").KilledWorker

    def _submit(self, call: Call) -> Any:
        return self._client.submit(call, pure=False)

    def _wait(self, futures: Collection[Any]) -> Collection[Any]:
        with self._client.as_current():
            done: Collection[Any] = self._distributed.wait(list(futures), return_when="FIRST_COMPLETED").done
        return done

    def _take(self, future: Any) -> tuple[Exception | None, Any]:
        try:
            return None, future.result()
        except self._death as error:
            return error, None

    def _cancel(self, futures: Collection[Any]) -> None:
        if self._client.status == "running":
            self._client.cancel(list(futures), force=True)

    def everywhere(self, call: Callable[[], Any]) -> dict[str, Any]:
        found: dict[str, Any] = self._client.run(call, on_error="return")
        return found


class _Ray(_Cluster):
    def __init__(self, ray: Any, jobs: int) -> None:
        super().__init__(jobs)
        self._ray = ray
        self._function = ray.remote(num_cpus=1)(_call)
        errors = importlib.import_module("ray.exceptions")
        self._raised = errors.RayTaskError
        self._deaths = (
            errors.WorkerCrashedError,
            errors.NodeDiedError,
            errors.LocalRayletDiedError,
            errors.OutOfMemoryError,
        )

    def _submit(self, call: Call) -> Any:
        return self._function.remote(call)

    def _wait(self, futures: Collection[Any]) -> Collection[Any]:
        done: Collection[Any] = self._ray.wait(list(futures), num_returns=1)[0]
        return done

    def _take(self, future: Any) -> tuple[Exception | None, Any]:
        try:
            return None, self._ray.get(future)
        except self._deaths as error:
            return error, None
        except self._raised as error:
            raise error.cause from None

    def _cancel(self, futures: Collection[Any]) -> None:
        for future in futures:
            self._ray.cancel(future, force=True)

    def everywhere(self, call: Callable[[], Any]) -> dict[str, Any]:
        place = importlib.import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
        asked = {
            node["NodeManagerAddress"]: self._function.options(
                num_cpus=0, scheduling_strategy=place(node["NodeID"], soft=False)
            ).remote(call)
            for node in self._ray.nodes()
            if node["Alive"] and node["Resources"].get("CPU")
        }
        found: dict[str, Any] = {}
        for name, future in asked.items():
            try:
                found[name] = self._ray.get(future, timeout=ANSWER_SECONDS)
            except self._raised as error:
                found[name] = error.cause
            except Exception as error:  # of the engine, which has many
                found[name] = error
        return found


def _call(call: Callable[[], Any]) -> Any:
    """Call something; Ray takes no functions that are built in, as `operator.call` is."""
    return call()


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def connected(
    name: BackendName = "loky", address: str | None = None, jobs: int | None = None
) -> AbstractContextManager[Backend]:
    """Return a context in which there is a connection to where trials are to run; it is left as it was.

    Args:
        name: of the engine.
        address: of a cluster that runs already; default: one on this machine, for the time being.
        jobs: trials side by side; default: as many as the cluster has workers, or this machine cores.

    Returns:
        What gives what runs jobs. Entering it raises ValueError if there is no cluster at the address, or its
        workers have several threads.

    Raises:
        ValueError: the package isn't installed, the engine has no addresses, or a number is too small.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs: expected at least 1, got {jobs}")
    if name == "loky":
        if address is not None:
            raise ValueError(f"--address: expected none with --backend loky, which runs here; got {address!r}")
        return nullcontext(Processes(jobs or cores()))
    package = _import(name)
    where = f"--backend {name}" if address is None else f"--backend {name} --address {address}"
    return (_dask if name == "dask" else _ray)(package, where, address, jobs)


def _import(name: str) -> Any:
    package = {"dask": "distributed"}.get(name, name)
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(
            f"--backend {name}: the package {package} isn't installed ({error}): pip install "
            f"'weight-feedback[{name}]', or '.[{name}]' in a clone"
        ) from None


@contextmanager
def _dask(distributed: Any, where: str, address: str | None, jobs: int | None) -> Iterator[Backend]:
    with interrupts_blocked():  # the processes of a cluster on this machine
        try:
            cluster: Any = address or distributed.LocalCluster(
                n_workers=jobs or cores(),
                threads_per_worker=1,
                dashboard_address=":0",
                memory_limit=None,  # as with loky, the system's alone
                silence_logs=logging.ERROR,
            )
            client = distributed.Client(cluster, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ValueError(f"{where}: expected a Dask scheduler, found none: {error}") from None
    try:
        workers = _workers(distributed, client, where)
        yield _Dask(client, jobs or workers)
    finally:
        client.close()
        if address is None:
            cluster.close()


def _workers(distributed: Any, client: Any, where: str) -> int:
    """Return how many workers there are, at least one; each must be a process that does one thing at a time."""
    try:
        client.wait_for_workers(1, timeout=WORKER_SECONDS)
    except distributed.TimeoutError:
        raise ValueError(
            f"{where}: expected workers, found none within {WORKER_SECONDS:.0f} s; start some"
        ) from None
    for worker, threads in client.nthreads().items():
        if threads != 1:
            raise ValueError(
                f"{where}: expected workers of one thread, but {worker} has {threads}; start them with "
                "`dask worker --nthreads 1 --nworkers N`"
            )
    return len(client.nthreads())


@contextmanager
def _ray(ray: Any, where: str, address: str | None, jobs: int | None) -> Iterator[Backend]:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {"num_cpus": jobs or cores(), "include_dashboard": False}
    else:
        _check_reachable(where, address)
        options |= {"address": address}
    with _own_handlers():
        try:
            ray.init(**options)
        except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise ValueError(f"{where}: expected a Ray cluster, and can't use it: {error}") from None
    try:
        yield _Ray(ray, jobs or int(ray.cluster_resources().get("CPU", 1)))
    finally:
        ray.shutdown()


def _check_reachable(where: str, address: str) -> None:
    """Check that something listens at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or "/" in address:
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"{where}: expected a Ray cluster, found none: {error}") from None


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Keep handlers of signals; Ray would exit at once, with 1."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
