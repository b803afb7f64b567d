"""Pictures: what they show, read back from the SVG, and that they are the same each time."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from weight_feedback.lab.report.plots import plot_dimension, plot_means
from weight_feedback.lab.statistics.dimension import estimate

AXIS = "accuracy %"
CURVES = {
    "w/o weight feedback": np.array([[90.0, 95.0, 96.0], [92.0, 94.0, 97.0]]),
    "w/ Weight feedback": np.array([[91.0, 95.5, 96.5], [93.0, 94.5, 97.5]]),
}


def texts(svg: str) -> str:
    """The texts of a picture; matplotlib draws letters as outlines, and keeps each text in a comment."""
    return "\n".join(re.findall(r"<!-- (.*?) -->", svg))


def test_a_picture_has_the_originals_axes_and_labels(tmp_path) -> None:
    svg, png = tmp_path / "deep" / "a.svg", tmp_path / "deep" / "a.png"
    plot_means(CURVES, "The title", AXIS, [svg, png])
    shown = texts(svg.read_text())
    for text in (*CURVES, "The title", "epochs", "accuracy %", "mean ± 1 standard deviation, 2 seeds"):
        assert text in shown
    assert png.read_bytes().startswith(b"\x89PNG")
    assert svg.read_text().count('id="FillBetweenPolyCollection_') == 2


def test_one_seed_has_no_band(tmp_path) -> None:
    svg = tmp_path / "a.svg"
    plot_means({label: values[:1] for label, values in CURVES.items()}, "t", AXIS, [svg])
    assert "FillBetweenPolyCollection" not in svg.read_text()
    assert "one seed" in texts(svg.read_text())


def test_many_arms_have_lines_of_their_own_and_no_bands(tmp_path) -> None:
    svg = tmp_path / "a.svg"
    plot_means({str(arm): CURVES["w/o weight feedback"] + arm for arm in range(12)}, "t", AXIS, [svg])
    drawn = svg.read_text()
    assert "FillBetweenPolyCollection" not in drawn
    assert "mean, 2 seeds" in texts(drawn)
    styles = set(re.findall(r"stroke-dasharray: [^;\"]*|stroke: #[0-9a-f]{6}(?=; stroke-width: 1.8)", drawn))
    assert len([style for style in styles if "dasharray" in style]) >= 1
    assert len([style for style in styles if style.startswith("stroke: ")]) >= 7


def uncut(png: Path) -> tuple[int, int]:
    """Check that nothing touches the edges of a picture, and return its width and height in pixels."""
    pixels = imread(png)[..., :3]
    for edge in (pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:]):
        assert (edge == 1).all()
    return pixels.shape[1], pixels.shape[0]


def long(arm: int, letter: str = "x") -> str:
    return f"{arm}: the network hears itself {letter * 80}"[:80]


@pytest.mark.parametrize("letter", ["x", "W"])
@pytest.mark.parametrize("arms", [2, 8, 30, 100])
def test_legend_and_title_have_room_whatever_their_length(tmp_path, arms, letter) -> None:
    svg, png = tmp_path / "a.svg", tmp_path / "a.png"
    curves = {long(arm, letter): CURVES["w/o weight feedback"] + arm / arms for arm in range(arms)}
    title = " ".join([letter * 19] * 10)
    plot_means(curves, title, AXIS, [svg, png])  # a warning would be an error
    width, height = uncut(png)
    named = min(arms, 7) if arms > 21 else arms
    assert height > 800 + 25 * named
    assert width == 1280 or letter == "W"
    shown = texts(svg.read_text())
    assert [label for label in curves if label in shown] == [*curves][:named]
    assert shown.count(letter * 19) >= 10


def test_few_arms_have_their_legend_among_the_lines(tmp_path) -> None:
    plot_means(
        {str(arm): CURVES["w/o weight feedback"] + arm for arm in range(12)}, "t", AXIS, [tmp_path / "a.png"]
    )
    assert uncut(tmp_path / "a.png") == (1280, 800)


def test_of_more_arms_than_looks_those_that_come_first_are_named(tmp_path) -> None:
    svg = tmp_path / "a.svg"
    curves = {f"arm {arm}.": CURVES["w/o weight feedback"] + arm / 100 for arm in range(100)}
    plot_means(curves, "t", AXIS, [svg], first=["arm 70.", "arm 40."])
    shown = texts(svg.read_text())
    assert [label for label in curves if label in shown] == ["arm 40.", "arm 70."]
    assert "and 98 more, thin and grey: see the report's table" in shown.replace("&#x27;", "'")
    # The lines, and the one in the legend.
    assert len(re.findall(r"stroke: #b3b3b3; stroke-width: 0.6", svg.read_text())) == 98 + 1


def test_letters_that_the_font_lacks_are_told(tmp_path) -> None:
    assert plot_means(CURVES, "t", AXIS, [tmp_path / "a.png"]) == ""
    assert plot_means({"重み": np.ones((1, 2))}, "🧠 t", AXIS, [tmp_path / "a.png", tmp_path / "a.svg"]) == "🧠重み"


def test_arms_with_different_seed_counts_are_said_to_be_so(tmp_path) -> None:
    svg = tmp_path / "a.svg"
    plot_means({"a": CURVES["w/o weight feedback"], "b": np.ones((5, 3))}, "t", AXIS, [svg])
    assert "2 to 5 seeds" in texts(svg.read_text())


def test_what_is_missing_leaves_gaps(tmp_path) -> None:
    """As of a metric that isn't reported after each epoch, or by some trials alone."""
    nan = np.nan
    rows = np.array([[nan, 95.0, nan, 96.0], [nan, 94.0, 93.0, 97.0]])
    svg = tmp_path / "a.svg"
    plot_means({"some": rows, "none": np.full((2, 4), nan)}, "t", AXIS, [svg])  # a warning would be an error
    assert "nan" not in texts(svg.read_text()).lower()


