"""Commands on data sets: list, fetch and verify them."""

from __future__ import annotations

from typing import Annotated

from rich.console import Console
from tyro.conf import Positional, arg, subcommand

from weight_feedback.lab.commands.options import Command, DataDir
from weight_feedback.lab.commands.presenting import print_available, print_verification
from weight_feedback.lab.data import datasets

DataName = Annotated[Positional[str], arg(metavar="NAME", help=f"One of {', '.join(datasets.names())}.")]


class DataList(Command):
    """List the data sets, and where each was found."""

    data_dir: DataDir = None

    def __call__(self, console: Console) -> None:
        """Print the table."""
        print_available(console, self.data_dir)


class DataFetch(Command):
    """Download a data set and check its hashes.

    For example:
        weight-feedback data fetch mnist
    """

    name: DataName
    data_dir: DataDir = None

    def __call__(self, console: Console) -> None:
        """Download, and print where to."""
        console.print(f"{self.name}: {datasets.fetch(self.name, self.data_dir)}")


class DataVerify(Command):
    """Read a data set whole, and check every byte that can be checked.

    For example:
        weight-feedback data verify mnist --data-dir ~/data
    """

    name: DataName
    data_dir: DataDir = None

    def __call__(self, console: Console) -> None:
        """Verify, and print what was seen."""
        print_verification(console, self.name, self.data_dir)


class Data(Command):
    """List, fetch and verify data sets; nothing is ever downloaded unless you ask for it here."""

    action: (
        Annotated[DataList, subcommand("list", prefix_name=False)]
        | Annotated[DataFetch, subcommand("fetch", prefix_name=False)]
        | Annotated[DataVerify, subcommand("verify", prefix_name=False)]
    )

    def __call__(self, console: Console) -> None:
        """Do what was chosen."""
        self.action(console)
