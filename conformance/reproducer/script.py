"""Assembles a reproducer: docstring, imports, data, functions, ``main``.

The script holds the values of every tensor and what was allowed, so that it needs torch and the implementation
alone; the oracle is not asked again.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import conformance
from conformance.adapter import KNOWN
from conformance.case import Case, Placement
from conformance.item import PROFILES, Failure
from conformance.materialize import SHARED_PARTS, materialize, values_of
from conformance.memory import POISONS
from conformance.operations import OPERATIONS
from conformance.oracle.contract import rounded
from conformance.properties import PROMISES, PROPERTIES
from conformance.reproducer import snippets
from conformance.reproducer.data import WIDTH, Data
from conformance.rows import axis, count, flat
from conformance.verdict import Status, Subject, chunks, intervals

# by property, but for calls that gave nothing to check
_FLAT = {"batch_invariance", "position_invariance"}
_IMPORTS = {
    "base64.": "import base64",
    "faulthandler.": "import faulthandler",
    "os.": "import os",
    "zlib.": "import zlib",
}
_FROM = {
    "Owner.": "from conformance.memory import Owner",
    "assert_alike(": "from conformance.properties.parity import assert_alike",
    "watched(": "from conformance.watch import watched",
    "TorchDispatchMode)": "from torch.utils._python_dispatch import TorchDispatchMode",
}


@dataclass(frozen=True, slots=True)
class Subjected:
    """All that a script is written from. ``case`` is the failing case as the property calls it."""

    failure: Failure
    subject: Subject
    case: Case
    data: Data


def write(failure: Failure, subject: Subject, directory: Path, target: str) -> Path:
    """Write ``repro_<case id>.py`` for a failure of ``target`` into ``directory``, and return its path.

    It exits 1 while the failure shows and 0 once it does not.
    """
    path = directory / f"repro_{failure.verdict.case.id}.py"
    name = failure.verdict.property
    case = flat(failure.verdict.case) if name in _FLAT else failure.verdict.case
    given = Subjected(failure, subject, case, Data(path.with_suffix(".pt")))
    check, fenced = _check(failure)
    functions = (snippets.FENCED_ROOM if fenced else snippets.ROOM, snippets.ARGUMENTS, *check.functions)
    main = f"def main():\n{textwrap.indent(check.main.strip(), '    ')}\n\n\nsys.exit(main())"
    facts = "\n".join([_tensors(given), *(_FACTS[fact](given) for fact in check.facts)])
    code = "\n\n\n".join(text.strip() for text in (*functions, _calling(given), main))
    saved = 'SAVED = torch.load(Path(__file__).with_suffix(".pt"), weights_only=True)\n' * given.data.save()
    unpack = f"{snippets.UNPACKED}\n" * ("unpacked(" in facts)
    made = f"{_implementation(given, target)}{saved}{unpack}\n{facts}\n\n\n{code}\n"
    path.write_text(f"{_docstring(given)}\n{_imports(given, made)}\n{made}", encoding="utf-8")
    return path


def _check(failure: Failure) -> tuple[snippets.Check, bool]:
    """The check of a failure, and whether its memory lies between fences."""
    verdict = failure.verdict
    if verdict.status is Status.HUNG:
        return snippets.HUNG, False
    if verdict.status is not Status.CRASHED:
        return snippets.CHECKS[verdict.property], False
    if verdict.reason.startswith("held"):
        return snippets.LEAKED, False
    died = verdict.reason.startswith(("killed", "ended"))
    return (snippets.KILLED, True) if died else (snippets.RAISED, False)


# --- head ---------------------------------------------------------------------------------------------------


def _docstring(given: Subjected) -> str:
    verdict = given.failure.verdict
    said = [
        f"{given.case.operation} of {given.subject.adapter.name}: {verdict.property} {verdict.status}.",
        f"Promised: {PROMISES[verdict.property]}.",
        f"Found: {verdict.reason}." if verdict.reason else "",
        f"Remark: {given.failure.note}." if given.failure.note else "",
        f"Case {verdict.case.id}: {verdict.case}.",
        "Exits 1 while this shows, 0 once it does not.",
    ]
    text = "\n".join(textwrap.fill(line, WIDTH, break_long_words=False) for line in said if line)
    # an implementation's own words may hold anything
    text = text.replace("\\", "\\\\").replace('"""', "'''")
    return f'"""{text}\n"""\n'


def _imports(given: Subjected, code: str) -> str:
    """The imports that ``code`` needs, and before them what must come before them."""
    settings = _settings(given.subject)
    standard = [line for mark, line in _IMPORTS.items() if mark in code or (mark == "os." and settings)]
    lines = [*sorted([*standard, "import sys"])]
    lines += [f"from math import {', '.join(sorted(given.data.names))}"] * bool(given.data.names)
    lines += ["from pathlib import Path"] * ("Path(" in code)
    lines += ["", *(f"os.environ[{name!r}] = {value!r}" for name, value in settings.items())]
    roots = _roots(given.subject)
    lines += [f"sys.path[:0] = {roots!r}", ""] if roots else []
    lines += ["import torch", *(line for mark, line in _FROM.items() if mark in code and "torch" in line), ""]
    lines += [line for mark, line in _FROM.items() if mark in code and "torch" not in line]
    return "\n".join([*lines, "from conformance.adapter import load"]) + "\n"


