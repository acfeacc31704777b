"""Mutants: small changes of a source text, each of which should make some case fail. Pure: text in, text out.

A mutant replaces the text of one node of the syntax tree; all other text and its line numbers stay. Its id follows
from the file, the function, what is replaced and by what, and not from the line: a mark on a mutant survives edits
elsewhere.

mutmut 3.8 was read and not used: it switches between copies of a function in one module, and leaves functions with
a decorator out, so that it has no mutant of a ``@triton.jit`` function, whose source Triton reads from its file.
Tools that start Python for every mutant import torch each time: three to five seconds, where most mutants die
within one.
"""

from __future__ import annotations

import ast
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from conformance.prove.changes import HINTS, SCOPES, Change, asserts, changes_of, statements_lost, strides_in

_ATOMS = (ast.Name, ast.Attribute, ast.Call, ast.Subscript, ast.Constant, ast.Tuple, ast.List, ast.Dict, ast.Set)


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


def mutated(source: str, *mutants: Mutant) -> str:
    """Return the text of a file with the changes of its mutants, which do not overlap."""
    text = source.encode()
    for mutant in sorted(mutants, key=lambda each: each.start, reverse=True):
        text = text[: mutant.start] + mutant.text.encode() + text[mutant.end :]
    return text.decode()


def statement_lines(source: str, mutant: Mutant) -> range | None:
    """Return the lines of the innermost statement that a mutant changes, without those of its body.

    None where the statement runs as its module is imported: then every call may follow from it.
    """
    offsets = _offsets(source)
    found, inside = None, False
    parts: list[tuple[ast.AST, bool]] = [(ast.parse(source), False)]
    while parts:
        node, called = parts.pop()
        if isinstance(node, ast.stmt):
            assert node.end_lineno is not None
            assert node.end_col_offset is not None
            start = offsets[node.lineno - 1] + node.col_offset
            if not start <= mutant.start < mutant.end <= offsets[node.end_lineno - 1] + node.end_col_offset:
                continue
            found, inside = node, called
        inner = called or isinstance(node, ast.FunctionDef)
        parts += [(child, inner) for child in ast.iter_child_nodes(node)]
    return _head(found) if found is not None and inside else None


def lines_that_run(source: str) -> frozenset[int]:
    """Return the lines of all statements, without those of documentation, of comments and between statements."""
    every = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt))
    text = (node for node in every if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)))
    return frozenset(line for node in text for line in _head(node))


def _head(node: ast.stmt) -> range:
    """Return the lines of a statement without its body; all of them where it begins with none of its own."""
    assert node.end_lineno is not None
    body = getattr(node, "body", None)
    end = body[0].lineno if isinstance(body, list) and not isinstance(node, ast.Try) else node.end_lineno + 1
    return range(node.lineno, max(end, node.lineno + 1))


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
        if isinstance(node, SCOPES):
            scope = f"{scope}.{node.name}".lstrip(".")
            if isinstance(node, ast.FunctionDef):
                strides = strides_in(node)
        elif isinstance(node, ast.stmt | ast.expr):
            for change in changes_of(node, strides):
                yield scope, change
        if isinstance(node, (*SCOPES, ast.Module)):
            for change in statements_lost(node):
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
    if asserts(node):
        return
    match node:
        case ast.Raise() | ast.JoinedStr() | ast.Import() | ast.ImportFrom():
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
