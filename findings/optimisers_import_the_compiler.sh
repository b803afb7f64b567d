#!/usr/bin/env bash
# torch 2.13.0 (CPU build): making a torch.optim.SGD, which compiles nothing, imports the compiler.
#
# Seen: `import torch` leaves torch._dynamo and sympy alone; the constructor of any optimiser imports both, hundreds of
# modules, which in a short process takes more CPU than importing torch does. The functional form of the same step,
# torch.optim.sgd.sgd with fused=True, imports neither, and gives the same bits.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$folder/seen.py" <<'PYTHON'
import sys

import torch
from torch.optim.sgd import sgd

print("torch", torch.__version__)
heavy = ("torch._dynamo", "sympy")


def parameter():
    made = torch.nn.Parameter(torch.linspace(-1, 1, 7))
    made.grad = torch.linspace(2, 3, 7)
    return made


assert not any(name in sys.modules for name in heavy), "imported with torch itself"
by_function, momentum = parameter(), torch.zeros(7)
with torch.no_grad():
    sgd(
        [by_function], [by_function.grad], [momentum], fused=True,
        lr=0.1, momentum=0.5, weight_decay=0.0, dampening=0.0, nesterov=False, maximize=False,
    )
assert not any(name in sys.modules for name in heavy), "imported by the functional form"

before = len(sys.modules)
by_class = parameter()
optimiser = torch.optim.SGD([by_class], lr=0.1, momentum=0.5, fused=True)
assert all(name in sys.modules for name in heavy), "no longer imported by the constructor"
print(len(sys.modules) - before, "modules imported by the constructor, torch._dynamo and sympy among them")
optimiser.step()
assert torch.equal(by_class, by_function), "other bits"
print("the functional form imports none of them, and gives the same bits")
PYTHON
"$folder/venv/bin/python" "$folder/seen.py"
