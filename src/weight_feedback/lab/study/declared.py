"""What a study is to decide, fixed before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from weight_feedback.lab.tasks.base import MetricName
from weight_feedback.lab.tasks.fields import ONE_LINE, Frozen, Name

Contrast = Annotated[tuple[Name, Name], Field(strict=False)]
OutcomeName = Literal["final", "mean-of-last", "best", "at-best-of", "area", "first-past"]

#: Outcomes that need a field of their own, which no other has.
_NEEDS = {"first-past": "threshold", "mean-of-last": "last", "at-best-of": "of"}
#: How outcomes of the notebook's networks were spelt first, which digests of declarations go on with.
_SPELT = {
    "final-accuracy": ("accuracy", "final"),
    "area-under-curve": ("accuracy", "area"),
    "epochs-to-threshold": ("accuracy", "first-past"),
    "final-loss": ("loss", "final"),
}


class Declared(Frozen):
    """What a study is to decide, fixed before it runs."""

    primary: Annotated[tuple[Contrast, ...], Field(min_length=1, max_length=100, strict=False)]
    """The contrasts that get a verdict, each the name of an arm minus that of another."""
    metric: MetricName | None = None
    """What is compared, one of the metrics that trials report; default: the first of them."""
    outcome: OutcomeName = "final"
    """Which number a trial makes of the metric's curve."""
    threshold: float | None = None
    """Value whose first epoch is counted; for ``first-past`` alone."""
    last: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Epochs that the mean is of; for ``mean-of-last`` alone."""
    of: MetricName | None = None
    """The metric whose best epoch is taken, such as one on validation data; for ``at-best-of`` alone."""
    margin: Annotated[float, Field(gt=0, le=1e6)]
    """Differences within ± this count as equivalent, in the unit of the outcome's differences."""
    confidence: Annotated[float, Field(ge=0.5, le=0.999)] = 0.95
    """Of intervals; one minus it is the error rate of a family of verdicts."""
    error: Literal["each", "both"] = "each"
    """What the error rate is of: each of the two families, claims of a difference and claims of equivalence, which
    together have up to twice as much; or both together, which halves the level of each."""
    why: Annotated[str, Field(min_length=1, max_length=200), ONE_LINE] | None = None
    """Why this margin: a reason for readers, which decides nothing."""

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            primary: Sequence[tuple[str, str]],
            margin: float,
            metric: str | None = None,
            outcome: OutcomeName = "final",
            threshold: float | None = None,
            last: int | None = None,
            of: str | None = None,
            confidence: float = 0.95,
            error: Literal["each", "both"] = "each",
            why: str | None = None,
        ) -> None:
            """Take lists as well."""

    @model_validator(mode="before")
    @classmethod
    def _read_first_spelling(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(given.get("outcome"), str) and given["outcome"] in _SPELT:
            metric, outcome = _SPELT[given["outcome"]]
            return {"metric": metric, **given, "outcome": outcome}
        return given

    @model_validator(mode="after")
    def _outcome_has_what_it_needs(self) -> Declared:
        for outcome, field in _NEEDS.items():
            value = getattr(self, field)
            if (self.outcome == outcome) != (value is not None):
                raise ValueError(
                    f"{field}: needed by outcome {outcome!r}, and by no other; got {value} with {self.outcome!r}"
                )
        return self

    def deciding(self, metric: str) -> dict[str, Any]:
        """Return everything that determines verdicts, as plain values.

        Args:
            metric: that is compared.
        """
        said = self.model_dump(mode="json", include={"primary", "margin", "confidence"})
        spelt = {pair: name for name, pair in _SPELT.items()}.get((metric, self.outcome))
        if spelt is None:
            fields = {"metric": metric, "outcome": self.outcome}
            fields |= {name: getattr(self, name) for name in _NEEDS.values() if getattr(self, name) is not None}
            said |= fields
        elif spelt != "final-accuracy":
            said |= {"outcome": spelt, "threshold": self.threshold}
        return said if self.error == "each" else said | {"error": self.error}
