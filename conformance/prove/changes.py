"""Kinds of changes: what can be wrong in one node of a syntax tree, and still be Python. Pure.

What cannot change a result has no changes: assertions, messages, annotations, decorators, and ``HINTS``.
"""

from __future__ import annotations

import ast
import copy
import itertools
import re
from collections.abc import Callable, Iterator, Mapping

# Keywords that change no result: hints to the compiler, and a check of zip.
HINTS = frozenset({"eviction_policy", "is_pure", "strict"})
# Calls that give their argument in another dtype or layout, as methods and as functions.
CAST_METHODS = frozenset({"to", "float", "double", "contiguous", "long", "int"})
CAST_FUNCTIONS = frozenset({"widened", "float", "int"})
CALLS: Mapping[str, str] = {
    "min": "max",
    "max": "min",
    "minimum": "maximum",
    "maximum": "minimum",
    "any": "all",
    "all": "any",
    "amax": "amin",
    "amin": "amax",
    "rsqrt": "sqrt",
    "sqrt": "rsqrt",
}
DTYPES: Mapping[str, str] = {
    "int64": "int32",
    "int32": "int16",
    "uint64": "int64",
    "uint32": "int32",
    "float64": "float32",
    "float32": "float16",
}
OPERATORS: Mapping[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mod,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
}
COMPARISONS: Mapping[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
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
COMMUTE = (ast.Add, ast.Mult, ast.BitAnd, ast.BitOr)  # either side can be the one that is lost
_STRIDE = re.compile(r"^(?P<tensor>.*?)_?(?P<axis>(?:token_|head_|col_|row_|axis_|group_)?stride(?:_\d)?)$")
SCOPES = (ast.FunctionDef, ast.ClassDef)
ASSERTIONS = frozenset({"static_assert", "device_assert"})

Change = tuple[str, ast.AST, ast.AST | None]  # kind, the node, and its replacement; None: a statement is dropped


def changes_of(node: ast.AST, strides: tuple[str, ...]) -> Iterator[Change]:
    """Yield the changes of one node that is no scope."""
    match node:
        case ast.BinOp():
            yield from _operators(node)
        case ast.AugAssign(op=op) if type(op) in OPERATORS:
            yield "operator", node, _changed(node, op=OPERATORS[type(op)]())
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert(), operand=operand):
            # -1 and the like, which is a constant
            yield "operator", node, operand
        case ast.BoolOp(op=op, values=values):
            yield "bool", node, _changed(node, op=ast.Or() if isinstance(op, ast.And) else ast.And())
            for place, _ in enumerate(values):
                rest = [*values[:place], *values[place + 1 :]]
                yield "term", node, _changed(node, values=rest) if len(rest) > 1 else rest[0]
        case ast.Compare(ops=ops):
            for place, sign in enumerate(ops):
                for kind in COMPARISONS[type(sign)]:
                    yield "comparison", node, _changed(node, ops=[*ops[:place], kind(), *ops[place + 1 :]])
        case ast.Constant():
            yield from _constants(node)
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            yield from _inverted(test)
        case ast.comprehension(ifs=ifs):
            for test in ifs:
                yield from _inverted(test)
        case ast.Call():
            yield from _calls(node)
        case ast.Attribute(attr=name) if name in DTYPES:
            yield "dtype", node, _changed(node, attr=DTYPES[name])
        case ast.Attribute(attr=name) if _STRIDE.match(name) and name != "stride":
            for other in _other_strides(name, strides):
                yield "stride", node, _changed(node, attr=other)
        case ast.Name(id=name, ctx=ast.Load()) if _STRIDE.match(name):
            for other in _other_strides(name, strides):
                yield "stride", node, ast.Name(other)


