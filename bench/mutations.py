"""
One-line faults that can be made in a module, each as a piece of text and what takes its place.

Pure: source in, `Mutation`s out.  Nothing is made of docstrings, annotations, assertions, f-strings, the
words of errors and logs, `if TYPE_CHECKING` and dataclass options.  The counterpart is `mutants.py`, which
draws some, runs the tests against each and tells which survive.
"""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

COMPARED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
CALCULATED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}
LOGS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
DELETED = (ast.Expr, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Raise, ast.Delete)


@dataclass(frozen=True, slots=True, order=True)
class Mutation:
    """In *path*, what stands at *start*-*end* (characters of the file) becomes *text*."""

    path: str
    line: int
    start: int
    end: int
    operator: str
    text: str

    @property
    def id(self) -> str:
        return f"{self.path}:{self.line}:{self.start}:{self.operator}:{self.text}"

    def applied(self, source: str) -> str:
        """Return *source*, the text of the file, with the fault in it."""
        return source[: self.start] + self.text + source[self.end :]


class Places:
    """Turns the place of a node, a line and a column in UTF-8, into one in the text."""

    def __init__(self, source: str) -> None:
        self._lines = source.splitlines(keepends=True)
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))

    def of(self, line: int, column: int) -> int:
        return self._starts[line - 1] + len(self._lines[line - 1].encode()[:column].decode())


def mutations(path: str, source: str) -> list[Mutation]:
    """Return all that can be made of a module, in the order of the text; some may say the same as before."""
    places = Places(source)
    found = {}
    for node, operator, text in _of(ast.parse(source)):
        start = places.of(node.lineno, node.col_offset)
        end = places.of(node.end_lineno, node.end_col_offset)
        found[start, end, text] = Mutation(path, node.lineno, start, end, operator, text)
    return sorted(found.values())


def differs(mutation: Mutation, source: str) -> bool:
    """Whether the text can be read with the fault in it, and says something else."""
    try:
        return ast.dump(ast.parse(mutation.applied(source))) != ast.dump(ast.parse(source))
    except SyntaxError:
        return False


def lines_of(mutation: Mutation, source: str) -> range:
    """Return the lines of the innermost statement around it; of a compound one, those of its head."""
    around = [
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt) and _has(node, mutation)
    ]
    node: Any = max(around, key=lambda node: (node.lineno, -(node.end_lineno or 0)))
    body = getattr(node, "body", None)
    return range(node.lineno, max(body[0].lineno, node.lineno + 1) if body else node.end_lineno + 1)


def _has(node: ast.stmt, mutation: Mutation) -> bool:
    return node.lineno <= mutation.line <= (node.end_lineno or node.lineno)


Found = tuple[Any, str, str]
"""A node, what is done to it, and the text that takes its place."""


def _of(tree: ast.AST) -> Iterator[Found]:
    for node in _reached(tree):
        for make in MAKERS:
            yield from make(node)


