"""Ways to break any line of Python: subtle ones, and crude ones for what can't be broken otherwise."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from typing import NamedTuple

OPPOSITE: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitOr, ast.MatMult: ast.Add,
}  # fmt: skip
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list", "reversed": "list"}
#: Methods without which a value stays of its kind.
SHAPING = (
    "abs", "clone", "contiguous", "copy", "cpu", "detach", "double", "exp", "flatten", "float", "long", "lower",
    "lstrip", "mean", "norm", "relu", "resolve", "rstrip", "sqrt", "square", "std", "strip", "sum", "t", "upper",
)  # fmt: skip
SILENT = "__import__('contextlib').nullcontext()"
#: Decorators that change nothing at run time.
TYPING = ("overload", "override", "abstractmethod", "final")


class Span(NamedTuple):
    """A part of a source that is no node of its tree."""

    lineno: int
    col_offset: int
    end_lineno: int
    end_col_offset: int


Part = ast.expr | ast.stmt | ast.keyword | Span
Edit = tuple[Part, str]  #: what to put in place of what


def changes(node: ast.AST) -> Iterator[Edit]:
    """Yield what changes a part of a line."""
    for kinds, change in CHANGES:
        if isinstance(node, kinds):
            yield from change(node)


def conditions(node: ast.If | ast.IfExp | ast.Assert | ast.While) -> Iterator[Edit]:
    yield node.test, "False" if isinstance(node, ast.While) else f"not ({ast.unparse(node.test)})"


def operations(node: ast.Compare | ast.BoolOp | ast.BinOp) -> Iterator[Edit]:
    if isinstance(node, ast.BinOp) and (text(node.left) or text(node.right)):
        return  # anybody would notice
    other = copy.copy(node)
    if isinstance(other, ast.Compare):
        other.ops = [OPPOSITE[type(node.ops[0])](), *node.ops[1:]]
    else:
        other.op = OPPOSITE[type(node.op)]()
    yield node, f"({ast.unparse(other)})"


def signs(node: ast.UnaryOp) -> Iterator[Edit]:
    if isinstance(node.op, ast.Not | ast.USub | ast.Invert):
        yield node, f"({ast.unparse(node.operand)})"


def numbers(node: ast.Constant) -> Iterator[Edit]:
    if isinstance(node.value, bool):
        yield node, str(not node.value)
    elif isinstance(node.value, int):
        yield node, str(node.value + 1)
    elif isinstance(node.value, float):
        yield node, repr(node.value * 2 or 1.0)


def slices(node: ast.Slice) -> Iterator[Edit]:
    for bound in ("lower", "upper", "step"):
        if getattr(node, bound) is not None:
            other = copy.copy(node)
            setattr(other, bound, None)
            yield node, ast.unparse(other)


def calls(node: ast.Call) -> Iterator[Edit]:
    """An option or the whole call left out, another function called, or its arguments in another order."""
    for keyword in node.keywords:
        if keyword.arg:
            yield keyword, ""
    if isinstance(node.func, ast.Name) and node.func.id in NAMES:
        yield node.func, NAMES[node.func.id]
    if isinstance(node.func, ast.Attribute) and node.func.attr in SHAPING and not node.args and not node.keywords:
        yield node, f"({ast.unparse(node.func.value)})"
    if any(isinstance(argument, ast.Starred) for argument in node.args) or ast.unparse(node.func) == "cast":
        return
    if isinstance(node.func, ast.Name) and len(node.args) == 1 and not node.keywords:
        yield node, f"({ast.unparse(node.args[0])})"
    if len(node.args) > 1 and ast.unparse(node.args[0]) != ast.unparse(node.args[1]):
        other = copy.copy(node)
        other.args = [node.args[1], node.args[0], *node.args[2:]]
        yield node, ast.unparse(other)


def loops(node: ast.For | ast.comprehension) -> Iterator[Edit]:
    yield node.iter, "()"
    for test in getattr(node, "ifs", ()):
        yield test, f"not ({ast.unparse(test)})"


def results(node: ast.Return | ast.Yield | ast.YieldFrom) -> Iterator[Edit]:
    if isinstance(node, ast.YieldFrom):
        yield node.value, "()"
    elif node.value is not None and not empty(node.value):
        yield node.value, "None"
    elif node.value is None and isinstance(node, ast.Return):
        yield node, "pass"


def statements(node: ast.stmt) -> Iterator[Edit]:
    """What is done, left out."""
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name | ast.Tuple | ast.List):
        return
    if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Call):
        return
    if isinstance(node, ast.Raise) and "NotImplementedError" in ast.unparse(node):
        return
    yield node, "pass"


def handlers(node: ast.ExceptHandler) -> Iterator[Edit]:
    if node.type is not None:
        yield node.type, "()"


def contexts(node: ast.withitem) -> Iterator[Edit]:
    if node.optional_vars is None:
        yield node.context_expr, SILENT


def decorators(node: ast.FunctionDef | ast.ClassDef) -> Iterator[Edit]:
    for one in node.decorator_list:
        if ast.unparse(one).rpartition(".")[2] not in TYPING:
            yield Span(one.lineno, one.col_offset - 1, one.end_lineno, one.end_col_offset), ""


CHANGES: tuple[tuple[type | tuple[type, ...], Callable[..., Iterator[Edit]]], ...] = (
    ((ast.If, ast.IfExp, ast.Assert, ast.While), conditions),
    ((ast.Compare, ast.BoolOp, ast.BinOp), operations),
    (ast.UnaryOp, signs),
    (ast.Constant, numbers),
    (ast.Slice, slices),
    (ast.Call, calls),
    ((ast.For, ast.comprehension), loops),
    ((ast.Return, ast.Yield, ast.YieldFrom), results),
    ((ast.Assign, ast.AugAssign, ast.Delete, ast.Expr, ast.Raise, ast.Continue, ast.Break), statements),
    (ast.ExceptHandler, handlers),
    (ast.withitem, contexts),
    ((ast.FunctionDef, ast.ClassDef), decorators),
)


def losses(node: ast.AST) -> Iterator[Edit]:
    """Yield what leaves a value out: tests that run the line notice it most of the time."""
    values: list[ast.expr | None] = []
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr):
        values = [node.value]
    elif isinstance(node, ast.Dict):
        values = [*node.values]
    elif isinstance(node, ast.Lambda):
        values = [node.body]
    elif isinstance(node, ast.withitem):
        yield node.context_expr, SILENT
    elif isinstance(node, ast.Return) and node.value is not None and empty(node.value):
        yield node.value, "Ellipsis"
    for value in values:
        if value is not None and not empty(value):
            yield value, "None"


def text(value: ast.expr) -> bool:
    return isinstance(value, ast.JoinedStr) or (isinstance(value, ast.Constant) and isinstance(value.value, str))


def empty(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None