def test_the_same_arrays_give_the_same_file(tmp_path) -> None:
    for name in ("a", "b"):
        plot_means(CURVES, "t", AXIS, [tmp_path / f"{name}.svg", tmp_path / f"{name}.png"])
    for suffix in ("svg", "png"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_a_picture_takes_the_place_of_an_older_one_as_a_whole(tmp_path, suffix) -> None:
    path = tmp_path / f"a.{suffix}"
    plot_means(CURVES, "t", AXIS, [path])
    content = path.read_bytes()
    with path.open("rb") as older:
        plot_means(CURVES, "another", AXIS, [path])
        assert older.read() == content  # nothing was written into the file that was there
    assert path.read_bytes() != content


def test_labels_are_text_whatever_they_contain(tmp_path) -> None:
    svg = tmp_path / "a.svg"
    plot_means({r"$\frac{1}$ <script>alert(1)</script>": np.ones((1, 2))}, "$\\oops{", AXIS, [svg])
    assert "<script>" not in svg.read_text()


@pytest.mark.parametrize(
    ("curves", "message"), [({}, "no curves"), ({"a": np.ones(3)}, r"'a' must have shape .* got \(3,\)")]
)
def test_bad_input(tmp_path, curves, message) -> None:
    with pytest.raises(ValueError, match=message):
        plot_means(curves, "t", AXIS, [tmp_path / "a.svg"])


# Dimensions

RISING = {100: [80.0, 82.0], 200: [87.0, 88.0], 1000: [92.0, 93.0]}


def test_a_picture_of_dimensions_shows_seeds_fit_threshold_estimate_and_what_is_published(tmp_path) -> None:
    svg, png = tmp_path / "deep" / "d.svg", tmp_path / "deep" / "d.png"
    measured = estimate(RISING)
    plot_dimension(measured, "The title", AXIS, [svg, png], ("Somebody 2018", 750), "%")
    shown = texts(svg.read_text())
    for text in (
        "The title",
        "dimensions of the subspace",
        "accuracy %",
        "one seed each",
        "monotone fit of the means",
        "threshold 90 %",
        f"dimensions: {measured.estimate}",
        "95 % bootstrap interval",
        "Somebody 2018: 750",
        "1,000",
    ):
        assert text in shown
    points = re.search(r'<g id="PathCollection_1">.*?</g>\s*</g>', svg.read_text(), re.S)
    assert points[0].count("<use ") == 6
    assert png.read_bytes().startswith(b"\x89PNG")
    again = tmp_path / "again.svg"
    plot_dimension(measured, "The title", AXIS, [again], ("Somebody 2018", 750), "%")
    assert again.read_bytes() == svg.read_bytes()


def test_many_dimensions_have_labels_that_do_not_touch(tmp_path) -> None:
    svg = tmp_path / "d.svg"
    tried = {d: [d / 10, d / 10 + 1] for d in range(10, 1000, 10)}
    plot_dimension(estimate(tried), "t", AXIS, [svg])
    labels = re.findall(
        r'<g id="xtick_\d+">.*?<!-- ([\d,]+) -->\s*<g [^>]*translate\(([\d.]+)', svg.read_text(), re.S
    )
    assert labels[0][0] == "10"
    assert 10 <= len(labels) < 40
    starts = [float(start) for _, start in labels]
    # A digit is 7 points wide.
    assert all(b - a > 7 * len(text) for a, b, (text, _) in zip(starts, starts[1:], labels, strict=False))
    plot_dimension(estimate({d: [1.0] for d in (50, 100, 200, 290, 400, 600)}), "t", AXIS, [svg])
    assert all(str(d) in texts(svg.read_text()).splitlines() for d in (50, 100, 200, 290, 400, 600))


@pytest.mark.parametrize(
    ("accuracy", "estimated", "band"),
    [
        ({100: [50.0, 51.0], 200: [60.0, 61.0]}, "> 200 [> 200, > 200]", False),
        ({100: [95.0, 96.0], 200: [97.0, 98.0]}, "< 100 [< 100, < 100]", False),
        ({100: [80.0], 200: [100.0]}, "141", False),
        ({100: [50.0, 51.0], 200: [80.0, 95.0]}, "> 200 [", True),
    ],
)
def test_a_picture_of_dimensions_says_what_is_a_bound(tmp_path, accuracy, estimated, band) -> None:
    svg = tmp_path / "d.svg"
    plot_dimension(estimate(accuracy), "t", AXIS, [svg])
    shown = texts(svg.read_text())
    assert f"dimensions: {estimated}" in shown.replace("&gt;", ">").replace("&lt;", "<")
    assert ("bootstrap interval" in shown) == band
    # In the legend, and where it lies if that is known.
    assert svg.read_text().count("stroke: #d55e00; stroke-width: 1.5") == 1 + (estimated == "141")
    assert "2018" not in shown
