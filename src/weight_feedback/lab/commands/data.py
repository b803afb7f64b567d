"""Commands on data sets: list, fetch and verify them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tyro.conf import Positional, arg, subcommand

from weight_feedback.lab.commands.options import Command, DataDir
from weight_feedback.lab.data.catalogue import NAMES

DataName = Annotated[Positional[str], arg(metavar="NAME", help=f"One of {', '.join(NAMES)}.")]


@dataclass(frozen=True)
class DataList(Command):
    """List the data sets, and where each was found."""

    data_dir: DataDir = None

    def __call__(self, console: Console) -> None:
        """Print the table."""
        from weight_feedback.lab.data import datasets

        table = Table("data set", "images", "found")
        for row in datasets.available(self.data_dir):
            where = row.where if row.found and row.where else "no: weight-feedback data fetch " + row.name
            table.add_row(row.name, f"{row.images:,}", escape(where))
        console.print(table)


@dataclass(frozen=True)
class DataFetch(Command):
    """Download a data set and check its hashes.

    For example:
        weight-feedback data fetch mnist
    """

    name: DataName
    data_dir: DataDir = None

    def __call__(self, console: Console) -> None:
        """Download, and print where to."""
        from weight_feedback.lab.data import datasets

        console.print(f"{self.name}: {datasets.fetch(self.name, self.data_dir)}")


@dataclass(frozen=True)
class DataVerify(Command):
    """Read a data set whole, and check every byte that can be checked.

    For example:
        weight-feedback data verify mnist --data-dir ~/data
    """

    name: DataName
    data_dir: DataDir = None

    def __call__(self, console: Console) -> None:
        """Verify, and print what was seen."""
        from weight_feedback.lab.data import datasets
        from weight_feedback.lab.data.published import described

        seen = datasets.verify(self.name, self.data_dir)
        train, test = (list(images.shape) for images in (seen.dataset.train_images, seen.dataset.test_images))
        console.print(
            f"{self.name}: complete, in {seen.where}; training images {train}, test images {test}", markup=False
        )
        console.print(f"  {described(self.name, seen.dataset.fingerprint)}", markup=False)
        for check in seen.files:
            verdict = {True: "as published", False: "not as published", None: "none is published"}[check.matches]
            console.print(f"  {check.file.name}: MD5 {check.md5}, {verdict}", markup=False)
        for note in seen.notes:
            console.print(f"  note: {note}", markup=False)


@dataclass(frozen=True)
class Data(Command):
    """List, fetch and verify data sets.

    Nothing is ever downloaded unless you ask for it here.
    """

    action: (
        Annotated[DataList, subcommand("list", prefix_name=False)]
        | Annotated[DataFetch, subcommand("fetch", prefix_name=False)]
        | Annotated[DataVerify, subcommand("verify", prefix_name=False)]
    )

    def __call__(self, console: Console) -> None:
        """Do what was chosen."""
        self.action(console)