def _settings(subject: Subject) -> dict[str, str]:
    """Environment of this run that decides what is computed; to be set before Triton is imported."""
    names = ["NORMKERNELS_PATH"] + ["TRITON_INTERPRET"] * _interpreting(subject)
    return {name: os.environ[name] for name in names if name in os.environ}


def _interpreting(subject: Subject) -> bool:
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return subject.device == "cpu" and interpreted and importlib.util.find_spec("triton") is not None


def _roots(subject: Subject) -> list[str]:
    """Folders from which the adapter and the suite are imported, but for those of installed packages."""
    installed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    roots = []
    for name in (conformance.__name__, type(subject.adapter).__module__):
        spec = sys.modules[name].__spec__
        if spec is not None and spec.origin is not None and "." + Path(spec.origin).stem != name:
            depth = name.count(".") + (spec.submodule_search_locations is not None)
            roots.append(str(Path(spec.origin).resolve().parents[depth]))
    return [root for root in dict.fromkeys(roots) if root not in installed]


def _implementation(given: Subjected, target: str) -> str:
    """The device and the adapter, by a name that does not depend on the working directory."""
    place, _, _ = target.partition(":")
    if target not in KNOWN:
        found = str(Path(place).resolve()) if place.endswith(".py") else place
        target = f"{found}:{type(given.subject.adapter).__name__}"
    lines = [f"DEVICE = {given.subject.device!r}", f"IMPLEMENTATION = load({target!r})"]
    if _interpreting(given.subject):
        # as shipped, Triton's interpreter truncates where hardware rounds
        lines = ["from conformance import interpreter", "", "interpreter.install()", *lines]
    return "\n".join(lines) + "\n"


# --- data ---------------------------------------------------------------------------------------------------


def _tensors(given: Subjected) -> str:
    """The arguments: where each lies, and its values."""
    case = given.case
    drawn = materialize(case, values_of(case), "cpu", POISONS[0]).arguments
    arguments = drawn if case.invalid is None else OPERATIONS[case.operation].invalid[case.invalid](drawn)
    lines = ["# name: buffer, its length and the tensor's beginning in elements, strides; values", "TENSORS = {"]
    flags = {}
    for name, value in arguments.items():
        if not isinstance(value, torch.Tensor):
            flags[name] = value
            continue
        if _passed_as(case, name) != name:
            continue
        buffer, place = _where(case, name, value, asked=value is drawn.get(name))
        values = given.data.expression(name, value)
        lines += [f"    {name!r}: (", f"        {buffer!r}, {place.extent}, {place.offset}, {place.strides},"]
        lines += [f"        {values},", "    ),"]
    return "\n".join([*lines, "}", f"FLAGS = {flags!r}"])


def _passed_as(case: Case, name: str) -> str:
    """The tensor that the call passes as ``name``; a call made wrong on purpose may pass another."""
    return name if case.invalid is not None else case.source(name)


def _where(case: Case, name: str, tensor: torch.Tensor, *, asked: bool) -> tuple[str, Placement]:
    """Where the case puts a tensor; one that was made wrong on purpose lies wherever its strides lead."""
    spec = case.tensor(name)
    if spec is None or not asked or case.source(name) != name:
        steps = zip(tensor.shape, tensor.stride(), strict=True)
        reach = 1 + sum((size - 1) * stride for size, stride in steps)
        return name, Placement(tensor.stride(), 0, reach if tensor.numel() else 0)
    place = spec.layout.place(spec.shape, SHARED_PARTS)
    buffers = {"shared": f"{spec.dtype} projection", "slice": f"{spec.dtype} rows of {spec.layout.width}"}
    buffer = buffers.get(spec.layout.kind, name)
    return buffer, place if tensor.numel() else replace(place, offset=0, extent=0)


def _calling(given: Subjected) -> str:
    """The functions that call: the form of the operation that failed, and beside the in-place one the other."""
    name = given.failure.verdict.property
    # what is judged beside another property is judged of the form that every call has
    form = PROPERTIES[name].form if name in PROPERTIES else ""
    if not form:
        return _function("call", "The call; its outputs as a tuple.", given, "")
    in_place = _function("call", "The call in place; the tensors that it returns as a tuple.", given, form)
    return f"{in_place}\n\n\n{_function('fresh', 'The same call with outputs of its own.', given, '')}"


