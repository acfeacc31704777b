"""Mutants: small changes of a source text, each of which should make some case fail. Pure: text in, text out.

A mutant replaces the text of one node of the syntax tree; all other text and its line numbers stay. Its id follows
from the file, the function, what is replaced and by what, and not from the line: a mark on a mutant survives edits
elsewhere. What cannot change a result is no mutant: assertions, messages, annotations, decorators, and the hints
and checks of ``HINTS``.

mutmut 3.8 and cosmic-ray 8.7 were tried first. mutmut switches between copies of a function in one module, and
leaves functions with a decorator out, so that it has no mutant of a ``@triton.jit`` function, whose source Triton
reads from its file. cosmic-ray writes into the checkout and starts Python for every mutant: three to five seconds
of importing torch, where most mutants die within one.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

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
_ATOMS = (ast.Name, ast.Attribute, ast.Call, ast.Subscript, ast.Constant, ast.Tuple, ast.List, ast.Dict, ast.Set)
_SCOPES = (ast.FunctionDef, ast.ClassDef)

Change = tuple[str, ast.AST, ast.AST | None]  # kind, the node, and its replacement; None: a statement is dropped


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one file. ``start`` and ``end`` are the bytes of the file that ``text`` replaces."""

    id: str
    file: str  # such as normkernels/kernels/mrope.py
    line: int
    function: str  # with its class; outside of both the name that is assigned, or nothing
    kind: str
    before: str
    after: str
    start: int
    end: int
    text: str


def mutants_of(file: str, source: str) -> tuple[Mutant, ...]:
    """Return every mutant of a file, in the order of its text."""
    offsets = _offsets(source)
    seen = Counter[tuple[str, ...]]()
    found = []
    for function, (kind, node, replacement) in _changes(ast.parse(source)):
        assert isinstance(node, ast.expr | ast.stmt)
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        before = _words(node)
        after, text = ("", "pass") if replacement is None else (_words(replacement), _code(replacement))
        told = (file, function, kind, before, after)
        seen[told] += 1
        start = offsets[node.lineno - 1] + node.col_offset
        end = offsets[node.end_lineno - 1] + node.end_col_offset
        name = hashlib.sha256("\0".join((*told, str(seen[told]))).encode()).hexdigest()[:10]
        found.append(Mutant(name, file, node.lineno, function, kind, before, after, start, end, text))
    return tuple(sorted(found, key=lambda mutant: (mutant.start, mutant.end)))


def mutated(source: str, mutant: Mutant) -> str:
    """Return the text of a mutant's file with its change."""
    text = source.encode()
    return (text[: mutant.start] + mutant.text.encode() + text[mutant.end :]).decode()


def _offsets(source: str) -> list[int]:
    """Return the byte at which each line begins."""
    offsets = [0]
    for line in source.encode().splitlines(keepends=True):
        offsets.append(offsets[-1] + len(line))
    return offsets


def _words(node: ast.AST) -> str:
    """Return a node on one line."""
    return " ".join(ast.unparse(node).split())


def _code(node: ast.AST) -> str:
    """Return the text of a node that can stand in the place of any other."""
    return ast.unparse(node) if isinstance(node, (*_ATOMS, ast.stmt)) else f"({ast.unparse(node)})"


def _changes(tree: ast.Module) -> Iterator[tuple[str, Change]]:
    """Yield every change with the name of the function that it is in."""

    def walk(node: ast.AST, scope: str, strides: tuple[str, ...]) -> Iterator[tuple[str, Change]]:
        if not scope and isinstance(node, ast.Assign | ast.AnnAssign):
            scope = _assigned(node)
        if isinstance(node, _SCOPES):
            scope = f"{scope}.{node.name}".lstrip(".")
            if isinstance(node, ast.FunctionDef):
                strides = _strides_in(node)
        elif isinstance(node, ast.stmt | ast.expr):
            for change in _of(node, strides):
                yield scope, change
        if isinstance(node, (*_SCOPES, ast.Module)):
            for change in _statements(node):
                yield scope, change
        for child in _inside(node):
            yield from walk(child, scope, strides)

    yield from walk(tree, "", ())


def _assigned(node: ast.Assign | ast.AnnAssign) -> str:
    """Return the name that a statement outside of functions assigns, or nothing."""
    target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
    return target.id if isinstance(target, ast.Name) else ""


def _inside(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the parts of a node in which there can be mutants."""
    match node:
        case ast.Raise() | ast.Assert() | ast.JoinedStr() | ast.Import() | ast.ImportFrom():
            return
        case ast.FunctionDef(args=arguments, body=body):
            yield from arguments.defaults
            yield from (default for default in arguments.kw_defaults if default is not None)
            yield from body
        case ast.ClassDef(body=body):
            yield from body
        case ast.AnnAssign(value=value):
            if value is not None:
                yield value
        case ast.Call(func=func, args=args, keywords=keywords):
            yield func
            yield from args
            yield from (keyword.value for keyword in keywords if keyword.arg not in HINTS)
        case _:
            yield from ast.iter_child_nodes(node)


def _of(node: ast.AST, strides: tuple[str, ...]) -> Iterator[Change]:
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


def _strides_in(function: ast.FunctionDef) -> tuple[str, ...]:
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


def _statements(scope: ast.FunctionDef | ast.ClassDef | ast.Module) -> Iterator[Change]:
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
        if isinstance(node, ast.stmt | ast.ExceptHandler | ast.match_case) and not isinstance(node, _SCOPES):
            yield from _own(node)


_LOST: Mapping[type[ast.stmt], Callable[[ast.stmt], bool]] = {
    ast.AugAssign: lambda _: True,
    ast.Raise: lambda _: True,
    ast.Continue: lambda _: True,
    ast.Break: lambda _: True,
    ast.For: lambda _: True,
    ast.If: lambda node: not getattr(node, "orelse", ()),
    ast.Expr: lambda node: isinstance(getattr(node, "value", None), ast.Call),
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
