"""Fire at every parser of what comes from outside: at random, and, with atheris, led by coverage.

`python tests/fuzz.py` runs a million inputs a parser at random, and, where atheris is installed (`pip install
'.[fuzz]'`), 200,000 more that are led by coverage. An input that a parser neither takes nor refuses is kept in a
file, and ends the run; `--again FILE` runs it once more.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import time
from pathlib import Path

#: What atheris follows: the parsers, and those of Python's own that they are built on.
FOLLOWED = [
    "weight_feedback.lab",
    "weight_feedback.configs",
    "weight_feedback.pretrained",
    "tomllib",
    "pickletools",
]


def main() -> int:
    """Read the arguments, and run what they ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="PARSER", help="default: all")
    parser.add_argument("--runs", type=int, default=1_000_000, help="inputs a parser, at random")
    parser.add_argument("--seed", type=int, default=0, help="of these")
    parser.add_argument("--guided", type=int, default=200_000, help="inputs a parser, led by coverage")
    parser.add_argument("--kept", type=Path, default=Path("fuzz-failures"), help="folder for inputs that fail")
    parser.add_argument("--again", type=Path, metavar="FILE", help="run this one input")
    parser.add_argument("--guide", action="store_true", help=argparse.SUPPRESS)  # in a process of its own
    args = parser.parse_args()
    # In memory, where there is such a folder: each input of some parsers is a file.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        if args.guide:
            guide(args.names[0], args.guided, args.kept, Path(folder))
        return at_random(args, Path(folder))


def at_random(args: argparse.Namespace, folder: Path) -> int:
    """Run inputs at random here, and then inputs led by coverage in a process of their own, parser by parser."""
    from helpers import fuzzing
    from helpers.parsers import targets

    made = targets(folder)
    unknown = [name for name in args.names if name not in made]
    if unknown:
        sys.exit(f"expected parsers among {', '.join(made)}, got {', '.join(unknown)}")
    led = importlib.util.find_spec("atheris") is not None
    for name in args.names or made:
        if args.again:
            taken = fuzzing.again(name, made[name], args.again, args.kept)
            print(f"{name}: {'valid' if taken else 'refused'}")
            continue
        start = time.perf_counter()
        outcome = fuzzing.fire(name, made[name], args.runs, args.seed, args.kept)
        seconds = time.perf_counter() - start
        print(f"{name}: {args.runs:,} at random in {seconds:.0f} s: {outcome.valid:,} valid, the rest refused")
        if led and args.guided:
            options = ["--guide", f"--guided={args.guided}", f"--kept={args.kept}"]
            command = [sys.executable, __file__, name, *options]
            log = subprocess.run(command, capture_output=True, text=True, check=False)
            last = [line for line in log.stderr.splitlines() if "cov:" in line][-1:]
            print(f"{name}: {args.guided:,} led by coverage: {' '.join(last) or log.stderr[-2000:]}")
            if log.returncode:
                return 1
    if not led:
        print("atheris isn't installed, so none were led by coverage: pip install 'weight-feedback[fuzz]'")
    return 0


def guide(name: str, runs: int, kept: Path, folder: Path) -> None:
    """Let atheris make the inputs; this ends the process."""
    import atheris

    with atheris.instrument_imports(include=FOLLOWED):
        from helpers import fuzzing
        from helpers.parsers import targets

    target = targets(folder / "files")[name]
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(target.seeds):
        (corpus / str(number)).write_bytes(seed)
    kept.mkdir(parents=True, exist_ok=True)

    def run(data: bytes) -> None:
        fuzzing.survives(name, target, data, kept, seconds=None)
        if target.mend:
            fuzzing.survives(name, target, target.mend(data), kept, seconds=None)

    longest = 2 * max(map(len, target.seeds)) + 4096
    options = [
        f"-runs={runs}",
        f"-max_len={longest}",
        "-timeout=60",
        "-rss_limit_mb=2048",
        f"-artifact_prefix={kept}/",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], run)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