def _function(name: str, docstring: str, given: Subjected, form: str) -> str:
    operation = OPERATIONS[given.case.operation]
    present = dict(given.case.tensors)

    def shown(name: str) -> str:
        return f"tensors[{_passed_as(given.case, name)!r}]" if name in present else "None"

    passed = [shown(name) for name in operation.positional]
    passed += [f"{name}={shown(name)}" for name in operation.keywords]
    wait = "    torch.cuda.synchronize()\n" * (given.subject.device != "cpu")
    nothing = "    if result is None:\n        return ()\n" * bool(form)
    return (
        f"def {name}(tensors, implementation=IMPLEMENTATION):\n"
        f'    """{docstring}"""\n'
        f"    result = implementation.{operation.name}{form}({', '.join(passed)}, **FLAGS)\n"
        f"{wait}{nothing}"
        "    return (result,) if isinstance(result, torch.Tensor) else tuple(result)"
    )


def _expected(given: Subjected) -> str:
    outputs = OPERATIONS[given.case.operation].outputs(given.case)
    lines = [f"    ({out.name!r}, {out.dtype}, {out.shape}, {out.columns})," for out in outputs]
    return "\n".join(["# outputs: name, dtype, shape, whether column by column", "EXPECTED = [", *lines, "]"])


def _allowed(given: Subjected) -> str:
    """The lowest and the highest number that the contract allows per element, and where NaN is allowed."""
    case, subject = given.case, given.subject
    # not where the implementation runs: whoever writes a script need not touch a GPU
    here = replace(subject, device="cpu")
    values, contract = values_of(case), subject.adapter.contract(case.operation)
    outputs = OPERATIONS[case.operation].outputs(case)
    allowed = [intervals(here, contract, case, values, rows) for rows in chunks(case)]
    lines = ["# lowest and highest number allowed, and whether NaN is", "ALLOWED = {"]
    for out in outputs:
        parts = [rounded(chunk[out.name], out.dtype) for chunk in allowed]
        ends = [torch.cat([getattr(part, end) for part in parts]).reshape(out.shape) for end in ("lo", "hi")]
        nan = torch.cat([part.nan for part in parts]).reshape(out.shape)
        shown = [given.data.expression(f"{out.name} {i}", end.to(out.dtype)) for i, end in enumerate(ends)]
        shown.append(given.data.expression(f"{out.name} nan", nan) if nan.any() else "torch.tensor(False)")
        lines += [f"    {out.name!r}: (", *(f"        {text}," for text in shown), "    ),"]
    return "\n".join([*lines, "}"])


def _names(given: Subjected) -> str:
    operation = OPERATIONS[given.case.operation]
    names = {name: _passed_as(given.case, name) for name in (*operation.positional, *operation.keywords)}
    return (
        f"# what the operation takes: which of TENSORS, or none of them where nothing is passed\nNAMES = {names!r}"
    )


def _row_tensors(given: Subjected) -> str:
    case, rows = given.case, OPERATIONS[given.case.operation].row_tensors
    axes = {name: axis(case, name) for name, _ in case.tensors if name in rows and case.source(name) == name}
    return f"# the dimension that counts rows (or begins to, before the last)\nROW_TENSORS = {axes!r}"


def _copied(given: Subjected) -> str:
    """Where an output takes over the bits of an argument, and which."""
    operation = OPERATIONS[given.case.operation]
    assert operation.copies is not None
    lines = []
    for name, (where, values) in operation.copies(given.case, values_of(given.case)).items():
        shown = [given.data.expression(f"{name} copied", where), given.data.expression(f"{name} values", values)]
        lines += [f"    {name!r}: (", *(f"        {text}," for text in shown), "    ),"]
    return "\n".join(["# outputs: which elements are copies, and of what", "COPIED = {", *lines, "}"])


def _over(given: Subjected) -> str:
    operation = OPERATIONS[given.case.operation]
    names = [operation.in_place[output.name] for output in operation.outputs(given.case)]
    same = f"DETERMINISTIC = {given.subject.adapter.deterministic}"
    return f"# the arguments that the outputs are written over, in their order\nOVER = {names!r}\n{same}"


def _reference(given: Subjected) -> str:
    return f"REFERENCE = load({given.subject.adapter.reference!r})"


_FACTS: dict[str, Callable[[Subjected], str]] = {
    "EXPECTED": _expected,
    "ALLOWED": _allowed,
    "OPERATION": lambda given: f"OPERATION = {given.case.operation!r}",
    "NAMES": _names,
    "ROW_TENSORS": _row_tensors,
    "OVER": _over,
    # the row and the shift that the property chose
    "ROWS": lambda given: f"ROWS = {count(given.case)}",
    "ROW": lambda given: f"ROW = {given.case.seed % count(given.case)}",
    "SHIFT": lambda given: f"SHIFT = {1 + given.case.seed % max(count(given.case) - 1, 1)}",
    "COPIED": _copied,
    "REFERENCE": _reference,
    "DTYPE": lambda given: f"DTYPE = torch.{given.case.dtype}",
    "LIMIT": lambda given: f"LIMIT = {PROFILES[given.failure.item.profile].limit}",
}
