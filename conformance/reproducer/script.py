"""Assembles a reproducer: docstring, imports, data, functions, ``main``.

The script holds the values of every tensor and what was allowed, so that it needs torch and the implementation
alone; the oracle is not asked again.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
import sysconfig
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import torch

import conformance
from conformance.adapter import KNOWN, split
from conformance.calling import Subject
from conformance.case import SHARED_PARTS, Case, Placement
from conformance.comparison import Errors, compare
from conformance.item import PROFILES, Failure
from conformance.materialize import materialize, spread, values_of
from conformance.measure import chunks, intervals
from conformance.memory import POISONS
from conformance.operations import OPERATIONS, Output
from conformance.operations.row_calls import EPS
from conformance.oracle.contract import rounded
from conformance.oracle.interval import Interval
from conformance.properties import PROMISES, PROPERTIES
from conformance.properties.bias import bound, telling
from conformance.properties.chain import LAYERS, in_place
from conformance.properties.in_place import FORM, places
from conformance.properties.kept_results import steps
from conformance.properties.padding_invariance import padding_of
from conformance.properties.scale import exponent_of
from conformance.properties.state import CHANGES, Change, new_values, with_new_parameters
from conformance.properties.variants import counted
from conformance.reproducer import snippets
from conformance.reproducer.data import WIDTH, Data
from conformance.rows import axis, count, flat
from conformance.verdict import Status

# by property, but for calls that gave nothing to check
_FLAT = {"batch_invariance", "position_invariance", "padding_invariance", "variants", "compile"}
_IMPORTS = {
    "base64.": "import base64",
    "faulthandler.": "import faulthandler",
    "os.": "import os",
    "threading.": "import threading",
    "zlib.": "import zlib",
}
_FROM = {
    "Owner.": "from conformance.memory import Owner",
    "assert_alike(": "from conformance.properties.parity import assert_alike",
    "captured(": "from conformance.state_guard import captured, differences",
    "watched(": "from conformance.watch import watched",
    "lookup_backend(": "from torch._dynamo import lookup_backend",
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
    room = snippets.FENCED_ROOM if fenced else snippets.ROOM
    functions = (room, snippets.FAR_ARGUMENTS if _far(case) else snippets.ARGUMENTS, *check.functions)
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
        f"{given.case.operation} of {given.subject.declared.name}: {verdict.property} {verdict.status}.",
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
    for name in (conformance.__name__, type(subject.implementation()).__module__):
        spec = sys.modules[name].__spec__
        if spec is not None and spec.origin is not None and "." + Path(spec.origin).stem != name:
            depth = name.count(".") + (spec.submodule_search_locations is not None)
            roots.append(str(Path(spec.origin).resolve().parents[depth]))
    return [root for root in dict.fromkeys(roots) if root not in installed]


def _implementation(given: Subjected, target: str) -> str:
    """The device and the adapter, by a name that does not depend on the working directory."""
    place, _ = split(target)
    if target not in KNOWN:
        found = str(Path(place).resolve()) if place.endswith(".py") else place
        target = f"{found}:{type(given.subject.implementation()).__name__}"
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


def _far(case: Case) -> bool:
    """Whether elements of the case lie too far apart for a buffer of memory."""
    own = (spec for name, spec in case.tensors if case.source(name) == name)
    return any(spread(spec, spec.layout.place(spec.shape, SHARED_PARTS)) for spec in own)


def _calling(given: Subjected) -> str:
    """The functions that call: the form of the operation that failed, and beside the in-place one the other."""
    form = _form(given)
    if not form:
        return _function("call", "The call; its outputs as a tuple.", given, "")
    over = _function("call", "The call in place; the tensors that it returns as a tuple.", given, form)
    return f"{over}\n\n\n{_function('fresh', 'The same call with outputs of its own.', given, '')}"


def _form(given: Subjected) -> str:
    name = given.failure.verdict.property
    if name == "chain":
        return FORM * in_place(given.subject, OPERATIONS[given.case.operation])
    # what is judged beside another property is judged of the form that every call has
    return PROPERTIES[name].form if name in PROPERTIES else ""


def _function(name: str, docstring: str, given: Subjected, form: str) -> str:
    operation = OPERATIONS[given.case.operation]
    present = dict(given.case.tensors)

    def shown(name: str) -> str:
        return f"tensors[{_passed_as(given.case, name)!r}]" if name in present else "None"

    passed = [shown(name) for name in operation.positional]
    passed += [f"{name}={shown(name)}" for name in operation.keywords]
    wait = "    if wait:\n        torch.cuda.synchronize()\n" * (given.subject.device != "cpu")
    return (
        f"def {name}(tensors, implementation=IMPLEMENTATION, *, wait=True):\n"
        f'    """{docstring}"""\n'
        f"    result = implementation.{operation.name}{form}({', '.join(passed)}, **FLAGS)\n"
        f"{wait}"
        "    return (result,) if isinstance(result, torch.Tensor) else tuple(result or ())"
    )


def _expected(given: Subjected) -> str:
    outputs = OPERATIONS[given.case.operation].outputs(given.case)
    lines = [f"    ({out.name!r}, {out.dtype}, {out.shape}, {out.columns})," for out in outputs]
    return "\n".join(["# outputs: name, dtype, shape, whether column by column", "EXPECTED = [", *lines, "]"])


def _allowed(given: Subjected) -> str:
    """The lowest and the highest number that the contract allows per element, and where NaN is allowed."""
    return _allowed_of(given, given.case, values_of(given.case))


def _allowed_of(given: Subjected, case: Case, values: dict[str, torch.Tensor]) -> str:
    lines = ["# lowest and highest number allowed, and whether NaN is", "ALLOWED = {"]
    for out, interval in _intervals(given, case, values):
        allowed = rounded(interval, out.dtype)
        lo, hi, nan = (end.reshape(out.shape) for end in (allowed.lo, allowed.hi, allowed.nan))
        shown = [given.data.expression(f"{out.name} {i}", end.to(out.dtype)) for i, end in enumerate((lo, hi))]
        shown.append(given.data.expression(f"{out.name} nan", nan) if nan.any() else "torch.tensor(False)")
        lines += [f"    {out.name!r}: (", *(f"        {text}," for text in shown), "    ),"]
    return "\n".join([*lines, "}"])


def _intervals(given: Subjected, case: Case, values: dict[str, torch.Tensor]) -> Iterator[tuple[Output, Interval]]:
    """What the contract allows before the store of every output, in rows."""
    # not where the implementation runs: whoever writes a script need not touch a GPU
    here = replace(given.subject, device="cpu")
    contract = given.subject.contract(case.operation)
    outputs = OPERATIONS[case.operation].outputs(case)
    allowed = [intervals(here, contract, case, values, rows) for rows in chunks(case)]
    for out in outputs:
        parts = [chunk[out.name] for chunk in allowed]
        ends = (torch.cat([getattr(part, end) for part in parts]) for end in ("lo", "hi", "nan"))
        yield out, Interval(*ends)


def _middles(given: Subjected) -> str:
    """Where the exact results lie, and what chance and the contract allow of their mean error."""
    lines, errors = ["# the exact results, but for what the contract allows", "MIDDLES = {"], Errors()
    for out, interval in _intervals(given, given.case, values_of(given.case)):
        if out.name not in telling(given.case):
            continue
        middle = ((interval.lo + interval.hi) / 2).reshape(out.shape)
        lines.append(f"    {out.name!r}: {given.data.expression(f'{out.name} middle', middle)},")
        errors += compare(
            out.name, middle.to(out.dtype).reshape(interval.lo.shape), interval, out.shape, 0, signed=True
        ).errors
    return "\n".join([*lines, "}", f"BOUND = {bound(errors)}"])


def _carried(given: Subjected) -> str:
    """Which outputs go into which argument of the next layer's call, and what chance allows of their error."""
    operation = OPERATIONS[given.case.operation]
    outputs = [out.name for out in operation.outputs(given.case)]
    pairs = [(outputs.index(out), name) for out, name in operation.carried.items() if out in outputs]
    elements = len(pairs) * LAYERS * prod(given.case.tensors[0][1].shape)
    over = f"IN_PLACE = {in_place(given.subject, operation)}"
    drift = f"{over}\nLAYERS = {LAYERS}\nDRIFT = {bound(Errors(count=elements))}"
    return f"# place of an output, and the argument that it is in the next call\nCARRIED = {pairs!r}\n{drift}"


