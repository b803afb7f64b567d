#!/bin/sh
# joblib 1.6.0 (its loky): the worker processes in multiprocessing.active_children() have a `kill` that raises.
#
# They are LokyProcess, a subclass of multiprocessing's BaseProcess, whose public `kill()` hands over to a Popen object.
# Loky's own Popen on POSIX has `terminate`, and no `kill`. So a loop that calls `kill()` on all
# children stops at the first worker with an AttributeError, and the workers live on; `terminate()` works.
# Seen: kill: 'Popen' object has no attribute 'kill'; alive after it: True; alive after terminate: False
set -eu
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install --quiet joblib==1.6.0
"$home/venv/bin/python" - <<'PYTHON'
import multiprocessing
import os

from joblib import Parallel, delayed

Parallel(n_jobs=2)(delayed(os.getpid)() for _ in range(4))
workers = multiprocessing.active_children()
assert len(workers) == 2 and {type(worker).__name__ for worker in workers} == {"LokyProcess"}
worker = workers[0]
assert isinstance(worker, multiprocessing.process.BaseProcess)
try:
    worker.kill()
except AttributeError as error:
    said = error
else:
    raise SystemExit("kill() works")
alive = worker.is_alive()
worker.terminate()
worker.join(60)
print(f"kill: {said}; alive after it: {alive}; alive after terminate: {worker.is_alive()}")
assert "no attribute 'kill'" in str(said) and alive and not worker.is_alive()
PYTHON
