"""The command that writes a study to start from."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated

from rich.console import Console
from tyro.conf import Positional, arg

from weight_feedback.lab.commands.options import Command
from weight_feedback.lab.commands.terminal import print_text


@dataclass(frozen=True)
class New(Command):
    """Write a study of your own, to start from: a file of Python that runs as it is.

    For example:
        weight-feedback new mine.py
    """

    file: Annotated[Positional[Path], arg(metavar="FILE.py", help="Where to; it must not be there yet.")]

    def __call__(self, console: Console) -> None:
        """Write, and say what to do next."""
        if self.file.suffix != ".py" or not self.file.stem.isidentifier():
            raise ValueError(
                "new: expected a file of Python whose name can be imported, such as mine.py, got "
                f"{self.file.name!r}"
            )
        text = (resources.files("weight_feedback.lab.commands") / "skeleton.py").read_text("utf-8")
        text = text.replace("FILE.py", str(self.file)).replace('name="mine"', f'name="{self._name}"')
        text = text.replace("results/mine", f"results/{self._name}")
        try:
            with self.file.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            raise ValueError(f"new: {self.file} is there already; choose another name") from None
        except OSError as error:
            raise ValueError(f"new: {self.file} can't be written: {error.strerror}") from None
        print_text(console, f"{self.file}: `weight-feedback run {self.file}` runs it as it is; then make it yours")

    @property
    def _name(self) -> str:
        return self.file.stem.lower().replace("_", "-").strip("-") or "mine"
