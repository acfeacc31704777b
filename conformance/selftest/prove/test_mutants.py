"""Mutants: each kind of change, ids that survive edits elsewhere, and sources that stay valid."""

from __future__ import annotations

import ast
import random
from itertools import chain
from pathlib import Path

from conformance.prove.copies import FAST, ROOT, SLOW, TELLING, TESTS, mutants, package_tests, reached, sources
from conformance.prove.mutants import Mutant, mutants_of, mutated
from conformance.selftest.every import every

FILE = "normkernels/kernels/some.py"


def _of(body: str, kind: str) -> list[str]:
    """Return what the mutants of one kind make of a line in a function."""
    head = "def f(a, b, x_stride_0, x_stride_1, y_stride_0):\n    c = a\n"
    source = f"{head}    {body}\n"
    found = [mutated(source, m) for m in mutants_of(FILE, source) if m.kind == kind and m.line > 2]
    return [text.removeprefix(head).strip() for text in found]


@every(
    ("kind", "body", "after"),
    [
        ("operator", "c = a & b", ["c = (a | b)"]),
        ("operator", "c = tl.max(a)", ["c = tl.min(a)"]),
        ("operator", "c = -a", ["c = a"]),
        ("operator", "a += 1", ["a -= 1"]),
        ("term", "c = a + b", ["c = a", "c = b"]),
        ("term", "c = a // b", ["c = a"]),
        ("term", "c = a and b", ["c = b", "c = a"]),
        ("bool", "c = a and b", ["c = (a or b)"]),
        ("comparison", "c = a < b", ["c = (a <= b)", "c = (a >= b)"]),
        ("comparison", "c = a is None", ["c = (a is not None)"]),
        ("constant", "c = 7", ["c = 8", "c = 6"]),
        ("constant", "c = True", ["c = False"]),
        ("mask", "c = tl.load(a, mask=b, other=0.0)", ["c = tl.load(a)", "c = tl.load(a, mask=b)"]),
        ("arguments", "c = f(a, b)", ["c = f(b, a)"]),
        ("cast", "c = a.to(b)", ["c = a"]),
        ("cast", "c = widened(a)", ["c = a"]),
        ("dtype", "c = tl.int64", ["c = tl.int32"]),
        ("stride", "c = x_stride_0", ["c = x_stride_1", "c = y_stride_0"]),
        ("guard", "if a:\n        c = b", ["if (not a):\n        c = b"]),
        ("statement", "c = b", ["pass"]),
        ("statement", "tl.store(a, b)", ["pass"]),
        ("statement", "raise ValueError(a + b)", ["pass"]),
    ],
)
def test_every_kind_of_change_is_made(kind: str, body: str, after: list[str]) -> None:
    """A line has exactly these mutants of a kind."""
    assert after == _of(body, kind)


@every(
    "body",
    [
        "assert a < b",
        "tl.static_assert(a < 1, 'b')",
        "raise ValueError(f'{a + 1}')",
        "c = tl.load(a, eviction_policy='x' if a else 'y')",
        "new = a",
        "return f'{a + 1}'",
    ],
)
def test_what_changes_no_result_is_no_mutant(body: str) -> None:
    """Assertions, messages, hints and first bindings have none, but for an exception that is not raised."""
    source = f"def f(a, b):\n    {body}\n"

    assert [] == [m for m in mutants_of(FILE, source) if m.kind != "statement"]


def test_an_id_survives_edits_elsewhere() -> None:
    """Lines before, and other functions, change no id; the file and the function do."""
    source = "def f(a, b):\n    return a + b + 1\n"
    moved = f"import os\n\n\ndef g(a):\n    return a - 1\n\n\n{source}"

    def ids(file: str, text: str) -> set[str]:
        return {m.id for m in mutants_of(file, text) if m.function != "g"}

    assert ids(FILE, source) == ids(FILE, moved)
    assert not ids(FILE, source) & ids("normkernels/kernels/other.py", source)
    assert not ids(FILE, source) & ids(FILE, source.replace("def f", "def h"))


def test_equal_changes_of_one_function_have_ids_of_their_own() -> None:
    """The second of two equal lines is another mutant."""
    found = mutants_of(FILE, "def f(a):\n    a = a + 1\n    a = a + 1\n")

    assert len(found) == len({m.id for m in found}) > 0


EVERY = mutants()


