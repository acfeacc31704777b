"""Time to the first failure of every fake, in the order in which a run judges: what a developer waits for.

``python -m conformance.selftest.first_failure [--every K]`` prints the median, 95 % and the longest, in seconds of
a processor and in cases; a survey is part of it, importing is not. Every fake is judged in a process of its own;
those that need a GPU are left out.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from conformance.adapter import Adapter
from conformance.calls import state_guard
from conformance.calls.call import Subject
from conformance.calls.child import single_threaded
from conformance.calls.verdict import BAD
from conformance.calls.watch import warm_up
from conformance.cases.case import Case
from conformance.runs.host import choose_device, faithful_interpreter
from conformance.runs.item import items
from conformance.runs.judge import judge_item
from conformance.selftest.contained import in_processes, judging, survey_of


@dataclass(frozen=True, slots=True)
class Found:
    """The first failure of a fake: its property, and what was spent until then; without one, no property."""

    fake: str
    operation: str
    property: str
    seconds: float
    cases: int


def first_failure(run: tuple[type[Adapter], str]) -> Found:
    """Return the first failure of a fake as one of its operations, which this process has not called yet."""
    # imports Triton, which must come after the device is chosen
    from conformance.selftest.fakes import right

    fake, operation = run
    subject = Subject(fake(), "cpu")
    seen: set[Case] = set()
    begun = _spent()
    found = survey_of(subject, operation, right(operation)())
    prop = ""
    with judging(subject) as ask:
        for item in items(subject, operations=(operation,)):
            verdicts = judge_item(item, subject, ask, begun=seen.add, found=found)
            prop = next((verdict.property for verdict in verdicts if verdict.status in BAD), "")
            if prop:
                break
    return Found(fake.__name__, operation, prop, _spent() - begun, len(seen))


def _spent() -> float:
    """Return the seconds of a processor, those of ended children included."""
    return sum(os.times()[:4])


def _runs() -> list[tuple[type[Adapter], str]]:
    from conformance.selftest.fakes import FAKES

    return [(fake, name) for fake in FAKES if not getattr(fake, "gpu", "") for name in fake.operations]


def summary(found: Sequence[Found]) -> str:
    """Return the lines that are printed."""
    lines = [f"{len(found)} fakes, {sum(not one.property for one in found)} without a failure"]
    for unit, values in (("s", [one.seconds for one in found]), ("cases", [float(one.cases) for one in found])):
        ordered = sorted(values)
        middle, late = (ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.95))
        lines.append(f"{unit}: median {middle:.3g}, 95 % {late:.3g}, longest {ordered[-1]:.3g}")
    first = Counter(one.property for one in found).most_common()
    lines.append(", ".join(f"{prop or 'none'} {count}" for prop, count in first))
    slow = sorted(found, key=lambda one: -one.seconds)[:10]
    lines += [
        f"{one.seconds:6.1f} s {one.cases:5} cases {one.property:18} {one.operation} {one.fake}" for one in slow
    ]
    return "\n".join(lines)


def prepare() -> None:
    """Do once what every process would otherwise do: it is forked from this one."""
    choose_device("cpu")
    single_threaded()
    assert not faithful_interpreter()
    # as in the process of an adapter
    warm_up()
    state_guard.captured()


def main(arguments: Sequence[str] | None = None) -> None:
    """Judge every K-th fake, two processes at once."""
    parser = argparse.ArgumentParser(prog="python -m conformance.selftest.first_failure")
    parser.add_argument("--every", type=int, default=1, metavar="K")
    parser.add_argument("-n", type=int, default=2, metavar="N", help="processes")
    given = parser.parse_args(arguments)
    prepare()
    found = list(in_processes(first_failure, _runs()[:: given.every], given.n))
    sys.stdout.write(f"{summary(found)}\n")


if __name__ == "__main__":
    main()