def _reached(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes below that are worth a fault."""
    for child in ast.iter_child_nodes(node):
        if not _is_spared(child, node):
            yield child
            yield from _reached(child)


def _is_spared(child: ast.AST, parent: ast.AST) -> bool:
    return (
        _is_text(child)
        or _is_annotation(child, parent)
        or isinstance(child, ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom)
        or (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING")
        or (isinstance(parent, ast.ClassDef | ast.FunctionDef) and child in parent.decorator_list)
        or _is_logging(child)
    )


def _is_text(node: ast.AST) -> bool:
    """Whether it is a docstring, or the `...` of a protocol."""
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):
        return False
    return isinstance(node.value.value, str) or node.value.value is ...


def _is_annotation(child: ast.AST, parent: ast.AST) -> bool:
    is_type = child in (getattr(parent, "annotation", None), getattr(parent, "returns", None))
    named = isinstance(parent, ast.Call) and ast.unparse(parent.func) in ("cast", "TypeVar", "NewType")
    return is_type or (named and child in parent.args[:1]) or _is_alias(child)


def _is_alias(node: ast.AST) -> bool:
    """Whether it gives a type a name: `Address = tuple[str, int]`."""
    if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Subscript | ast.BinOp):
        return False
    name = ast.unparse(node.targets[0])
    return name[:1].isupper() and not name.isupper()


def _is_logging(node: ast.AST) -> bool:
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Call):
        return False
    called = node.value.func
    return isinstance(called, ast.Attribute) and called.attr in LOGS and "log" in ast.unparse(called.value)


def _in_place(node: ast.expr) -> str:
    """The text of an expression, in brackets: the neighbours may bind closer."""
    simple = ast.Name | ast.Constant | ast.Attribute | ast.Call | ast.Subscript | ast.List | ast.Dict
    return ast.unparse(node) if isinstance(node, simple) else f"({ast.unparse(node)})"


def _comparisons(node: ast.AST) -> Iterator[Found]:
    if isinstance(node, ast.Compare):
        for at, old in enumerate(node.ops):
            for new in COMPARED[type(old)]:
                ops = [*node.ops[:at], new(), *node.ops[at + 1 :]]
                yield node, "compare", _in_place(ast.Compare(node.left, ops, node.comparators))


def _booleans(node: ast.AST) -> Iterator[Found]:
    if isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield node, "and/or", _in_place(ast.BoolOp(other, node.values))
        for at in range(len(node.values)):
            rest = [*node.values[:at], *node.values[at + 1 :]]
            yield node, "operand", _in_place(rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield node, "unary", _in_place(node.operand)


def _conditions(node: ast.AST) -> Iterator[Found]:
    if isinstance(node, ast.If | ast.While | ast.IfExp):
        yield node.test, "negated", f"(not {_in_place(node.test)})"
        yield node.test, "constant condition", "False"
        if not isinstance(node, ast.While):
            yield node.test, "constant condition", "True"
    if isinstance(node, ast.comprehension):
        for test in node.ifs:
            yield test, "negated", f"(not {_in_place(test)})"
            yield test, "constant condition", "True"
    if isinstance(node, ast.match_case) and node.guard is not None:
        yield node.guard, "constant condition", "True"
        yield node.guard, "constant condition", "False"


def _constants(node: ast.AST) -> Iterator[Found]:
    if not isinstance(node, ast.Constant):
        return
    value = node.value
    if isinstance(value, bool):
        yield node, "constant", repr(not value)
    elif isinstance(value, int | float):
        for other in (value + 1, value - 1, 0):
            yield node, "constant", f"({other})" if other < 0 else repr(other)
    elif isinstance(value, str) and value and not _are_words(value):
        yield node, "constant", "''"
    elif isinstance(value, bytes) and value:
        yield node, "constant", "b''"
    elif value in ("", b""):
        yield node, "constant", repr("x" if isinstance(value, str) else b"x")


def _are_words(text: str) -> bool:
    """Whether people read it: the message of an error."""
    return text.strip().count(" ") > 1


def _calculations(node: ast.AST) -> Iterator[Found]:
    if isinstance(node, ast.BinOp) and not _is_union(node):
        yield node, "arithmetic", _in_place(ast.BinOp(node.left, CALCULATED[type(node.op)](), node.right))
    if isinstance(node, ast.AugAssign):
        yield node, "arithmetic", ast.unparse(_augmented(node, CALCULATED[type(node.op)]()))
        yield node, "arithmetic", f"{ast.unparse(node.target)} = {ast.unparse(node.value)}"


def _augmented(node: ast.AugAssign, operator: ast.operator) -> ast.AugAssign:
    return ast.AugAssign(node.target, operator, node.value)


def _is_union(node: ast.BinOp) -> bool:
    """Whether it is `str | None`: a type, as names of classes have it."""
    sides = [ast.unparse(side) for side in (node.left, node.right)]
    return isinstance(node.op, ast.BitOr) and any(
        side == "None" or side in ("str", "int", "float", "bytes", "list", "dict", "bool") for side in sides
    )


def _returns(node: ast.AST) -> Iterator[Found]:
    if isinstance(node, ast.Return) and node.value is not None:
        yield node, "return", "return None"
        yield node, "return", f"return not {_in_place(node.value)}"


def _statements(node: ast.AST) -> Iterator[Found]:
    if isinstance(node, DELETED) and not (isinstance(node, ast.AnnAssign) and node.value is None):
        yield node, "deleted", "pass"
    if isinstance(node, ast.Break):
        yield node, "loop", "continue"
    if isinstance(node, ast.Continue):
        yield node, "loop", "break"


def _calls(node: ast.AST) -> Iterator[Found]:
    if not isinstance(node, ast.Call):
        return
    for at, keyword in enumerate(node.keywords):
        if keyword.arg is not None:
            rest = [*node.keywords[:at], *node.keywords[at + 1 :]]
            yield node, "keyword left out", ast.unparse(ast.Call(node.func, node.args, rest))
    if isinstance(node.func, ast.Name) and node.func.id in NAMES:
        yield node.func, "other function", NAMES[node.func.id]


def _slices(node: ast.AST) -> Iterator[Found]:
    if not isinstance(node, ast.Subscript) or not isinstance(node.slice, ast.Slice):
        return
    for name in ("lower", "upper"):
        bound = getattr(node.slice, name)
        if bound is not None:
            for change in ("+", "-"):
                yield bound, "slice", f"{_in_place(bound)} {change} 1"


def _choices(node: ast.AST) -> Iterator[Found]:
    if isinstance(node, ast.IfExp):
        yield node, "swapped", _in_place(ast.IfExp(node.test, node.orelse, node.body))
    if isinstance(node, ast.ExceptHandler) and not isinstance(node.body[-1], ast.Raise):
        yield node.body[0], "raised again", "raise"


Maker = Callable[[ast.AST], Iterator[Found]]
MAKERS: tuple[Maker, ...] = (
    _comparisons,
    _booleans,
    _conditions,
    _constants,
    _calculations,
    _returns,
    _statements,
    _calls,
    _slices,
    _choices,
)
