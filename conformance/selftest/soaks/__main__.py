"""A soak: right implementations of every operation are compared with what the oracle allows, and none may fail.

``python -m conformance.selftest.soaks [--device cuda] [--elements 1e9] [--minutes M] [--out FILE]`` draws calls of
every operation of the suite with ordinary values, no two rows alike, until each operation has its part of the
elements. Each call is made by all right implementations: those of the fakes in every form of their arithmetic,
plain PyTorch, PyTorch's own functions, and on a GPU what ``torch.compile`` makes of the formulas. The other side
is judged too: where one element in a million of a right result is off by twice its bound, the call must fail.

Writes a header and a row for every implementation of an operation, as JSON, a line each, and prints a table. Ends
with 1 where a right implementation failed or could not run, or a wrong one passed.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import math
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from conformance.adapter import Declined, Ran
from conformance.calls.call import values_for
from conformance.calls.child import single_threaded
from conformance.cases.case import Case
from conformance.cases.factors import DTYPES, EVERYTHING
from conformance.operations import OPERATIONS, Operation
from conformance.oracle.comparison import Comparison
from conformance.properties.measure import measure
from conformance.report.header import origin
from conformance.runs.host import choose_device
from conformance.selftest.contained import in_processes
from conformance.selftest.soaks.misses import put_off
from conformance.selftest.soaks.rights import Right, called, drawn, rights

ELEMENTS = 1e9
CHUNK = 2**17  # elements of a call, so few that no row is drawn twice
LEAST = 2**9
WIDTHS = (128, 3, 512, 1000, 2048, 33, 256, 4096, 769, 16, 1024, 5120)
SPARSE = 10**6  # elements, one of which is wrong
WRONG = "off by twice the bound in one element of "


@dataclass(frozen=True, slots=True)
class Part:
    """The task of one process: an operation, the elements that it has to reach, and the clock's end."""

    operation: str
    device: str
    elements: float
    seed: int
    until: float


@dataclass(slots=True)
class Row:
    """The result of an implementation of an operation; ``first`` is the case of its first failure, as JSON.

    ``why`` says what failed. ``worst`` is the largest share of the bound before the store that a result needed.
    ``wrong``: every case must fail.
    """

    operation: str
    implementation: str
    wrong: bool = False
    elements: int = 0
    cases: int = 0
    failures: int = 0
    worst: float = 0.0
    seconds: float = 0.0
    why: str = ""
    first: dict[str, Any] | None = None

    @property
    def amiss(self) -> bool:
        """Return whether a right implementation failed, or a wrong one passed or was never tried."""
        return self.failures < max(self.cases, 1) if self.wrong else bool(self.failures)

    def add(self, case: Case, elements: int, why: str) -> None:
        """Count a case."""
        self.cases += 1
        self.elements += elements
        self.failures += bool(why)
        if why and self.first is None:
            self.first, self.why = case.to_data(), why


