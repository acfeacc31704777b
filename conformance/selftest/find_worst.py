"""Search for the calls whose results come nearest to their bounds, and keep them.

``python -m conformance.selftest.find_worst [ADAPTER ...] [--op NAME] [--examples N]`` lets Hypothesis climb
towards the largest share of the bound that explains an output, for every operation, contract and dtype, over all
adapters that declare the contract. It writes the best case of each, as small as it can be had, into
``fixtures/cases/`` and prints their rows for ``fixtures/README.md``. Every profile replays them.

Not part of a run: what it finds depends on the version of Hypothesis, and is a record, not a verdict.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings, target

from conformance.adapter import Ran, load
from conformance.calls.call import Subject, metadata, perform
from conformance.calls.materialize import values_of
from conformance.cases.case import Case
from conformance.cases.draws import strategy
from conformance.cases.factors import DTYPES
from conformance.cases.shrink import shrink
from conformance.operations import OPERATIONS
from conformance.oracle.contract import Contract
from conformance.properties.measure import measure
from conformance.runs.host import choose_device, faithful_interpreter
from conformance.runs.item import GPU_WIDTHS, Item, drawing, scope_of

CASES = Path(__file__).parents[2] / "fixtures" / "cases"
ADAPTERS = ("normkernels", "native", "torch", "transformers")
# every run replays these calls, so they must be cheap: few rows, none of them wide
WIDTHS = tuple(n for n in GPU_WIDTHS if n <= 1024)
MAX_ELEMENTS = 2**12
# a smaller call that comes nearly as close to its bound is better to keep
NEARLY = 0.9
SHRINK_TRIES = 60


@dataclass(frozen=True, slots=True)
class Worst:
    """A call, and the share of the bound that explains its outputs; ``subject`` names the implementation."""

    subject: Subject
    case: Case
    share: float


def share_of_bound(subject: Subject, case: Case) -> float:
    """Return the largest share of the bound before the store that an output of the case needs; 0 if none ran.

    0 also for a case that is too large to keep: several wide groups can make one.
    """
    if math.prod(case.tensors[0][1].shape) > MAX_ELEMENTS:
        return 0.0
    made = perform(subject, case)
    if not isinstance(made.outcome, Ran) or metadata(subject, case, made.outcome.outputs):
        return 0.0
    contract = subject.contract(case.operation)
    return measure(subject, contract, case, values_of(case), made.outcome.outputs).worst


def worst_case(subject: Subject, operation: str, dtype: str, examples: int) -> Worst | None:
    """Return the best of some examples; None if none ran."""
    item = Item(operation, "layout", dtype)
    scope = scope_of(item, subject)
    scope = replace(scope, widths=WIDTHS, max_elements=MAX_ELEMENTS)
    best: Worst | None = None

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.target),
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy(drawing(item, scope)))
    def climb(case: Case | None) -> None:
        nonlocal best
        if case is None:
            return
        share = share_of_bound(subject, case)
        target(share)
        if share > (best.share if best else 0.0):
            best = Worst(subject, case, share)

    climb()
    return best


def smallest(worst: Worst) -> Worst:
    """Return the smallest call found that comes nearly as close to its bound."""
    case, _ = shrink(
        worst.case,
        OPERATIONS[worst.case.operation].simpler,
        lambda case: share_of_bound(worst.subject, case) >= NEARLY * worst.share,
        tries=SHRINK_TRIES,
    )
    return replace(worst, case=case, share=share_of_bound(worst.subject, case))


def worst_cases(subjects: tuple[Subject, ...], operation: str, dtype: str, examples: int) -> Iterator[Worst]:
    """Return an operation's worst call in a dtype, for each contract that one of the subjects declares."""
    found: dict[Contract, Worst] = {}
    for subject in subjects:
        if not subject.traits(operation).implemented:
            continue
        contract = subject.contract(operation)
        worst = worst_case(subject, operation, dtype, examples)
        if worst is not None and (contract not in found or worst.share > found[contract].share):
            found[contract] = worst
    return map(smallest, found.values())


def row(case: Case, found: Iterable[Worst], examples: int) -> str:
    """Write a case; return its row of ``fixtures/README.md``, with all contracts for which it is the worst."""
    text = case.to_json() + "\n"
    (CASES / f"{case.id}.json").write_text(text, encoding="utf-8")
    digest = hashlib.sha256(text.encode()).hexdigest()
    command = f"`python -m conformance.selftest.find_worst --examples {examples}`"
    shares = ", ".join(f"{worst.share:.3f} of the bound of {worst.subject.declared.name}" for worst in found)
    return f"| `cases/{case.id}.json` | {command}: {case.operation} in {case.dtype}, {shares} | `{digest}` |"


def main() -> None:
    """Search, write, and print the rows."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("adapters", nargs="*", default=ADAPTERS)
    options.add_argument(
        "--op", action="append", choices=tuple(OPERATIONS), help="this operation only; repeatable"
    )
    options.add_argument("--examples", type=int, default=400, help="calls per adapter, operation and dtype")
    chosen = options.parse_args()
    device = choose_device()
    unfaithful = faithful_interpreter() if device == "cpu" else ""
    subjects = tuple(Subject(load(name), device, unfaithful) for name in chosen.adapters)
    for operation, dtype in itertools.product(chosen.op or OPERATIONS, DTYPES):
        kept: dict[Case, list[Worst]] = {}
        for worst in worst_cases(subjects, operation, dtype, chosen.examples):
            kept.setdefault(worst.case, []).append(worst)
        for case, found in kept.items():
            print(row(case, found, chosen.examples), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
