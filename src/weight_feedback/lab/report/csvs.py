"""Tables as CSV that reads the same everywhere: text is quoted, numbers are not, and what is missing is empty."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

#: What begins a formula; in some spreadsheets the wide forms of these characters do, too.
_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def to_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """Return a table as CSV, in UTF-8.

    Text that a spreadsheet would take for a formula begins with a single quote. A missing number is an empty field
    without quotes: a quoted one would be a text, and the whole column with it.

    Args:
        columns: their names.
        rows: texts, truth values and numbers; None and NaN are missing.
    """
    lines = [columns, *rows]
    return "".join(f"{','.join(map(_field, line))}\n" for line in lines).encode()


def _field(value: Any) -> str:
    if isinstance(value, str):
        harmless = f"'{value}" if value.startswith(_FORMULAS) else value
        # Quoted, so that line ends within a text stay there.
        return '"' + harmless.replace('"', '""') + '"'
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value)