def _change(given: Subjected) -> Change:
    """What had happened to the parameters when the failing call was made."""
    return next(change for change in CHANGES if change.words in given.failure.verdict.reason)


def _new(given: Subjected) -> str:
    """The new parameters, and how they come to take the place of the old ones."""
    change = _change(given)
    changed = with_new_parameters(given.case, change)
    values = new_values(given.case, changed)
    names = [name for name in OPERATIONS[given.case.operation].parameters if name in values]
    lines = [f"    {name!r}: {given.data.expression(f'new {name}', values[name])}," for name in names]
    made = inspect.getsource(change.make)
    return "\n".join(["NEW = {", *lines, "}", "", "", made, "", f"change = {change.make.__name__}"])


def _allowed_afterwards(given: Subjected) -> str:
    changed = with_new_parameters(given.case, _change(given))
    return _allowed_of(given, changed, new_values(given.case, changed))


def _steps(given: Subjected) -> str:
    """The changes between calls up to the one that failed, and what is allowed after them."""
    done = []
    for step in steps(replace(given.subject, device="cpu"), given.case):
        done.append(step)
        if str(step) in given.failure.verdict.reason:
            break
    lines = [f"    ({step.name!r}, {step.places!r}, {step.numbers()!r})," for step in done]
    changes = "\n".join(["# before each further call: argument, places, new numbers", "STEPS = [", *lines, "]"])
    return f"{changes}\n{_allowed_of(given, given.case, dict(done[-1].values))}"


