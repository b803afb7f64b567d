"""Draws how packages import each other: the layers of the import contracts, and the imports that there are.

python docs/packages.py    # writes docs/packages.png
"""

from __future__ import annotations

import ast
import json
import tomllib
from pathlib import Path

import grimp
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).parent.parent
PICTURE = Path(__file__).with_suffix(".png")
LAB, LIBRARY = "weight_feedback.lab", "weight_feedback"
#: Where the two columns are, and how wide their boxes.
LAB_LEFT, LIBRARY_LEFT, WIDTH = 0.0, 11.2, 7.2


def layers(container: str) -> list[list[str]]:
    """Return the layers of a contract, from the top, each with its modules.

    Args:
        container: whose modules they are.
    """
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    (found,) = [one["layers"] for one in contracts if one.get("containers") == [container]]
    return [[name.strip() for name in layer.split("|")] for layer in found]


def imports() -> set[tuple[str, str]]:
    """Return which packages of the lab import which others, or the library."""
    graph = grimp.build_graph(LIBRARY, cache_dir=None)
    pairs = {
        (_package(module), _package(imported))
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
    }
    return {(one, other) for one, other in pairs if one not in (other, LIBRARY, "") and other}


def _package(module: str) -> str:
    """Return the package of the lab that a module is in; the library if it is in none."""
    if not module.startswith(f"{LAB}."):
        return "" if module == LAB else LIBRARY
    return module.removeprefix(f"{LAB}.").partition(".")[0]


def shown() -> str:
    """Return all that the picture shows as JSON; it is kept in the picture, so that a stale one is found out."""
    return json.dumps({"lab": layers(LAB), "library": layers(LIBRARY), "imports": sorted(imports())})


def _sentence(package: str) -> str:
    """Return the first line of a package's docstring."""
    source = (ROOT / "src" / "weight_feedback" / "lab" / package / "__init__.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def _box(axes: plt.Axes, left: float, bottom: float, height: float, colour: str) -> None:
    box = FancyBboxPatch(
        (left, bottom),
        WIDTH,
        height,
        boxstyle="round,pad=0,rounding_size=0.12",
        facecolor=colour,
        edgecolor="#555555",
    )
    axes.add_patch(box)


def _arrow(axes: plt.Axes, start: tuple[float, float], end: tuple[float, float], bend: float) -> None:
    arrow = FancyArrowPatch(
        start,
        end,
        connectionstyle=f"arc3,rad={bend}",
        arrowstyle="-|>",
        mutation_scale=9,
        linewidth=1,
        color="#4477aa",
        alpha=0.75,
        shrinkA=0,
        shrinkB=0,
    )
    axes.add_patch(arrow)


def draw() -> None:
    """Write the picture."""
    rooms = [layer[0] for layer in layers(LAB)]
    parts = layers(LIBRARY)
    figure, axes = plt.subplots(figsize=(12.5, 7.4), layout="constrained")
    height, gap = 0.85, 0.35
    bottoms = {name: -(height + gap) * i for i, name in enumerate(rooms)}
    for name, bottom in bottoms.items():
        _box(axes, LAB_LEFT, bottom, height, "#eef3f8")
        axes.text(LAB_LEFT + 0.2, bottom + 0.55, name, fontsize=11, fontweight="bold", va="center")
        axes.text(LAB_LEFT + 0.2, bottom + 0.24, _sentence(name), fontsize=7.5, va="center", color="#333333")
    for importer, imported in sorted(imports()):
        if imported == LIBRARY or importer not in bottoms or imported not in bottoms:
            continue
        distance = rooms.index(imported) - rooms.index(importer)
        start = (LAB_LEFT + WIDTH, bottoms[importer] + height * 0.35)
        end = (LAB_LEFT + WIDTH, bottoms[imported] + height * 0.65)
        _arrow(axes, start, end, -0.75 if distance == 1 else -0.55)
    top, floor = bottoms[rooms[0]] + height, bottoms[rooms[-1]]
    step = (top - floor) / len(parts)
    for i, names in enumerate(parts):
        bottom = top - (i + 1) * step + 0.12
        _box(axes, LIBRARY_LEFT, bottom, step - 0.24, "#f6f1e7")
        axes.text(
            LIBRARY_LEFT + WIDTH / 2,
            bottom + (step - 0.24) / 2,
            "   ".join(names),
            fontsize=9,
            ha="center",
            va="center",
        )
    axes.text(LAB_LEFT, top + 0.45, "the lab: weight_feedback.lab", fontsize=12)
    axes.text(LIBRARY_LEFT, top + 0.45, "the library: weight_feedback", fontsize=12)
    axes.text(
        LAB_LEFT,
        floor - 0.55,
        "Imports point down. Each arrow is a pair of packages of which one imports the other; "
        "the lab's packages import the library, which never imports the lab.",
        fontsize=8,
        color="#333333",
    )
    axes.set_xlim(-0.2, LIBRARY_LEFT + WIDTH + 0.2)
    axes.set_ylim(floor - 0.8, top + 0.9)
    axes.axis("off")
    figure.savefig(PICTURE, dpi=110, metadata={"Software": None, "Description": shown()})
    plt.close(figure)


if __name__ == "__main__":
    draw()
