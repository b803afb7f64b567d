"""What `mutants.py` breaks: every guard of modules that guard results, and lines drawn from the whole package."""

from __future__ import annotations

import ast
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from helpers.mutation_edits import Edit, Part, changes, losses

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src/weight_feedback"
#: Where formulas are broken too.
STATISTICS = ("lab/statistics/estimates", "lab/statistics/calibration")
DURABLE = ("fsync", "flush", "replace", "rename", "unlink", "link")
FLIPPED: dict[type[ast.cmpop], str] = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">"}
SIGNS: dict[type[ast.operator], str] = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*"}
BOUNDS = ("ge", "gt", "le", "lt", "min_length", "max_length")


@dataclass(frozen=True)
class Mutant:
    """One line broken.

    Attributes:
        module: its file, without `src/weight_feedback` and suffix.
        number: of the line.
        line: as it is now.
        source: the module with it.
        was: the line as it was, of one that is drawn.
        place: the class and function that it is in, likewise.
        lines: the numbers of the statement's lines as they were, without those of its body, likewise.
    """

    module: str
    number: int
    line: str
    source: str
    was: str = ""
    place: str = ""
    lines: range = range(0)

    def __str__(self) -> str:
        """Where, and what it has become."""
        was = f"{self.was.strip()}  →  " if self.was else ""
        return f"{self.module}.py:{self.number}: {was}{self.line.strip()}"

    @property
    def key(self) -> tuple[str, ...]:
        """What it is called where its harmlessness is explained, whatever its number."""
        if not self.was:
            return (self.module, self.line.strip())
        return (f"{self.module}:{self.place}".rstrip(":"), self.was.strip(), self.line.strip())


class Source:
    """The source of a module, parts of which can be replaced."""

    def __init__(self, module: str, text: str) -> None:
        self.module, self.text, self.raw = module, text, text.encode()
        self.lines, self.starts = text.splitlines(), [0]
        for line in self.raw.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    @classmethod
    def of(cls, module: str) -> Source:
        """Read a module."""
        return cls(module, (SOURCE / f"{module}.py").read_text(encoding="utf-8"))

    def replaced(self, part: Part, text: str) -> str:
        """Return the whole with a part replaced; with a comma that follows what is left out."""
        begin = self.starts[part.lineno - 1] + part.col_offset
        end = self.starts[part.end_lineno - 1] + part.end_col_offset
        if isinstance(part, ast.keyword) and self.raw[end : end + 1] == b",":
            end += 1
        return (self.raw[:begin] + text.encode() + self.raw[end:]).decode()


def mutants(module: str) -> Iterator[Mutant]:
    """Yield every way to break what guards results in a module, each once."""
    source, seen = Source.of(module), set()
    for node in ast.walk(ast.parse(source.text)):
        for part, text in edits(node, module):
            broken = source.replaced(part, text)
            if broken not in seen and compiles(broken):
                seen.add(broken)
                yield Mutant(module, part.lineno, broken.splitlines()[part.lineno - 1], broken)


def compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def edits(node: ast.AST, module: str) -> Iterator[Edit]:
    """Yield what to put in place of a node or a part of it."""
    yield from guards(node)
    yield from bounds(node)
    if module in STATISTICS:
        yield from arithmetic(node)


def guards(node: ast.AST) -> Iterator[Edit]:
    """What refuses, and what makes a file durable: left out."""
    if isinstance(node, ast.If) and isinstance(node.body[-1], ast.Raise):
        yield node.test, "False"
    if isinstance(node, ast.Assert | ast.Expr) and isinstance(getattr(node, "value", None), ast.Call):
        name = ast.unparse(node.value.func).rpartition(".")[2]
        if name in DURABLE or name.startswith(("check", "_check", "refuse", "_refuse")):
            yield node, "pass"