def asserts(node: ast.AST) -> bool:
    """Return whether a node is an assertion, of Python or of a kernel."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        func = node.value.func
        return isinstance(func, ast.Attribute) and func.attr in ASSERTIONS
    return isinstance(node, ast.Assert)


def _changed(node: ast.AST, **fields: object) -> ast.AST:
    """Return a copy of a node with some of its fields changed."""
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _inverted(test: ast.expr) -> Iterator[Change]:
    """Yield the inverse of a guard, unless changes of the guard itself have it."""
    if not isinstance(test, ast.Compare | ast.UnaryOp):
        yield "guard", test, ast.UnaryOp(ast.Not(), test)


def _operators(node: ast.BinOp) -> Iterator[Change]:
    if any(isinstance(side, ast.JoinedStr) or _text(side) for side in (node.left, node.right)):
        return
    kind = type(node.op)
    if kind in OPERATORS:
        yield "operator", node, _changed(node, op=OPERATORS[kind]())
        yield "term", node, node.left
        if isinstance(node.op, COMMUTE):
            yield "term", node, node.right


def _text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _constants(node: ast.Constant) -> Iterator[Change]:
    value = node.value
    others: tuple[object, ...] = ()
    if isinstance(value, bool):
        others = (not value,)
    elif isinstance(value, int):
        others = (value + 1, value - 1) if value else (1,)
    elif isinstance(value, float):
        others = (2 * value,) if value else (1.0,)
    for other in others:
        yield "constant", node, ast.Constant(other)  # type: ignore[arg-type]  # a number


def _calls(node: ast.Call) -> Iterator[Change]:
    func, args, keywords = node.func, node.args, node.keywords
    name = func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""
    if name in CALLS:
        other = ast.Name(CALLS[name]) if isinstance(func, ast.Name) else _changed(func, attr=CALLS[name])
        yield "operator", node, _changed(node, func=other)
    if isinstance(func, ast.Attribute) and name in CAST_METHODS:
        yield "cast", node, func.value
    elif isinstance(func, ast.Name) and name in CAST_FUNCTIONS and len(args) == 1 and not _text(args[0]):
        yield "cast", node, args[0]
    for place, (one, two) in enumerate(itertools.pairwise(args)):
        alike = isinstance(one, ast.Starred) or isinstance(two, ast.Starred) or ast.dump(one) == ast.dump(two)
        if not alike:
            swapped = [*args[:place], two, one, *args[place + 2 :]]
            yield "arguments", node, _changed(node, args=swapped)
    for dropped in keywords:
        if dropped.arg is not None and dropped.arg not in HINTS:
            # no load has other= without a mask
            lost = {"mask", "other"} if dropped.arg == "mask" else {dropped.arg}
            kind = "mask" if dropped.arg in {"mask", "other"} else "arguments"
            yield kind, node, _changed(node, keywords=[each for each in keywords if each.arg not in lost])


def strides_in(function: ast.FunctionDef) -> tuple[str, ...]:
    """Return the names of strides in a function, in the order in which they appear."""
    every = [argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)]
    for node in ast.walk(function):
        every += (
            [node.id] if isinstance(node, ast.Name) else [node.attr] if isinstance(node, ast.Attribute) else []
        )
    return tuple(dict.fromkeys(name for name in every if _STRIDE.match(name)))


def _other_strides(name: str, strides: tuple[str, ...]) -> Iterator[str]:
    """Yield the next stride of the same tensor, and the same stride of the next tensor."""
    for part in ("tensor", "axis"):
        alike = [each for each in strides if _STRIDE.match(each)[part] == _STRIDE.match(name)[part]]  # type: ignore[index]
        if name in alike and len(alike) > 1:
            yield alike[(alike.index(name) + 1) % len(alike)]


def statements_lost(scope: ast.FunctionDef | ast.ClassDef | ast.Module) -> Iterator[Change]:
    """Yield the statements of a scope that can be lost."""
    bound: set[str] = set()
    if isinstance(scope, ast.FunctionDef):
        bound = {argument.arg for argument in (*scope.args.args, *scope.args.kwonlyargs)}
    for node in _own(scope):
        if _lost(node, bound):
            yield "statement", node, None
        if isinstance(node, ast.Assign):
            bound |= {
                each.id for target in node.targets for each in ast.walk(target) if isinstance(each, ast.Name)
            }


def _own(scope: ast.AST) -> Iterator[ast.stmt]:
    """Yield the statements of a scope, those in branches and loops too, without those of scopes inside."""
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, ast.stmt):
            yield node
        if isinstance(node, ast.stmt | ast.ExceptHandler | ast.match_case) and not isinstance(node, SCOPES):
            yield from _own(node)


_LOST: Mapping[type[ast.stmt], Callable[[ast.stmt], bool]] = {
    ast.AugAssign: lambda _: True,
    ast.Raise: lambda _: True,
    ast.Continue: lambda _: True,
    ast.Break: lambda _: True,
    ast.For: lambda _: True,
    ast.If: lambda node: not getattr(node, "orelse", ()),
    ast.Expr: lambda node: isinstance(getattr(node, "value", None), ast.Call) and not asserts(node),
}


def _lost(node: ast.stmt, bound: set[str]) -> bool:
    """Return whether a statement can be lost: one that runs, and gives no name its first value."""
    if isinstance(node, ast.Assign):
        names = {
            each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
        }
        return names <= bound
    rule = _LOST.get(type(node))
    return rule is not None and rule(node)
