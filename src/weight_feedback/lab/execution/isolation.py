"""A call in a process of its own, so that nothing that it leaves behind reaches the next one.

Random state, default dtype, thread count, working folder, environment and the globals of modules: whatever a call
changes is gone with its process. The processes that it started end with it, unless they have made a session of
their own; where it is killed with the one that waits for it, those that look after themselves do.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO

import cloudpickle

#: From one look to the next at whether the process lives, and whether anybody still waits for it.
_SECONDS = 0.5
_PR_SET_PDEATHSIG = 1
# What a fresh process runs; the first thing that it is told is where modules are.
_PROGRAM = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from weight_feedback.lab.execution.isolation import _serve; _serve()"
)


#: Forked processes that are waited for, each the leader of a group.
_FORKED: set[int] = set()


class ProcessDiedError(Exception):
    """A process ended before its call did."""


def end_forked() -> None:
    """End all forked processes that are waited for, and what they have started."""
    for child in [*_FORKED]:
        _end_group(child)


def may_fork(device: str) -> bool:
    """Say whether trials can be forked here: CUDA can't be, nor can what macOS's libraries start, nor Windows.

    Args:
        device: see `choose_device`.
    """
    import torch

    on_cpu = not torch.cuda.is_available() if device == "auto" else torch.device(device).type == "cpu"
    # The threads of autograd, which one that has trained on CUDA has, don't outlive a fork.
    return sys.platform == "linux" and on_cpu and not torch.cuda.is_initialized()


def call_forked(call: Callable[[], Any], waited_for: Callable[[], bool]) -> Any:
    """Call something in a forked process, which has what this one has imported and loaded.

    Args:
        call: what it returns or raises can be pickled.
        waited_for: asked now and then; once it says no, the process is killed.

    Returns:
        What the call returned.

    Raises:
        ProcessDiedError: the process died, or nobody waited for it any more.
        Exception: what the call raised.
    """
    read, write = os.pipe()
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        # Python warns of what another thread may hold; what is called here takes no locks of this package's.
        warnings.filterwarnings("ignore", "This process.*multi-threaded", DeprecationWarning)
        child = os.fork()
    if not child:
        os.close(read)
        _be_forked(call, write, parent)
    os.close(write)
    _FORKED.add(child)
    try:
        content, status = _wait(child, read, waited_for)
    except BaseException:  # an interrupt
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        raise
    finally:
        os.close(read)
        _end_group(child)
        _FORKED.discard(child)
    return _outcome(content, os.waitstatus_to_exitcode(status))


def call_fresh(call: Callable[[], Any], waited_for: Callable[[], bool], environ: Mapping[str, str] = {}) -> Any:
    """Call something in a process that is started anew, as `call_forked` does in one that is forked.

    Args:
        call: can be pickled by value.
        waited_for: see `call_forked`.
        environ: added to the process's environment.
    """
    with tempfile.TemporaryDirectory(prefix="weight-feedback-") as folder:
        path = Path(folder, "outcome")
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            env={**os.environ, **environ},
            start_new_session=True,
        )
        assert process.stdin is not None
        try:
            # Kept open: its end says that this process is gone.
            process.stdin.write(pickle.dumps(sys.path) + pickle.dumps(str(path)) + cloudpickle.dumps(call))
            process.stdin.flush()
            while process.poll() is None:
                try:
                    process.wait(_SECONDS)
                except subprocess.TimeoutExpired:
                    if not waited_for():
                        break
        except BrokenPipeError:
            process.wait()
        finally:
            if process.poll() is None:
                process.kill()
            code = process.wait()
            with suppress(BrokenPipeError):
                process.stdin.close()
            _end_group(process.pid)
        return _outcome(path.read_bytes() if path.exists() else b"", code)


def _be_forked(call: Callable[[], Any], write: int, parent: int) -> NoReturn:
    """Do what a forked process does, and end it without what this one does at its end."""
    code = 1
    try:
        os.setpgid(0, 0)  # a terminal's Ctrl-C is for the one that waits
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # and so is what is typed
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _end_with_parent(parent)
        # A thread of the other process, as one that shows progress, may hold locks of the streams that were there.
        sys.stdout, sys.stderr = _stream(1), _stream(2)
        pipe = os.fstat(write)
        content = _outcome_of(call)
        if os.path.samestat(os.fstat(write), pipe):  # else the call has closed it, and opened another
            with open(write, "wb") as file:
                file.write(content)
        _flush()
        code = 0
    finally:
        os._exit(code)


def _serve() -> None:
    """Do what a fresh process does: read what to call and where to write what came of it."""
    path = pickle.load(sys.stdin.buffer)
    call = cloudpickle.load(sys.stdin.buffer)

    # Not by way of sys.stdin: what the call forks closes that, and would wait for the thread that reads.
    pipe = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)

    def end_with_parent() -> None:
        os.read(pipe, 1)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    content = _outcome_of(call)
    Path(path).write_bytes(content)
    _flush()
    os._exit(0)


def _stream(number: int) -> TextIO:
    return open(number, "w", buffering=1, errors="backslashreplace", closefd=False)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # whatever the call has put there
            stream.flush()


def _outcome_of(call: Callable[[], Any]) -> bytes:
    try:
        return pickle.dumps((True, call()))
    except BaseException as error:
        raised: BaseException = error
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # many of others' can't be pickled, or not be made again
            raised = RuntimeError(f"{type(error).__name__}: {error}")
        if not isinstance(raised, Exception):  # it is to end a trial, not the process that waits for it
            raised = RuntimeError(f"{type(error).__name__}: {error}")
        raised.add_note(traceback.format_exc())  # which doesn't travel by itself
        return pickle.dumps((False, raised))


def _outcome(content: bytes, code: int) -> Any:
    if code or not content:
        if code < 0:
            raise ProcessDiedError(
                f"its process died ({signal.Signals(-code).name}), killed from outside or because memory ran out"
            )
        raise ProcessDiedError(f"its process died (exit code {code}): something in it called os._exit, or the like")
    returned, value = pickle.loads(content)
    if returned:
        return value
    raise value


def _wait(child: int, read: int, waited_for: Callable[[], bool]) -> tuple[bytes, int]:
    """Read what a forked process writes until it ends: its own processes may hold the pipe for longer."""
    content = bytearray()
    os.set_blocking(read, False)
    with selectors.DefaultSelector() as ready:
        ready.register(read, selectors.EVENT_READ)
        while True:
            ready.select(_SECONDS)
            ended, status = os.waitpid(child, os.WNOHANG)
            more = _drain(read, content)
            if ended:
                return bytes(content), status
            if not more:
                return bytes(content), os.waitpid(child, 0)[1]
            if not waited_for():
                os.kill(child, signal.SIGKILL)


def _drain(file: int, content: bytearray) -> bool:
    """Add what is there to read; say whether more may come."""
    with suppress(BlockingIOError):
        while part := os.read(file, 1 << 16):
            content += part
        return False
    return True


def _end_group(leader: int) -> None:
    """End the processes that one has started and left."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):  # there are none; macOS says the latter of dead ones
            os.killpg(leader, signal.SIGKILL)


def _end_with_parent(parent: int) -> None:
    """Have the system end this process when the one that forked it ends, however that comes."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended already
        os._exit(1)
