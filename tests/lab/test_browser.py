"""The report in a real browser: drawn, silent, self-contained, operable, and deaf to hostile names."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from helpers.made_up_study import EPOCHS, SEEDS, STUDY, fill
from weight_feedback.lab.report.figures import figures
from weight_feedback.lab.report.page import page
from weight_feedback.lab.statistics.analysis import analyse
from weight_feedback.lab.store.store import Store

CHROMIUM = shutil.which("chromium")
# Without the latter ones, the browser itself looks for its maker's hosts.
FLAGS = ["no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
         "disable-component-update", "disable-sync"]  # fmt: skip
HOSTILE = "<img src=x onerror=window.canary=1><script>window.canary=1</script>"
#: What each arm's label goes on with.
LABELS = {
    "none": HOSTILE,
    "constant": "</script><!-- ]]> &lt;b&gt; '+(window.canary=1)+' `${canary=1}` \\",
    "yoked": '"onmouseover="window.canary=1" x=\'{{7*7}}\' $\\frac{1}{0}$ =1+1 ../x [a](b) _x',
    "own": f"{HOSTILE} 🧠 עברית",
}

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and importlib.util.find_spec("playwright")) and not os.environ.get("WEIGHT_FEEDBACK_BROWSER"),
    reason="needs Debian's chromium and playwright; WEIGHT_FEEDBACK_BROWSER=1 makes this an error",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[f"--{flag}" for flag in FLAGS])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("report")
    arms = tuple(arm.model_copy(update={"label": f"{arm.name} {LABELS[arm.name]}"}) for arm in STUDY.arms)
    study = STUDY.model_copy(update={"arms": arms, "title": HOSTILE})
    analysis = analyse(study, fill(Store(folder), study))
    path = folder / "report.html"
    path.write_text(page(analysis, figures(analysis), HOSTILE), encoding="utf-8")
    return path.as_uri()


Open = Callable[..., Any]


@pytest.fixture
def opened(browser, report) -> Iterator[Open]:
    """Open the report; at the end, there must have been no error, no message and no other request."""
    seen: list[str] = []
    contexts = []

    def open_report(**settings: Any) -> Any:
        contexts.append(browser.new_context(**settings))
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: seen.append(message.text))
        tab.on("pageerror", lambda error: seen.append(str(error)))
        tab.on("request", lambda request: seen.append(request.url) if request.url != report else None)
        tab.goto(report)
        tab.wait_for_selector("html[data-drawn=yes]")
        return tab

    yield open_report
    for context in contexts:
        assert not any(tab.evaluate("window.canary") for tab in context.pages)
        context.close()
    assert seen == []


def marks(tab: Any, chart: str, kind: str) -> int:
    return tab.locator(f"#{chart} .mark-{kind} path").count()


# The points of means in the learning curves: those of the last layer.
POINTS = "[...document.querySelectorAll('#curves .mark-symbol.role-mark')].at(-1).childElementCount"
# Half a pixel is rounding.
CLIPPED = """[...document.querySelectorAll('.chart svg')].flatMap(chart => {
    const edges = chart.getBoundingClientRect();
    return [...chart.querySelectorAll('.role-axis text')].filter(text => {
        const { left, right } = text.getBoundingClientRect();
        return left < edges.left - 0.5 || right > edges.right + 0.5;
    }).map(text => text.textContent);
})"""
OPACITIES = (
    "[...document.querySelectorAll('#curves .mark-line.role-mark path')]"
    ".map(line => Number(line.getAttribute('opacity') ?? 1))"
)


def test_charts_are_drawn(opened) -> None:
    tab = opened()
    assert marks(tab, "forest", "symbol") == 5
    assert marks(tab, "differences", "symbol") == 5 * SEEDS
    assert marks(tab, "swaps", "symbol") == 3 * SEEDS
    for name in ("z_norm", "z_drift", "z_share"):
        # Three arms hear something; legends have a symbol each.
        assert tab.locator(f"#{name} .mark-line.role-mark path").count() == 3
    assert tab.evaluate(POINTS) == 3 * (EPOCHS - 1)  # the first epoch is cut off


def test_arms_and_epochs_can_be_chosen_with_the_keyboard(opened) -> None:
    tab = opened()
    constant = tab.get_by_role("checkbox", name="constant")
    assert not constant.is_checked()
    constant.focus()
    tab.keyboard.press("Space")
    tab.wait_for_function(f"{POINTS} == 8")
    first = tab.locator("fieldset[data-figure=curves] input[type=range]")
    first.focus()
    tab.keyboard.press("ArrowLeft")
    tab.wait_for_function(f"{POINTS} == 12")
    assert tab.locator("fieldset output").inner_text() == "1"


def test_a_click_on_the_legend_isolates_an_arm(opened) -> None:
    tab = opened()
    before = tab.evaluate(OPACITIES)
    assert before.count(1) == 3
    tab.locator("#curves .role-legend-label text").first.click()
    tab.wait_for_function(f"{OPACITIES}.filter(opacity => opacity == 1).length == 1")


def test_the_legend_offers_only_what_is_shown(opened) -> None:
    tab = opened()
    labels = tab.locator("#curves .role-legend-label text")
    assert labels.count() == 3
    boxes = tab.locator("fieldset[data-figure=curves]")
    for name in ("none", "yoked"):
        boxes.get_by_role("checkbox", name=name).uncheck()
    tab.wait_for_function("document.querySelectorAll('#curves .role-legend-label text').length == 1")
    last = boxes.get_by_role("checkbox", name="own")
    last.click()
    assert last.is_checked()  # a picture of nothing has no axes
    assert tab.evaluate(POINTS) == EPOCHS - 1


def test_pictures_of_the_signal_can_be_thinned_out_with_the_keyboard(opened) -> None:
    tab = opened()
    tab.locator("#z_norm-heading ~ .choice summary").focus()
    tab.keyboard.press("Enter")
    tab.locator("fieldset[data-figure=z_norm]").get_by_role("checkbox", name="constant").focus()
    tab.keyboard.press("Space")
    tab.wait_for_function("document.querySelectorAll('#z_norm .mark-line.role-mark path').length == 2")
    assert tab.locator("#z_drift .mark-line.role-mark path").count() == 3


def test_print_unfolds_the_numbers_and_folds_them_again(opened) -> None:
    tab = opened()
    tab.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert tab.locator("details.numbers[open]").count() == 7
    tab.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert tab.locator("details.numbers[open]").count() == 0
    tab.emulate_media(media="print", color_scheme="dark")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_hovering_shows_the_numbers_and_names_stay_text(opened) -> None:
    tab = opened()
    tab.locator("#curves .mark-symbol.role-mark").last.locator("path").last.hover()
    tooltip = tab.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    assert HOSTILE in tooltip.inner_text()
    assert tooltip.locator("img, script").count() == 0
    assert "mean, %" in tooltip.inner_text()


def test_names_are_shown_as_they_are(opened) -> None:
    tab = opened()
    assert tab.title() == tab.locator("h1").inner_text() == HOSTILE
    boxes = tab.locator("fieldset[data-figure=curves] input[type=checkbox]").all()
    assert [box.get_attribute("value") for box in boxes] == [f"{name} {label}" for name, label in LABELS.items()]
    cells = tab.locator("section[aria-labelledby=arms-heading] tbody th").all_text_contents()
    assert cells == [f"{name} {label}" for name, label in LABELS.items()]
    for box in boxes:  # shows them in the legend, too
        box.check()
    tab.wait_for_function("document.querySelectorAll('#curves .role-legend-label text').length == 4")


def test_dark_and_light(opened) -> None:
    colours = [
        opened(color_scheme=scheme).evaluate(
            "[getComputedStyle(document.body).backgroundColor,"
            " getComputedStyle(document.querySelector('#forest .role-axis-label text')).fill,"
            " getComputedStyle(document.querySelector('#differences .mark-symbol path')).fill]"
        )
        for scheme in ("light", "dark")
    ]
    assert colours == [
        ["rgb(255, 255, 255)", "rgb(26, 26, 26)", "rgb(0, 114, 178)"],
        ["rgb(22, 24, 27)", "rgb(232, 232, 232)", "rgb(61, 159, 224)"],
    ]


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(opened, width) -> None:
    tab = opened(viewport={"width": width, "height": 800})
    assert tab.evaluate("document.scrollingElement.scrollWidth") <= width
    assert tab.evaluate("[...document.querySelectorAll('.chart svg')].every(c => c.clientWidth <= innerWidth)")
    assert tab.evaluate(CLIPPED) == []


def test_charts_have_names_and_tables(opened) -> None:
    tab = opened()
    named = tab.locator(".chart[role=graphics-document]").all()
    assert len(named) == 7
    assert "Declared: own − none" in named[0].get_attribute("aria-label")
    assert len({chart.get_attribute("aria-label") for chart in named}) == 7
    assert tab.locator("details table").count() == 7
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the verdicts"
