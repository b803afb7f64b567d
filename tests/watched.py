"""A watcher of runs that writes down what it is told."""

from __future__ import annotations


class Watched:
    def __init__(self) -> None:
        self.begun: list[tuple[int, int, int]] = []
        self.seen: list[int] = []
        self.notes: list[str] = []

    def begin(self, trials: int, todo: int, epochs: int) -> None:
        self.begun.append((trials, todo, epochs))

    def progress(self, epochs: int) -> None:
        self.seen.append(epochs)

    def note(self, line: str) -> None:
        self.notes.append(line)
