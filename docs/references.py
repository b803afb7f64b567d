"""Cross references: PyTorch's names without a network, this library's names without their module, tests by name."""

from __future__ import annotations

import importlib
import inspect
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

import weight_feedback

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

HERE = Path(__file__).parent
#: Literals in pages that become links: PyTorch's names, `wf.` with a public name, and public classes.
LINKED = re.compile(r"(torch(?:\.\w+)+|(?:wf|weight_feedback)\.\w+|[A-Z]\w+)(?:\(.*\))?", re.S)


def torch_names() -> dict[str, str]:
    """Return PyTorch's names that are linked to, each with its page."""
    lines = (HERE / "torch_names.txt").read_text(encoding="utf-8").splitlines()
    entries = [line.split() for line in lines if line and not line.startswith("#")]
    return {name: page[0] if page else f"generated/{name}.html" for name, *page in entries}


def find(name: str) -> object:
    """Return what a dotted name stands for.

    Args:
        name: of a module, or of something in one.

    Raises:
        AttributeError: there is no such thing.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        owner, _, attribute = name.rpartition(".")
        return getattr(find(owner), attribute)


def full_name(thing: Any) -> str:
    """Return the name of a class or function in the module that defines it."""
    return f"{thing.__module__}.{thing.__qualname__}"


def write_inventory(path: Path) -> None:
    """Write the inventory that intersphinx reads, in place of the one that PyTorch publishes."""
    lines = []
    for name, page in torch_names().items():
        thing = find(name)
        kind = "module" if inspect.ismodule(thing) else "class" if inspect.isclass(thing) else "function"
        place = page if kind == "module" else f"{page}#{name}"
        # Annotations give the module that defines a class, such as torch.nn.modules.linear.Linear.
        names = {name, full_name(thing)} if kind == "class" else {name}
        lines += [f"{each} py:{kind} 1 {place} -\n" for each in sorted(names)]
    head = "# Sphinx inventory version 2\n# Project: torch\n# Version: \n# The rest is compressed by zlib.\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head.encode() + zlib.compress("".join(lines).encode()))


class LinkLiterals(SphinxTransform):
    """In pages (not in docstrings), code that is just a name becomes a link."""

    default_priority = 400

    def apply(self, **_: object) -> None:
        """Put references around the literals of one page."""
        for literal in [*self.document.findall(nodes.literal)]:
            match = LINKED.fullmatch(literal.astext())
            ancestor: Any = literal
            inside: list[type] = []
            while ancestor.parent is not None:
                ancestor = ancestor.parent
                inside.append(type(ancestor))
            if match is None or {nodes.title, nodes.reference, addnodes.desc, addnodes.pending_xref} & {*inside}:
                continue
            name = match[1]
            if name.startswith(("torch.", "wf.")) or name.rpartition(".")[2] in weight_feedback.__all__:
                link = addnodes.pending_xref(
                    "", literal.deepcopy(), refdomain="py", reftype="obj", reftarget=name, refwarn=True
                )
                literal.replace_self(link)


def resolve(app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.Node) -> Any:
    """Find what has neither been found in its own module nor by its full name."""
    if node.get("refdomain") != "py":
        return None
    target = re.sub(r"^(wf|weight_feedback)\.", "", node["reftarget"])
    name, dot, member = target.partition(".")
    if name in weight_feedback.__all__:
        target = f"{full_name(getattr(weight_feedback, name))}{dot}{member}"
        return env.domains["py"].resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, content)
    # From an annotation that could not be evaluated, or a bare class: for intersphinx, which comes next.
    known = [full for full in torch_names() if full.endswith(f".{target}") and name[0].isupper()]
    if name == "nn" or len(known) == 1:
        node["reftarget"] = known[0] if known else f"torch.{target}"
    return None


def name_tests(app: Sphinx, document: nodes.document) -> None:
    """Make each test in the table of what this works with a target."""
    if app.env.docname != "works-with":
        return
    labels = app.env.domains.standard_domain
    for row in document.findall(nodes.row):
        for literal in row.findall(nodes.literal):
            if match := re.search(r"::(test_\w+)$", literal.astext()):
                literal["ids"] = [match[1].replace("_", "-")]
                labels.anonlabels[match[1]] = app.env.docname, literal["ids"][0]
                labels.labels[match[1]] = app.env.docname, literal["ids"][0], row[0].astext()


def setup(app: Sphinx) -> dict[str, bool]:
    """Let Sphinx know."""
    app.add_transform(LinkLiterals)
    app.connect("doctree-read", name_tests)
    app.connect("missing-reference", resolve, priority=400)  # before intersphinx
    return {"parallel_read_safe": True}
