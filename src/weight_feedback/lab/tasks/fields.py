"""What settings of every task are made of, and how they are told apart."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError
from safetensors.numpy import save

from weight_feedback.untrusted import printable, shown

#: Wrong fields that a message lists.
MOST_WRONG = 20

# Names become parts of file names and URLs.
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", max_length=64)]


# Without an upper bound, a typing error keeps a machine busy for years, or takes all of its memory.
Count = Annotated[int, Field(ge=1, le=1_000_000)]


def _one_line(text: str) -> str:
    """Refuse what can't be shown without harm: line ends, escape sequences, marks that turn writing around."""
    turns = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    for place, character in enumerate(text, start=1):
        control = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        # U+FFFE and U+FFFF are no characters: XML, and so SVG, has no room for them.
        if control or unicodedata.bidirectional(character) in turns or ord(character) & 0xFFFE == 0xFFFE:
            raise ValueError(
                "expected one line of text, without control characters and marks that turn the direction of "
                f"writing; got {character!a} as character {place}"
            )
    return text


# Of titles and labels, which are text to people and to no program.
ONE_LINE = AfterValidator(_one_line)


class Frozen(BaseModel):
    """A frozen model that refuses unknown keys, silent conversions, and numbers that aren't finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def flat(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values within tables, each with where it is, as in ``training.epochs``.

    Args:
        value: a table, or what is in one.
        place: where it is itself.
    """
    if not isinstance(value, dict):
        yield place, value
        return
    for name, inner in value.items():
        yield from flat(inner, ".".join(filter(None, (place, name))))


def digest(settings: Any) -> str:
    """Return 16 hex digits of the SHA-256 digest of plain values.

    Args:
        settings: what JSON can hold; the order of keys doesn't matter.
    """
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def weights_digest(arrays: Mapping[str, np.ndarray[Any, Any]]) -> str:
    """Return the hex SHA-256 digest of names, types, shapes and values of weights.

    Args:
        arrays: name to contiguous array; the order doesn't matter.
    """
    # Without metadata, whose order in a safetensors file is random.
    return hashlib.sha256(save(dict(arrays))).hexdigest()


def explain(error: ValidationError) -> str:
    """Return one line a wrong field: where it is, what was expected, what came.

    Args:
        error: what pydantic raised.
    """
    lines, places = [], [item["loc"] for item in error.errors()]
    for item in error.errors():
        size = len(item["loc"])
        if item["type"] == "too_short" and any(place[:size] == item["loc"] != place for place in places):
            continue  # it is short only of what is wrong itself
        where = ".".join(str(part) for part in item["loc"] if part not in ("projected", "sketched", "pooled"))
        came = "" if item["type"] in ("missing", "value_error") else f", got {shown(item['input'])}"
        message = _expected(item["type"], item.get("ctx", {})) or item["msg"].removeprefix("Value error, ")
        message += came
        lines.append(printable(f"{where}: {message}" if where else message))
    more = len(lines) - MOST_WRONG
    return "\n".join([*lines[:MOST_WRONG], *([f"and {more} more"] if more > 0 else [])])


#: What was expected, by pydantic's types of errors; its own messages speak of its own ways.
_EXPECTED = {
    "dict_type": "expected a table",
    "extra_forbidden": "there is no such field",
    "unexpected_keyword_argument": "there is no such field",
    "finite_number": "expected a finite number",
    "float_type": "expected a number",
    "greater_than": "expected more than {gt}",
    "greater_than_equal": "expected at least {ge}",
    "int_type": "expected a whole number",
    "less_than": "expected less than {lt}",
    "less_than_equal": "expected at most {le}",
    "literal_error": "expected {expected}",
    "missing": "needed, but missing",
    "model_type": "expected a table",
    # Names alone have a pattern.
    "string_pattern_mismatch": "expected at most 64 lower-case letters, digits, dots and dashes, beginning with a "
    "letter or digit",
    "string_too_long": "expected at most {max_length} characters",
    "string_too_short": "expected at least {min_length} characters",
    "string_type": "expected a text",
    "too_long": "expected at most {max_length} items",
    "too_short": "expected at least {min_length} items",
    "tuple_type": "expected a list",
    "union_tag_invalid": "expected a table",
}


def in_words(error: InitErrorDetails) -> InitErrorDetails:
    """Return an error whose own text says what was expected, as `explain` does, for those who see the exception.

    Args:
        error: of pydantic.
    """
    kind, context = error["type"], error.get("ctx", {})
    if not isinstance(kind, str) or not (message := _expected(kind, context)):
        return error
    own = PydanticCustomError(kind, "{message}", {**context, "message": message})
    return InitErrorDetails(type=own, loc=error["loc"], input=error["input"])


def _expected(kind: str, context: Mapping[str, Any]) -> str:
    """Return in words what was expected; nothing for an error of another kind."""
    values = {name: f"{value:g}" if isinstance(value, float) else value for name, value in context.items()}
    words = _EXPECTED.get(kind, "").format(**values)
    return words.removesuffix("s") if 1 in (context.get("min_length"), context.get("max_length")) else words
