"""Texts for the authors of adapters: how an operation is called, what an adapter takes, what a survey found."""

from __future__ import annotations

import random
from collections.abc import Iterator

from conformance.adapter import Adapter, find
from conformance.calls.claim import APART, claim, pasted, said, size_names
from conformance.calls.materialize import passed
from conformance.cases.case import Case
from conformance.cases.factors import DTYPES, Scope
from conformance.operations import OPERATIONS, Operation, flags_of
from conformance.oracle.contract import NAMED, in_words, named
from conformance.runs.host import version
from conformance.runs.survey import Survey

MOST_REASONS = 3
MOST_VALUES = 6  # values of a flag that are written out
ADAPTER = '''\
"""Lets `conform run` judge my implementation of {name}: replace the body below by a call of it."""

from conformance import Adapter, Contract, Declined


class MyKernels(Adapter):
    """One method per operation; what is missing is not implemented, which is no failure."""

    name = "mykernels"
    # where the implementation rounds: {named}, or
    # Contract(rounds=frozenset({{...}})) with some of {points}
    contracts = {{"{name}": "fp32"}}
    # raises on calls without a meaning, and has gradients or refuses them: then that is demanded as well
    validates = False
    differentiable = False

    def {name}({arguments}):
        """Return {outputs}.

{described}
        """
        raise Declined("not written yet")
{in_place}'''
IN_PLACE = """
    # The in-place form, if there is one: it writes {over}, and returns these arguments, or nothing.
    # def {name}_({arguments}):
    #     raise Declined("not written yet")
"""


def method(name: str) -> str:
    """Return the method that an adapter has for an operation, with its signature."""
    operation = OPERATIONS[name]
    lines = [f"def {name}({_signature(operation)}):"]
    if operation.in_place:
        lines.append(f"def {name}_({_signature(operation)}):  # optional: in place, {_over(operation)}")
    lines.append(
        f"def {name}_out({_signature(operation, 'out')}):  # optional: into a tuple of the caller's tensors"
    )
    return "\n".join(lines)


def _signature(operation: Operation, *more: str) -> str:
    named = (*operation.keywords, *flags_of(operation), *more)
    return ", ".join(["self", *operation.positional, *(["*", *named] if named else [])])


def _over(operation: Operation) -> str:
    return ", ".join(f"{output} over {argument}" for output, argument in operation.in_place.items())


def arguments(name: str) -> dict[str, str]:
    """Return what each argument of an operation is: a tensor, which may be None, or some of a flag's values."""
    operation = OPERATIONS[name]
    cases = list(_one_of_every_level(operation))
    said = {}
    tensors = {name for case in cases for name, _ in case.tensors}
    optional = [name for name in operation.keywords if name not in tensors]
    for tensor in (each for each in (*operation.positional, *operation.keywords) if each in tensors):
        specs = [case.tensor(tensor) for case in cases]
        shapes = {len(spec.shape) for spec in specs if spec is not None}
        dimensions = f"{min(shapes)}" if len(shapes) == 1 else f"{min(shapes)} to {max(shapes)}"
        several = "dimension" if dimensions == "1" else "dimensions"
        said[tensor] = f"tensor of {dimensions} {several}{', or None' if None in specs else ''}"
    for flag in (*optional, *flags_of(operation)):
        values = list(dict.fromkeys(repr(passed(flag, dict(case.flags).get(flag))) for case in cases))
        said[flag] = ", ".join([*values[:MOST_VALUES], *(["…"] if len(values) > MOST_VALUES else [])])
    return said


def _one_of_every_level(operation: Operation) -> Iterator[Case]:
    """Yield plain calls that pass every argument, each with another level of one factor."""
    arguments = {*operation.positional, *operation.keywords}
    plain = {
        factor: next(level for level in levels if level != "none" or factor not in arguments)
        for factor, levels in operation.factors.items()
    }
    for number, (factor, levels) in enumerate(operation.factors.items()):
        for level in levels:
            rng = random.Random(f"{number} {level}")  # noqa: S311 - the same text every time
            yield operation.complete({**plain, factor: level}, rng, Scope("bfloat16"))


def points(name: str) -> str:
    """Return the rounding points of an operation, in the order of its formula."""
    return ", ".join(point.name for point in OPERATIONS[name].rounds) or "the store alone"


def adapter(name: str) -> str:
    """Return the file of an adapter for one operation, to fill in."""
    operation = OPERATIONS[name]
    outputs = max((operation.outputs(case) for case in _one_of_every_level(operation)), key=len)
    form = IN_PLACE.format(name=name, arguments=_signature(operation), over=_over(operation))
    return ADAPTER.format(
        name=name,
        named=", ".join([*NAMED, "eager"]),
        points=points(name),
        arguments=_signature(operation),
        outputs=", ".join(output.name for output in outputs),
        described="\n".join(f"        {argument}: {text}." for argument, text in arguments(name).items()),
        in_place=form if operation.in_place else "",
    )


def claimed_with(name: str) -> dict[str, str]:
    """Return the words of a claim: every factor with its levels, and every size."""
    factors = {"dtype": DTYPES, **OPERATIONS[name].factors}
    words = {factor: ", ".join(levels) for factor, levels in factors.items()}
    sizes = dict.fromkeys(size_names(name), "a number, several of them, or a range")
    return {**words, **sizes, APART: "pairs of levels that exclude each other: {factor: level, factor: level}"}


def terms(name: str) -> str:
    """Return the terms that a wrong formula may lack, and the mistakes that must raise."""
    operation = OPERATIONS[name]
    return f"{', '.join(term.name for term in operation.terms)}; wrong in {len(operation.invalid)} ways on purpose"


def implementation(target: str) -> str:
    """Return the package of a known adapter with its version, and the operations that it has."""
    kind = find(target)
    installed = version(kind.package) if kind.package else ""
    package = f"{kind.package} {'not installed' if installed is None else installed}".strip()
    return f"{package or 'no package'}: {', '.join(_judged(kind))}"


def claims(target: str) -> dict[str, str]:
    """Return for each operation of a known adapter its contract, and the calls that it claims."""
    kind = find(target)
    said_of = {}
    for name in _judged(kind):
        given = kind.takes.get(name)
        taken = "makes no claim" if given is None else said(name, claim(target, name, given))
        contract = in_words(named(kind.contracts[name], OPERATIONS[name].rounds), OPERATIONS[name].rounds)
        said_of[name] = f"{contract}; {taken}"
    return said_of


def _judged(kind: type[Adapter]) -> list[str]:
    return [name for name in OPERATIONS if name in kind.contracts]


def found(operation: str, survey: Survey) -> str:
    """Return in words what a survey found, and the claim to paste."""
    if survey.claimed:
        return f"{operation}: claims: {said(operation, survey.taken)}"
    lines = [f"{operation}: {survey.ran} of {survey.calls} calls ran"]
    if survey.ran:
        lines.append(f"  {said(operation, survey.taken)}")
    lines += [f"  refused {count} times: {reason}" for reason, count in survey.refusals[:MOST_REASONS]]
    if survey.ran:
        lines += ["  as a claim, to stand in the adapter's takes:"]
        lines += [f"    {line}" for line in pasted(operation, survey.taken).splitlines()]
    return "\n".join(lines)