def _another(given: Subjected) -> str:
    """Other values for every tensor, which the property puts there before or after."""
    values = values_of(_of_another(given))
    lines = [f"    {name!r}: {given.data.expression(f'another {name}', values[name])}," for name in values]
    return "\n".join(["ANOTHER = {", *lines, "}"])


def _of_another(given: Subjected) -> Case:
    return replace(given.case, seed=given.case.seed + 1)


def _counts(given: Subjected) -> str:
    counts, allowed = counted(given.subject, given.case)
    return f"COUNTS = {counts!r}\nALLOWED = {allowed}\nEPS = {EPS!r}"


def _scaling(given: Subjected) -> str:
    scaling = OPERATIONS[given.case.operation].scaling
    assert scaling is not None
    factor = 2.0 ** exponent_of(given.case)
    arguments, outputs = dict(scaling.arguments), dict(scaling.outputs)
    return f"# powers of the factor\nFACTOR = {factor}\nSCALED_ARGUMENTS = {arguments}\nSCALED_OUTPUTS = {outputs}"


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
    same = f"DETERMINISTIC = {given.subject.traits(given.case.operation).deterministic}"
    over = list(places(given.case))
    return f"# the arguments that the outputs are written over, in their order\nOVER = {over!r}\n{same}"


def _reference(given: Subjected) -> str:
    return f"REFERENCE = load({given.subject.declared.reference!r})"


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
    "MORE": lambda given: f"MORE = {padding_of(given.case)}",
    "SCALING": _scaling,
    "MIDDLES": _middles,
    "COUNTS": _counts,
    "ANOTHER": _another,
    "ALLOWED_OF_ANOTHER": lambda given: _allowed_of(given, given.case, values_of(_of_another(given))),
    "CARRIED": _carried,
    "NEW": _new,
    "STEPS": _steps,
    "ALLOWED_AFTERWARDS": _allowed_afterwards,
    "LIMIT": lambda given: f"LIMIT = {PROFILES[given.failure.item.profile].limit}",
}