def test_ids_are_unique() -> None:
    """No two mutants of the package share an id."""
    assert len(EVERY) == len({m.id for m in EVERY}) > 1000


@every("mutant", random.Random(0).sample(EVERY, 60))  # noqa: S311 - not secret
def test_every_mutant_is_valid_python_and_another_program(mutant: Mutant) -> None:
    """A mutant changes the syntax tree of its file, and no line after it moves up."""
    source = (ROOT / mutant.file).read_text("utf-8")
    text = mutated(source, mutant)

    assert ast.dump(ast.parse(text)) != ast.dump(ast.parse(source))
    assert text.splitlines()[: mutant.line - 1] == source.splitlines()[: mutant.line - 1]


@every(
    ("file", "operations"),
    [
        ("kernels/mrope.py", {"mrope"}),
        ("kernels/rms_norm.py", {"rms_norm", "gemma_rms_norm"}),
        ("kernels/quantise.py", {"rms_norm_fp8", "rms_norm_gated_fp8"}),
    ],
)
def test_a_kernel_reaches_its_operations_alone(file: str, operations: set[str]) -> None:
    """The operations that import a kernel are judged for its mutants, and no others."""
    assert operations <= set(reached(f"normkernels/{file}"))
    assert "rms_norm_gated" not in reached(f"normkernels/{file}")


def test_a_shared_file_reaches_every_operation() -> None:
    """A mutant of the plans may break any operation, and one of the operation's own file that one first."""
    everything = reached("normkernels/plans.py")

    assert {"mrope", "rms_norm", "rms_norm_gated", "rms_norm_fp8", "rms_norm_gated_fp8"} <= set(everything)
    assert "rms_norm_gated" == reached("normkernels/operations/rms_norm_gated.py")[0]


@every(
    ("file", "first"),
    [
        ("plans.py", ["test_measured_plans.py", "test_head_plans.py", "test_plans.py"]),
        ("launch.py", ["launching/test_launch.py"]),
        ("api.py", ["test_public_names.py", "models/test_apply_rotary_pos_emb.py"]),
        ("library.py", ["library/test_constants.py", "library/test_refused.py"]),
        ("modules.py", ["test_modules.py", "test_norm_modules.py", "models/test_comparison.py"]),
    ],
)
def test_tests_of_a_module_come_first(file: str, first: list[str]) -> None:
    """The tests that are named after a module, or tell most of it, are run first for its mutants."""
    found = package_tests(f"normkernels/{file}")

    assert [f"conformance/package/{each}" for each in first] == list(found[: len(first)])


def test_the_order_names_tests_that_exist() -> None:
    """Every test that comes early or late is one, and none is left out."""
    found = package_tests("normkernels/api.py")
    stems = {name for each in map(Path, found) for name in (each.stem, each.parent.name)}

    assert {*SLOW, *chain.from_iterable(TELLING.values())} <= stems
    assert {each.relative_to(ROOT).as_posix() for each in TESTS.rglob("test_*.py")} == set(found)
    assert TELLING.keys() <= {Path(each).stem for each in sources(("*.py",))}


def test_fast_tests_come_before_slow_ones() -> None:
    """Those whose file or folder has the name of the module come first, then fast ones, and slow ones last."""
    ordered = [Path(each) for each in package_tests("normkernels/plans.py")]
    first, then = ordered[:3], [each.stem for each in ordered[3 : 3 + len(FAST) - 2]]
    slow = [not SLOW.isdisjoint({each.stem, each.parent.name}) for each in ordered]

    assert ["test_measured_plans", "test_head_plans", "test_plans"] == [each.stem for each in first]
    assert [each for each in FAST if "plans" not in each] == then
    assert "conformance/package/dispatch/test_decisions.py" in package_tests("normkernels/dispatch.py")[:2]
    assert sorted(slow) == slow
    assert {*SLOW} <= {name for each in ordered for name in (each.stem, each.parent.name)}


def test_a_table_outside_of_functions_has_its_name() -> None:
    """A mark can speak of one table: what is assigned outside of functions names its mutants."""
    found = mutants_of(FILE, "TABLE: tuple[int] = (1,)\nOTHER = 7\n")

    assert {("TABLE", "1 -> 2"), ("TABLE", "1 -> 0"), ("OTHER", "7 -> 8"), ("OTHER", "7 -> 6")} == {
        (m.function, f"{m.before} -> {m.after}") for m in found
    }
