"""Which cases reach a mutant, and the order in which they are judged."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conformance.cases.case import Case, TensorSpec
from conformance.prove import reach
from conformance.prove.codes import OURS, code, twins
from conformance.prove.copies import ROOT, mutants
from conformance.prove.mutants import Mutant, lines_that_run, mutants_of, statement_lines
from conformance.prove.order import NATIVE, ROUNDED, Order, judges
from conformance.prove.order import OURS as OURS_ALONE
from conformance.prove.reach import Reach, Step, Tracer
from conformance.prove.rows import KILLED, SURVIVED, row
from conformance.selftest.every import every
from conformance.selftest.processes import judged

SOURCE = """\
TABLE = 1
def f(a, b=2):
    c = (
        a + 3
    )
    if (a <
            4):
        c = 5
    elif a < 6:
        for each in range(7):
            c += each
    try:
        c = 8
    except ValueError:
        pass
    def g(d=9):
        return 10
    if c < 11: c = 12
    match c:
        case _ if c < 13:
            return 14
"""
KERNEL = "normkernels/kernels/rms_norm_gated.py"


@every(
    ("number", "lines"),
    [
        (1, None),
        (2, None),
        (3, range(3, 6)),
        (4, range(6, 8)),
        (5, range(8, 9)),
        (6, range(9, 10)),
        (7, range(10, 11)),
        (8, range(13, 14)),
        (9, range(16, 17)),
        (10, range(17, 18)),
        (11, range(18, 19)),
        (12, range(18, 19)),
        (13, range(19, 22)),
        (14, range(21, 22)),
    ],
)
def test_a_mutant_has_the_lines_of_its_statement(number: int, lines: range | None) -> None:
    """The innermost statement counts, without its body; what runs as the module is imported has no lines."""
    found = [m for m in mutants_of("f.py", SOURCE) if m.kind == "constant" and m.before == str(number)]

    assert found
    assert {lines} == {statement_lines(SOURCE, mutant) for mutant in found}


def test_a_statement_that_is_lost_has_its_first_lines() -> None:
    """A branch that is lost is reached where its condition is, whether or not it is taken."""
    found = [m for m in mutants_of("f.py", SOURCE) if m.kind == "statement" and m.before.startswith("for")]

    assert [range(10, 11)] == [statement_lines(SOURCE, mutant) for mutant in found]


def test_documentation_runs_no_lines() -> None:
    """Lines of a statement can run; those of comments, of documentation and between statements cannot."""
    text = 'def f():\n    """Do.\n\n    More."""\n    # why\n\n    a = (\n        1\n    )\n    return a\n'

    assert {1, 7, 8, 9, 10} == lines_that_run(text)


def test_lines_of_the_package_are_recorded_in_every_thread(tmp_path: Path) -> None:
    """Only lines that ran, only of the package, and only inside of the ``with``."""
    text = "def f(a):\n    if a:\n        return 1\n    return 2\n"
    functions = []
    for name in ("normkernels/some.py", "other.py"):
        made: dict[str, object] = {}
        exec(compile(text, str(tmp_path / name), "exec"), made)  # noqa: S102 - the text above
        functions.append(made["f"])
    ours, other = functions
    tracer = Tracer(tmp_path)
    assert callable(ours)
    assert callable(other)
    with tracer:
        ours(1)
        other(0)
    first = tracer.lines
    with tracer:
        thread = threading.Thread(target=ours, args=(0,))
        thread.start()
        thread.join()
    ours(1)

    assert {"normkernels/some.py": {2, 3}} == first
    assert {"normkernels/some.py": {2, 4}} == tracer.lines


# Run in a process of its own, which has not imported the package: the cases of one property are the whole profile.
SCRIPT = """
import sys, time
from collections import deque
from pathlib import Path
from conformance.prove import reach
from conformance.prove.copies import mutants
from conformance.prove.order import Order
from conformance.prove.running import Runner, Task

