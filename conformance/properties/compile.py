"""torch.compile takes a call whole, and the compiled call has the bits of the eager call at every shape.

A break in the graph is an error. A second number of rows may compile once more, with the number as a variable;
a third may not. torch itself compiles again for every number that is no size, so another eps is only called.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from conformance.adapter import Adapter, Crashed, Ran
from conformance.calls.call import Subject, arguments_of, call_with
from conformance.calls.claim import outside
from conformance.calls.materialize import materialize, values_of
from conformance.calls.memory import POISONS
from conformance.calls.verdict import Status, Verdict, of_the_machine, without_outputs
from conformance.cases.case import Case
from conformance.cases.factors import EVERYTHING, Scope, picked
from conformance.operations import OPERATIONS, Operation
from conformance.operations.row_calls import EPS
from conformance.operations.rows import count, flat, with_rows
from conformance.oracle.bits import same_bits
from conformance.properties.property import Fixed, Property, contiguous, narrowed, ordinary

ROWS = (5, 7, 12)
# one more where torch notices that the number of rows varies
MOST_GRAPHS = 2


@contextlib.contextmanager
def unmeasured_guards() -> Iterator[None]:
    """Compile without measuring the guards of what was compiled: half of a small compilation, and only logged.

    There is no switch for it. A torch without this private function measures nothing, or measures elsewhere.
    """
    guards = importlib.import_module("torch._dynamo.guards")
    shipped = getattr(guards, "profile_guard_manager", None)
    if shipped is None:
        yield
        return
    guards.profile_guard_manager = lambda *_given: 0.0  # type: ignore[attr-defined]  # of a module
    try:
        yield
    finally:
        guards.profile_guard_manager = shipped  # type: ignore[attr-defined]


@unmeasured_guards()
def judge(subject: Subject, case: Case) -> tuple[Verdict, ...]:
    """Call eagerly and compiled, over several numbers of rows, and count the graphs; then with another eps.

    Rows of one column come last: they have nothing to reduce, which compilers take for a case of its own.
    """
    case = flat(case)
    graphs: list[object] = []
    torch._dynamo.reset()  # noqa: SLF001 - the one way to forget what other cases compiled
    whole = replace(subject, adapter=compiled(subject.implementation(), case.operation, _backend(subject, graphs)))
    for rows in ROWS:
        wrong = _differs(subject, whole, with_rows(case, rows))
        if wrong is not None:
            return (replace(wrong, case=case),)
    if len(graphs) > MOST_GRAPHS:
        reason = f"{len(graphs)} graphs for {len(ROWS)} numbers of rows, {MOST_GRAPHS} would do"
        return (Verdict("compile", case, Status.FAILED, reason),)
    if "eps" in dict(case.flags):
        other = next(eps for eps in EPS if eps != case.flag("eps"))
        wrong = _differs(subject, whole, with_rows(case, ROWS[-1]).with_flag("eps", other))
    narrow = _of_one_column(subject, case)
    if narrow is not None and not wrong:
        wrong = _differs(subject, whole, narrow)
        wrong = replace(wrong, reason=f"in rows of one column: {wrong.reason}") if wrong else None
    return (replace(wrong, case=case) if wrong else Verdict("compile", case, Status.PASSED),)


def _of_one_column(subject: Subject, case: Case) -> Case | None:
    """Return a plain call whose rows have one column, None where it is not taken; a rotation needs two."""
    operation, claim = OPERATIONS[case.operation], subject.traits(case.operation).claim or EVERYTHING
    if operation.token_axes:
        return None
    scope = Scope(case.dtype, device=subject.device, fixed=fixed(operation), taken=claim).sized(rows=3, columns=1)
    rng = random.Random(case.seed)  # noqa: S311 - reproducible, not secret
    narrow = operation.complete(picked(scope.levels(operation.factors), rng), rng, scope)
    return None if outside(claim, narrow) else narrow


def compiled(adapter: Adapter, operation: str, backend: Callable[..., Any]) -> Adapter:
    """Return the adapter with one method compiled, as one graph."""
    method = torch.compile(getattr(adapter, operation), fullgraph=True, backend=backend)
    changed = copy.copy(adapter)
    setattr(changed, operation, method)
    return changed


def _backend(subject: Subject, graphs: list[object]) -> Callable[..., Any]:
    """Return the usual backend (on the CPU without code generation), recording every graph that it is given."""
    from torch._dynamo import lookup_backend

    chosen = lookup_backend("aot_eager" if subject.device == "cpu" else "inductor")

    def noting(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:  # noqa: ANN401 - torch's to call
        graphs.append(graph)
        return chosen(graph, inputs)

    return noting


def _differs(eager: Subject, whole: Subject, case: Case) -> Verdict | None:
    """Return the verdict on a case whose compiled call differs from the eager one; None where both are equal."""
    values = values_of(case)
    outcomes = []
    for subject in (eager, whole):
        given = arguments_of(materialize(case, values, subject.device, POISONS[0]))
        # guarded buffers begin at offsets that follow the size, and torch compiles anew for two that differ
        arguments = {name: arg.clone() if isinstance(arg, torch.Tensor) else arg for name, arg in given.items()}
        outcome = call_with(subject, case, arguments)
        if isinstance(outcome, Crashed) and subject is whole and not of_the_machine(outcome):
            return Verdict("compile", case, Status.FAILED, f"compiled: {outcome.how}")
        if not isinstance(outcome, Ran):
            return without_outputs("compile", case, outcome)
        outcomes.append(outcome)
    a, b = (outcome.outputs for outcome in outcomes)
    if [(t.shape, t.dtype, t.stride()) for t in a] != [(t.shape, t.dtype, t.stride()) for t in b]:
        reason = f"compiled, a call with {count(case)} rows gives other shapes, dtypes or strides"
        return Verdict("compile", case, Status.FAILED, reason)
    if not all(map(same_bits, a, b)):
        reason = f"compiled, a call with {count(case)} rows and eps {dict(case.flags).get('eps')} has other bits"
        return Verdict("compile", case, Status.FAILED, reason)
    return None


def _cannot(subject: Subject, operation: str, dtype: str) -> str:
    return "" if subject.traits(operation).compiles else "the adapter does not declare it"


def fixed(operation: Operation) -> Fixed:
    """Return the factor levels of the cases: plain rows of a usual width, with every combination of flags."""
    plain = (("width", ("tile",)), ("rank", ("2",)), ("rows", ("few",)))
    return narrowed(operation, contiguous(operation), ordinary(operation), plain)


COMPILE = Property(
    "compile",
    "torch.compile takes the call as one graph, few times, and its bits are the eager ones",
    judge,
    fixed=fixed,
    cannot=_cannot,
)
