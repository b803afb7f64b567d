"""The report of a study as one page of HTML, which needs nothing but itself."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

from weight_feedback.lab.report.figures import VEGA_LITE, Figure
from weight_feedback.lab.report.markdown import (
    arm_cells,
    code_of,
    contrast_cells,
    error_rates,
    failures,
    mixtures,
    number,
    speaks_of,
    trained_on,
)
from weight_feedback.lab.statistics.analysis import Analysis
from weight_feedback.lab.statistics.gate import ranges
from weight_feedback.lab.statistics.outcomes import with_unit
from weight_feedback.lab.tasks.base import CODE
from weight_feedback.lab.tasks.fields import flat
from weight_feedback.untrusted import printable

TEMPLATES = resources.files("weight_feedback.lab.report") / "templates"


def page(analysis: Analysis, figures: Sequence[Figure], command: str) -> str:
    """Return the report; the same analysis gives the same page.

    Vega, Vega-Lite and Vega-Embed are in it. Its security policy allows no request at all, and no script or style
    but those that were written into it here: whatever a study calls its arms, it stays text.

    Args:
        analysis: of at least one finished trial.
        figures: of the analysis.
        command: that makes these results.
    """
    scripts, style = (_library(), _template("report.js")), _template("report.css")
    headings, rows = arm_cells(analysis.study, analysis.arms, means=not analysis.mixed)
    times = [f"{number(float(result.seconds.mean()), 1)} s" for result in analysis.arms if result.seeds]
    html = _layout().render(
        study=analysis.study,
        analysis=analysis,
        figures=figures,
        summary=_summary(analysis),
        arms=([*headings, "time of a trial"], [[*row, time] for row, time in zip(rows, times, strict=True)]),
        exploratory=contrast_cells(analysis.exploratory, analysis.outcome.differences),
        failures=failures(analysis),
        error_rates=error_rates(analysis) if analysis.study.declared else "",
        speaks_of=speaks_of(analysis.study),
        settings=_settings(analysis),
        provenance=_provenance(analysis),
        mixtures=mixtures(analysis),
        command=command,
        style=Markup(style),
        data=_json(
            [{"name": figure.name, "spec": {**figure.spec, "description": figure.alt}} for figure in figures]
        ),
        library=Markup(scripts[0]),
        script=Markup(scripts[1]),
        # The quotes of a policy are single ones.
        script_hashes=Markup(" ".join(map(_hash, scripts))),
        style_hash=Markup(_hash(style)),
    )
    return html + "\n"


@functools.cache
def _library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script."""
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    # Inside of HTML, this would end the script.
    return bundle.replace("</script", "<\\/script")


@functools.cache
def _layout() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_template("report.html"))


def _template(name: str) -> str:
    return (TEMPLATES / name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(value: Any) -> Markup:
    """Return JSON that HTML can't read as anything else."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _summary(analysis: Analysis) -> str:
    study = analysis.study
    trials = sum(len(result.seeds) for result in analysis.arms)
    names = [printable(name) for name in analysis.data if name != CODE]
    data = f"{', '.join(names)}, " if names else ""
    epochs = max((result.epochs for result in analysis.arms), default=0)
    length = f", {epochs} epochs" if epochs > 1 else ""
    return f"{study.name}: {data}{len(analysis.arms)} arms × {study.seeds} seeds{length}; {trials} finished trials."


def _settings(analysis: Analysis) -> list[list[str]]:
    study, declared = analysis.study, analysis.study.declared
    rows = [["task", study.task], ["seeds", ranges(study.seed_numbers())]]
    rows += [[name, _value(value)] for name, value in flat(study.shared_values())]
    if declared is not None:
        rows += [
            ["primary contrasts", "; ".join(f"{a} − {b}" for a, b in declared.primary)],
            ["outcome", analysis.outcome.title],
            ["margin of equivalence", f"±{with_unit(f'{declared.margin:g}', analysis.outcome.differences)}"],
            ["confidence", f"{declared.confidence:g}"],
            ["error rate", "of each family of claims" if declared.error == "each" else "of all claims together"],
            *([["why this margin", declared.why]] if declared.why else []),
        ]
    for arm, values in study.arm_values().items():
        changed = [f"{name} {_value(value)}" for name, value in flat(values)]
        rows.append([f"arm {arm}", ", ".join(changed)])
    return rows


def _value(value: Any) -> str:
    return printable(value if isinstance(value, str) else json.dumps(value))


def _provenance(analysis: Analysis) -> list[list[str]]:
    seconds = sum(provenance["seconds"] for provenance in analysis.provenance)
    started = analysis.made_with("started")
    names = ("weight_feedback", "torch", "numpy", "python", "machine", "device", "threads")
    return [
        *([["data", data]] if (data := trained_on(analysis)) else []),
        *([["code", f"digest {digest}"]] if (digest := code_of(analysis)) else []),
        *([name.replace("_", "-"), printable(", ".join(analysis.made_with(name)))] for name in names),
        ["trials started", printable(f"{started[0]} to {started[-1]}")],
        ["time of all trials together", f"{number(seconds / 60, 1)} minutes on one core each"],
    ]