all_items = reach.items
reach.items = lambda *given, **named: all_items(*given, **named, properties=("contract",))
runner = Runner.prepared("cpu", 1, 60.0)
folder = Path(sys.argv[1])
pairs = [("normkernels", "rms_norm_gated")]
assert not reach.on_file(pairs, "quick", folder)
steps = reach.recorded(pairs, "quick", runner.unfaithful, 1, folder)
assert reach.on_file(pairs, "quick", folder)
reach.multiprocessing = None
assert steps == reach.recorded(pairs, "quick", runner.unfaithful, 1, folder)
assert steps.imported["normkernels/kernels/tiles.py"] >= {28, 29}, "a decorator runs as a kernel is imported"
order = Order(steps)
steps = steps.steps
told = {"y = y * act", "y = y.to(out_ptr.dtype.element_ty)"}
tasks = [
    Task(mutant, "quick", order=order)
    for mutant in mutants(("kernels/rms_norm_gated.py",))
    if mutant.kind == "statement" and mutant.before in told
]
for _, row in runner.run(deque(tasks), time.monotonic() + 300):
    reached = len(order.of(next(task.mutant for task in tasks if task.mutant.id == row.id)))
    print(row.before, row.verdict, row.by, reached, len(steps), row.cases, row.where, sep="|")