@dataclass(frozen=True, slots=True)
class Soak:
    """The soak of one operation, in one process."""

    part: Part
    found: list[Right]
    rows: dict[str, Row] = field(default_factory=dict)

    @property
    def operation(self) -> Operation:
        """Return the operation."""
        return OPERATIONS[self.part.operation]

    @property
    def elements(self) -> int:
        """Return the elements that were compared so far."""
        return sum(row.elements for row in self.rows.values())

    def run(self) -> None:
        """Compare until there are enough elements; then judge wrong results."""
        rng = random.Random(f"{self.part.seed}:{self.operation.name}")  # noqa: S311 - reproducible, not secret
        # every dtype in every width, where there are elements enough
        chunk = int(self.part.elements / len(self.found) / len(DTYPES) / len(WIDTHS))
        chunk = min(CHUNK, max(LEAST, chunk))
        turn = 0
        while self.elements < self.part.elements and time.time() < self.part.until:
            self._turn(rng, turn, chunk)
            turn += 1
        if not self.elements:
            raise TimeoutError("the time was over before the first call")
        sparse = int(min(SPARSE, max(LEAST, self.part.elements)))
        for number, dtype in enumerate(DTYPES):
            case = drawn(self.operation, dtype, WIDTHS[number], sparse, rng, EVERYTHING, plain=False)
            self._wrong(case, rng, sparse)

    def _turn(self, rng: random.Random, turn: int, chunk: int) -> None:
        """Judge one call by all implementations: by those of one claim the same call."""
        dtype, columns = DTYPES[turn % len(DTYPES)], WIDTHS[turn // len(DTYPES) % len(WIDTHS)]
        for taken, plain in dict.fromkeys((each.taken, each.plain) for each in self.found):
            # two shapes are compiled for each dtype
            width = WIDTHS[2 * (turn // len(DTYPES) % 2)] if plain else columns
            case = drawn(self.operation, dtype, width, chunk, rng, taken, plain=plain)
            values = values_for(self.found[0].subject, case)
            for each in self.found:
                wide = case.tensors[0][1].shape[-1] > (each.most or math.inf)
                if (each.taken, each.plain) == (taken, plain) and not wide:
                    self._judged(each, case, values)

    def _judged(self, each: Right, case: Case, values: dict[str, torch.Tensor]) -> None:
        """Judge a call of an implementation, and count it."""
        began = time.monotonic()
        row = self.rows.get(each.name) or Row(self.operation.name, each.name)
        try:
            outcome, used = called(each, case, values)
            if not used or isinstance(outcome, Declined):
                # the formula has no such step, or PyTorch no such function
                return
            if isinstance(outcome, Ran):
                compared = measure(each.subject, each.contract, case, values, outcome.outputs)
                row.worst = round(max(row.worst, compared.worst), 4)
                row.add(case, compared.elements, _said(compared))
            else:
                row.add(case, 0, str(outcome))
        except AssertionError as error:
            # the oracle depends on the machine
            row.add(case, 0, f"{type(error).__name__}: {error}")
        row.seconds = round(row.seconds + time.monotonic() - began, 3)
        self.rows[each.name] = row

    def _wrong(self, case: Case, rng: random.Random, sparse: int) -> None:
        """Make one element of the first right result wrong, in each of its outputs in turn, and judge that."""
        base, began = self.found[0], time.monotonic()
        values = values_for(base.subject, case)
        outcome, _ = called(base, case, values)
        assert isinstance(outcome, Ran), outcome
        name = f"{WRONG}{sparse}"
        row = self.rows.setdefault(name, Row(self.operation.name, name, wrong=True))
        for number in range(len(outcome.outputs)):
            outputs = tuple(output.clone() for output in outcome.outputs)
            if put_off(base, case, values, outputs, number, rng):
                compared = measure(base.subject, base.contract, case, values, outputs)
                row.add(case, compared.elements, _said(compared))
        row.seconds = round(row.seconds + time.monotonic() - began, 3)


def _said(compared: Comparison) -> str:
    return f"{compared.first}; {compared.outside} elements outside" if compared.outside else ""


def soak(part: Part) -> list[Row]:
    """Return the rows of an operation, in a process of its own."""
    single_threaded()
    rows: dict[str, Row] = {}
    try:
        Soak(part, rights(part.operation, part.device), rows).run()
    except Exception as error:  # noqa: BLE001 - what it has compared until then is kept
        rows["soak"] = Row(part.operation, "soak", failures=1, why=f"{type(error).__name__}: {error}")
    return list(rows.values())


def table(rows: Sequence[Row]) -> str:
    """Return the printed lines: a row each, the failures, and the sums."""
    lines = []
    for row in rows:
        counted = (
            f"{row.elements:>13,} elements {row.cases:>6,} cases {row.failures:>5,} failed {row.seconds:7.1f} s"
        )
        lines.append(f"{row.operation:18} {row.implementation:60} {counted}")
    lines += [
        f"{row.operation} {row.implementation}: {row.why or 'it passes'} {json.dumps(row.first)}"
        for row in rows
        if row.amiss
    ]
    right, wrong = ([row for row in rows if row.wrong is kind] for kind in (False, True))
    failed, passed_ = sum(row.failures for row in right), sum(row.cases - row.failures for row in wrong)
    lines.append(
        f"{sum(row.elements for row in right):,} elements of {len(right)} right implementations: {failed} failures"
    )
    lines.append(f"{sum(row.cases for row in wrong)} results with one wrong element: {passed_} passed")
    return "\n".join(lines)


def device_name(device: str) -> str:
    """Return a device in words; of a GPU in a process of its own, as others could not be forked after that."""
    return torch.cuda.get_device_name() if device != "cpu" else "CPU"


def write(out: Path, about: dict[str, Any], rows: Sequence[Row]) -> None:
    """Write the header and the rows, a line each."""
    lines = [about, *map(asdict, rows)]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, write and print."""
    parser = argparse.ArgumentParser(prog="python -m conformance.selftest.soaks")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is a GPU")
    parser.add_argument("--elements", type=float, default=ELEMENTS, help="of all operations together")
    parser.add_argument("--minutes", type=float, default=math.inf, metavar="M", help="end after so many")
    parser.add_argument("--op", action="append", choices=tuple(OPERATIONS), help="this one only; repeatable")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-n", type=int, default=1, metavar="N", help="processes")
    parser.add_argument("--out", type=Path, metavar="FILE")
    given = parser.parse_args(arguments)
    device = choose_device(given.device)
    names = given.op or list(OPERATIONS)
    part = partial(Part, device=device, elements=given.elements / len(names), seed=given.seed)
    until = time.time() + 60 * given.minutes
    (where,) = in_processes(device_name, [device], 1)
    about = {"date": str(dt.datetime.now(tz=dt.UTC).date()), **origin(), "device": where}
    about |= {"cores": os.cpu_count(), "elements": given.elements, "seed": given.seed}
    made: list[Row] = []
    for rows in in_processes(soak, [part(name, until=until) for name in names], given.n):
        made = sorted([*made, *rows], key=lambda row: names.index(row.operation))
        sys.stderr.write(f"{rows[0].operation}: {sum(row.elements for row in rows):,} elements\n")
        if given.out is not None:
            # as they come, should this process be ended
            write(given.out, about, made)
    sys.stdout.write(f"{table(made)}\n")
    return int(any(row.amiss for row in made))


if __name__ == "__main__":
    sys.exit(main())
