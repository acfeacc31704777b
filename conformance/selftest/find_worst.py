"""Search for the calls whose results come nearest to their bounds, and keep them.

``python -m conformance.selftest.find_worst [ADAPTER] [--examples N]`` lets Hypothesis climb towards the largest
share of the bound that explains an output, for every operation and dtype. It writes the best case of each into
``fixtures/cases/`` and prints their rows for ``fixtures/README.md``. Every profile replays them.

Not part of a run: what it finds depends on the version of Hypothesis, and is a record, not a verdict.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings, target

from conformance.adapter import Ran, load
from conformance.case import Case
from conformance.item import Item, scope_of
from conformance.materialize import values_of
from conformance.operations import OPERATIONS
from conformance.plugin import choose_device, faithful_interpreter
from conformance.strategies import DTYPES, drawn_cases
from conformance.verdict import Subject, measure, metadata, perform

CASES = Path(__file__).parents[2] / "fixtures" / "cases"


def share_of_bound(subject: Subject, case: Case) -> float:
    """The largest share of the bound before the store that an output of the case needs; 0 where none ran."""
    made = perform(subject, case)
    if not isinstance(made.outcome, Ran) or metadata(case, made.outcome.outputs):
        return 0.0
    contract = subject.adapter.contract(case.operation)
    return measure(subject, contract, case, values_of(case), made.outcome.outputs).worst


def worst_case(subject: Subject, operation: str, dtype: str, examples: int) -> tuple[float, Case | None]:
    """The best of so many examples, and its share."""
    scope = scope_of(Item(operation, "layout", dtype), subject)
    best: tuple[float, Case | None] = (0.0, None)

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.target),
        suppress_health_check=list(HealthCheck),
    )
    @given(drawn_cases(OPERATIONS[operation].factors, OPERATIONS[operation].complete, scope))
    def climb(case: Case) -> None:
        nonlocal best
        share = share_of_bound(subject, case)
        target(share)
        if share > best[0]:
            best = share, case

    climb()
    return best


def main() -> None:
    """Search, write, and print the rows."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("adapter", nargs="?", default="normkernels")
    options.add_argument("--examples", type=int, default=400, help="calls per operation and dtype")
    chosen = options.parse_args()
    device = choose_device()
    unfaithful = faithful_interpreter() if device == "cpu" else ""
    subject = Subject(load(chosen.adapter), device, unfaithful)
    for operation in OPERATIONS:
        if not hasattr(subject.adapter, operation):
            continue
        for dtype in DTYPES:
            share, case = worst_case(subject, operation, dtype, chosen.examples)
            if case is None:
                continue
            text = case.to_json() + "\n"
            (CASES / f"{case.id}.json").write_text(text, encoding="utf-8")
            digest = hashlib.sha256(text.encode()).hexdigest()
            command = f"`python -m conformance.selftest.find_worst {chosen.adapter} --examples {chosen.examples}`"
            what = f"{command}: {operation} in {dtype}, {share:.3f} of the bound"
            print(f"| `cases/{case.id}.json` | {what} | `{digest}` |")  # noqa: T201


if __name__ == "__main__":
    main()