"""


def test_a_mutant_is_judged_by_the_cases_that_reach_it(tmp_path: Path) -> None:
    """A lost product dies by a case that runs it; a rounding that the store makes again survives all that do."""
    ended = judged(tmp_path, "-c", SCRIPT, str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    told = {line.split("|")[0]: line.split("|")[1:] for line in ended.stdout.splitlines()}
    verdict, by, reached, steps, cases, where = told["y = y * act"]

    assert 2 == len(told)
    assert (KILLED, "contract") == (verdict, by)
    assert 0 < int(cases) <= int(reached) < int(steps)
    assert where.startswith("normkernels:rms_norm_gated/contract/")
    verdict, by, reached, steps, cases, where = told["y = y.to(out_ptr.dtype.element_ty)"]
    assert (SURVIVED, "", "") == (verdict, by, where)
    assert 0 < int(cases) == int(reached) < int(steps)


def test_what_runs_in_an_import_is_kept_apart(tmp_path: Path) -> None:
    """Lines of a module, and of functions that it calls as it is imported, belong to no case; later calls do."""
    text = "def f(a):\n    return a\nb = f(1)\n"
    tracer = Tracer(tmp_path)
    made: dict[str, Any] = {}
    with tracer:
        exec(compile(text, str(tmp_path / "normkernels/some.py"), "exec"), made)  # noqa: S102 - the text above
    nothing = tracer.lines
    with tracer:
        made["f"](1)

    assert {} == nothing
    assert {"normkernels/some.py": {1, 2, 3}} == tracer.imported
    assert {"normkernels/some.py": {2}} == tracer.lines


def test_both_orders_of_roundings_judge_a_file_on_a_cpu() -> None:
    """Native forms judge operations alone; the other order judges where it differs, and a GPU has one order."""
    kernel, native = set(judges(KERNEL)), set(judges("normkernels/operations/rms_norm_gated.py"))

    assert {(OURS_ALONE, "rms_norm_gated"), (ROUNDED[OURS_ALONE], "rms_norm_gated")} <= kernel < native
    assert {(NATIVE, "rms_norm_gated"), (ROUNDED[NATIVE], "rms_norm_gated")} <= native - kernel
    assert {OURS_ALONE} == {name for name, _ in judges(KERNEL, "cuda")}
    assert not {(name, "mrope") for name in ROUNDED.values()} & set(judges("normkernels/plans.py"))


def _step(number: int, lines: set[int], seconds: float, prop: str = "values") -> Step:
    case = Case("rms_norm_gated", (("x", TensorSpec((2, 3), "float32")),), (), number)
    ran_lines = {KERNEL: frozenset(lines)}
    return Step("normkernels", f"rms_norm_gated/{prop}/float32", case, str(number), seconds, ran_lines)


MUTANT = next(m for m in mutants(("kernels/rms_norm_gated.py",)) if m.function == "sigmoid")


def test_cheap_cases_come_first_and_killers_before_them() -> None:
    """Without kills the order is that of the costs; a case that killed a neighbour comes before all others."""
    lines = set(range(*_ends(MUTANT)))
    steps = [_step(0, lines, 0.3), _step(1, lines, 0.1), _step(2, lines, 0.2), _step(3, {1}, 0.0)]
    order = Order(Reach(tuple(steps), {}))
    before = [step.name for step in order.of(MUTANT)]
    near = row(replace(MUTANT, id="near"), "quick", "cpu", KILLED, where=steps[0].where)
    order.learn(near)
    far = row(replace(MUTANT, id="far", function="other"), "quick", "cpu", KILLED, where=steps[2].where)
    order.learn(far)

    assert ["1", "2", "0"] == before
    assert ["0", "2", "1"] == [step.name for step in order.of(MUTANT)]
    assert ["1", "0", "2"] == [step.name for step in order.of(MUTANT, steps[1].where)]
    again = Order(Reach(tuple(steps), {}), [near, far])
    assert ["0", "2", "1"] == [step.name for step in again.of(MUTANT)]


def _ends(mutant: Mutant) -> tuple[int, int]:
    found = statement_lines((ROOT / mutant.file).read_text("utf-8"), mutant)
    assert found is not None
    return found.start, found.stop


def test_a_mutant_that_no_case_runs_is_not_reached() -> None:
    """Cases of other lines, of other files and of other operations reach nothing."""
    lines = set(range(*_ends(MUTANT)))
    reaching = _step(0, lines, 0.1)
    elsewhere = replace(reaching, lines={"normkernels/plans.py": frozenset(lines)})
    another = replace(reaching, case=replace(reaching.case, operation="mrope"))

    others = _step(0, {1}, 0.1), elsewhere, another

    assert Order(Reach((reaching,), {})).reaches(MUTANT)
    assert not any(Order(Reach((step,), {})).reaches(MUTANT) for step in others)
    # what runs in an import may show in every case of its operations
    imported = {KERNEL: frozenset(lines)}
    assert [True, True, False] == [Order(Reach((step,), imported)).reaches(MUTANT) for step in others]


def test_no_item_waits_for_all_cases_of_another() -> None:
    """Cases of one item are spread over those of others, so that a slower property has its turn."""
    lines = set(range(*_ends(MUTANT)))
    steps = [_step(number, lines, 0.1) for number in range(60)] + [_step(60, lines, 0.4, "parity")]

    assert 10 < [step.name for step in Order(Reach(tuple(steps), {})).of(MUTANT)].index("60") < 50


@every(
    ("one", "other", "same"),
    [
        ("x = (1)", "x = 1", True),
        ("x = 2 * 3", "x = 6", True),
        ("x = 1", "x = True", False),
        ("x = 1", "x = 1.0", False),
        ("def f(a): return a + 1", "def f(a):\n    return (a + 1)", True),
        ("def f(a): return a + 1", "def f(a): return a - 1", False),
        ("def f(a): return b(a)", "def f(a): return c(a)", False),
    ],
)
def test_code_is_compared_without_its_places(one: str, other: str, same: bool) -> None:  # noqa: FBT001 - a table
    """Two texts are one program where they compile to the same code, with constants of the same types."""
    assert same == (code(one) == code(other))


def test_twins_are_judged_once() -> None:
    """Mutants with the same code stand together, and one with the code of the package apart."""
    text = MUTANT.text
    twin = replace(MUTANT, id="twin", text=f"({text})")
    source = (ROOT / MUTANT.file).read_bytes()
    ours = replace(MUTANT, id="ours", text=f"({source[MUTANT.start : MUTANT.end].decode()})")
    other = next(m for m in mutants((Path(MUTANT.file).name, "plans.py")) if m.file != MUTANT.file)
    groups = twins([MUTANT, ours, other, twin])

    assert [[MUTANT, twin], [ours], [other]] == list(groups.values())
    assert [ours] == groups[OURS]


def test_a_record_follows_from_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another state of the sources has another file."""
    first = reach._file("native", "mrope", "quick", tmp_path)
    monkeypatch.setattr(reach, "state", lambda: "another")

    assert first != reach._file("native", "mrope", "quick", tmp_path)
