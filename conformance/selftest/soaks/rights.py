"""Right implementations of an operation, and the calls that they are given."""

from __future__ import annotations

import math
import random
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch

from conformance.adapter import Adapter, Outcome, load
from conformance.calls.call import Subject, call_with
from conformance.calls.declared import Declared
from conformance.calls.materialize import passed
from conformance.cases.case import Case
from conformance.cases.factors import EVERYTHING, Scope, Taken
from conformance.operations import OPERATIONS, Operation
from conformance.operations.rows import count, flat, with_rows
from conformance.oracle.contract import Contract


@dataclass(frozen=True, slots=True)
class Right:
    """A right implementation: an adapter, the form of its arithmetic, what it declares, and what it is given.

    ``most``: columns of its widest row. ``plain``: it is given plain calls, few of whose shapes differ.
    ``placed``: it allocates memory on the device of its arguments; others do so on the default device.
    """

    name: str
    subject: Subject
    contract: Contract
    variation: Any = None  # a Variation: its module imports Triton
    taken: Taken = EVERYTHING
    plain: bool = False
    most: int | None = None
    placed: bool = False


def rights(operation: str, device: str) -> list[Right]:
    """Return the right implementations of an operation, the base of its fakes first."""
    # imports Triton, which must come after the choice of a device
    from conformance.selftest.fakes import every_right
    from conformance.selftest.fakes.summation import Blocked, Pairwise, Serial
    from conformance.selftest.soaks.variations import VARIATIONS

    def made(name: str, adapter: Adapter, **more: Any) -> Right:
        subject = Subject(adapter, device, known=Declared.of(adapter))
        return Right(name, subject, subject.contract(operation), **more)

    # the sums of these are variations
    kinds = [kind for kind in every_right(operation) if kind not in {Pairwise, Blocked, Serial}]
    found = [made(kind.__name__, kind()) for kind in kinds]
    base = found[0]
    for each in VARIATIONS:
        contract = base.contract if each.depth is None else replace(base.contract, depth=each.depth)
        name = f"{base.name}, {each.name}"
        found.append(replace(base, name=name, contract=contract, variation=each, most=each.most))
    for name in ("native", "torch", *(("compile",) if device != "cpu" else ())):
        adapter = load(name)
        if operation in adapter.contracts:
            taken = Declared.of(adapter).operations[operation].claim or EVERYTHING
            found.append(made(name, adapter, taken=taken, plain=name == "compile", placed=True))
    return found


def called(each: Right, case: Case, values: dict[str, torch.Tensor]) -> tuple[Outcome, bool]:
    """Return the outcome of a call, and whether it took a step of the implementation's own."""
    # imports Triton, which must come after the choice of a device
    from conformance.selftest.soaks.variations import Replaced

    operation, device = OPERATIONS[case.operation], each.subject.device
    # kernels take numbers in fp32
    flags = {name: passed(name, value) for name, value in case.flags}
    flags = {name: torch.tensor(v).item() if isinstance(v, float) else v for name, v in flags.items()}
    given = {name: tensor.to(device) for name, tensor in values.items()}
    arguments = {**dict.fromkeys((*operation.positional, *operation.keywords)), **given, **flags}
    with ExitStack() as entered:
        if not each.placed:
            entered.enter_context(torch.device(device))
        replaced = entered.enter_context(Replaced(each.variation)) if each.variation is not None else None
        outcome = call_with(each.subject, case, arguments, wait=False)
    return outcome, replaced is None or replaced.used


def drawn(
    operation: Operation, dtype: str, columns: int, elements: int, rng: random.Random, taken: Taken, *, plain: bool
) -> Case:
    """Return a call with ordinary values, contiguous tensors and about as many elements in its outputs."""
    fixed: dict[str, tuple[str, ...]] = {"values": operation.ordinary, "rank": ("2",), "rows": ("few",)}
    fixed |= {name: ("contiguous",) for name in operation.factors if name.endswith("_layout")}
    scope = Scope(dtype, taken=taken, fixed=tuple(fixed.items()))
    levels = scope.levels(operation.factors)
    # rows of heads have sizes of their own
    sizes = {"rows": 8} if operation.token_axes else {"rows": 8, "columns": columns}
    chosen = {name: each[0] if plain else rng.choice(each) for name, each in levels.items()}
    # numbers such as eps are compiled into the code of a plain call: they are the same in all of them
    numbers = random.Random(0) if plain else rng  # noqa: S311 - reproducible, not secret
    case = flat(operation.complete(chosen, numbers, scope.sized(**sizes)))
    of_a_row = sum(math.prod(out.shape) for out in operation.outputs(case)) // count(case)
    return replace(with_rows(case, max(3, elements // of_a_row)), seed=rng.randrange(2**32))