def bounds(node: ast.AST) -> Iterator[Edit]:
    """Limits: off by one, or missing."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in FLIPPED:
        left, right = ast.unparse(node.left), ast.unparse(node.comparators[0])
        yield node, f"({left} {FLIPPED[type(node.ops[0])]} {right})"
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "Field":
        for keyword in node.keywords:
            if keyword.arg in BOUNDS:
                others = [other for other in node.keywords if other is not keyword]
                yield node, ast.unparse(ast.Call(node.func, node.args, others))


def arithmetic(node: ast.AST) -> Iterator[Edit]:
    """Formulas: the opposite operation, and whole numbers that are off by one."""
    if isinstance(node, ast.BinOp) and type(node.op) in SIGNS:
        yield node, f"({ast.unparse(node.left)} {SIGNS[type(node.op)]} {ast.unparse(node.right)})"
    if isinstance(node, ast.Constant) and type(node.value) is int:
        yield node, str(node.value + 1)


# Lines drawn anywhere


def sample(count: int, seed: int, sources: list[Source] | None = None) -> list[Mutant]:
    """Break some lines, each in one of the ways in which it can be.

    What is drawn depends on the text of lines, and not on their numbers: a change elsewhere doesn't change it.

    Args:
        count: how many.
        seed: of the lines and of the ways.
        sources: to draw from; default: the whole package.
    """
    if sources is None:
        sources = [Source.of(module) for module in modules()]
    ranked = []
    for source in sources:
        often = Counter()
        for number, ways in sorted(breakable(source).items()):
            text = source.lines[number - 1].strip()
            digest = hashlib.sha256(f"{seed}\0{source.module}\0{text}\0{often[text]}".encode()).digest()
            often[text] += 1
            ranked.append((digest, source, ways))
    ranked.sort(key=lambda one: one[0])
    drawn = (one for digest, source, ways in ranked if (one := broken(source, ways, digest[-1])))
    return [one for one, _ in zip(drawn, range(count), strict=False)]


def modules() -> list[str]:
    """Return all modules of the package."""
    return sorted(path.relative_to(SOURCE).with_suffix("").as_posix() for path in SOURCE.rglob("*.py"))


def every(module: str) -> Iterator[Mutant]:
    """Yield every way to break any line of a module."""
    source = Source.of(module)
    for ways in breakable(source).values():
        for way in ways:
            yield made(source, way)


@dataclass(frozen=True)
class Way:
    """A way to break a line: what to put in place of a part of which statement, and where that is."""

    part: Part
    text: str
    statement: ast.stmt | ast.ExceptHandler
    place: str


def broken(source: Source, ways: list[Way], first: int) -> Mutant | None:
    """Break a line in one of several ways: the first from one on that gives Python which isn't the same."""
    for index in range(len(ways)):
        mutant = made(source, ways[(first + index) % len(ways)])
        if compiles(mutant.source) and mutant.source != source.text:
            return mutant
    return None


def made(source: Source, way: Way) -> Mutant:
    text, number = source.replaced(way.part, way.text), way.part.lineno
    line, was = text.splitlines()[number - 1], source.lines[number - 1]
    lines = head(way.statement)
    if number not in lines:  # the clauses of `try` and `match` are no statements
        lines = range(number, way.part.end_lineno + 1)
    return Mutant(source.module, number, line, text, was, way.place, lines)


def head(statement: ast.stmt | ast.ExceptHandler) -> range:
    """Return the lines of a statement, without its body."""
    first = min([statement.lineno, *(one.lineno for one in getattr(statement, "decorator_list", ()))])
    body = getattr(statement, "body", None)
    return range(first, max(body[0].lineno, first + 1) if body else statement.end_lineno + 1)


def breakable(source: Source) -> dict[int, list[Way]]:
    """Return the number of each line that can be broken, and how: in crude ways only where there is no other."""
    subtle: dict[int, list[Way]] = defaultdict(list)
    crude: dict[int, list[Way]] = defaultdict(list)
    for node, statement, place in walk(ast.parse(source.text)):
        for ways, found in ((subtle, changes(node)), (crude, losses(node))):
            for part, text in found:
                ways[part.lineno].append(Way(part, text, statement, place))
    return {**crude, **subtle}


def walk(
    node: ast.AST, statement: ast.stmt | ast.ExceptHandler | None = None, place: str = ""
) -> Iterator[tuple[ast.AST, ast.stmt | ast.ExceptHandler, str]]:
    """Yield what of a tree can be broken: neither imports nor types nor texts; and its statement and place."""
    for child in inside(node):
        if unbreakable(child):
            continue
        # An except clause is no statement, but has lines and a body as one.
        above = child if isinstance(child, ast.stmt | ast.ExceptHandler) else statement
        if above is not None:
            yield child, above, place
        named = isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        yield from walk(child, above, f"{place}.{child.name}".lstrip(".") if named else place)


def inside(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node's children, but for types, and for texts of errors."""
    left_out: list[ast.AST | None] = [getattr(node, "annotation", None), getattr(node, "returns", None)]
    if isinstance(node, ast.Assert):
        left_out.append(node.msg)
    if isinstance(node, ast.Raise):
        left_out += [node.exc, node.cause]
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "cast":
        left_out.append(node.args[0])
    for child in ast.iter_child_nodes(node):
        if child not in left_out:
            yield child


def unbreakable(node: ast.AST) -> bool:
    """Say whether nothing of it is to be broken."""
    if isinstance(node, ast.Import | ast.ImportFrom | ast.JoinedStr):
        return True
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING"
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    if isinstance(node, ast.ClassDef):
        return any(ast.unparse(base).startswith("Protocol") for base in node.bases)
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        name, value = node.targets[0].id, ast.unparse(node.value)
        alias = name.lstrip("_")[0].isupper() and not name.isupper()  # of types
        return name == "__all__" or alias or value.startswith("TypeVar(")
    return False
