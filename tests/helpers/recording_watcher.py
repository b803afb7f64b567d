"""A watcher of runs that writes down what it is told."""

from __future__ import annotations

from weight_feedback.lab.execution.progress import Progress


class Watched:
    def __init__(self) -> None:
        self.begun: list[tuple[int, int, int, int]] = []
        self.seen: list[int] = []
        self.standings: list[Progress] = []
        self.notes: list[str] = []

    def begin(self, trials: int, todo: int, epochs: int, jobs: int) -> None:
        self.begun.append((trials, todo, epochs, jobs))

    def progress(self, standing: Progress) -> None:
        self.seen.append(standing.epochs)
        self.standings.append(standing)

    def note(self, line: str) -> None:
        self.notes.append(line)
