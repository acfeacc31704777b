"""Code of mutants, without the places in their text: mutants that compile to the same code are one program."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from types import CodeType

from conformance.prove.copies import PACKAGE, ROOT
from conformance.prove.mutants import Mutant, mutated

OURS = ""  # the name of the mutants with the code of the package


@cache
def source(file: str) -> str:
    """Return the text of a file of the package."""
    return (ROOT / file).read_text("utf-8")


def content(mutant: Mutant) -> str:
    """Return a digest of the text of a mutant's file; nothing for a planted bug, which has no file."""
    return _digest(mutated(source(mutant.file), mutant)) if mutant.file.startswith(PACKAGE) else ""


def code(text: str) -> str:
    """Return a digest of the code that a text compiles to."""
    return _digest(repr(_parts(compile(text, "", "exec", dont_inherit=True))))


def twins(mutants: Iterable[Mutant]) -> Mapping[str, list[Mutant]]:
    """Return mutants by their file and code, in their order; those with the code of the package as OURS."""
    found: dict[str, list[Mutant]] = {}
    for mutant in mutants:
        made, ours = code(mutated(source(mutant.file), mutant)), _ours(mutant.file)
        found.setdefault(OURS if made == ours else f"{mutant.file} {made}", []).append(mutant)
    return found


@cache
def _ours(file: str) -> str:
    return code(source(file))


def _parts(made: CodeType) -> tuple[object, ...]:
    """Return all of a code but its places in the text."""
    held = tuple(_parts(each) if isinstance(each, CodeType) else each for each in made.co_consts)
    names = made.co_names, made.co_varnames, made.co_freevars, made.co_cellvars
    return made.co_code, made.co_flags, made.co_argcount, made.co_exceptiontable, names, held


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]
