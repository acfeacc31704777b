"""Every kernel compiles as required, for GPUs that this machine does not have.

The interpreter runs code that a compiler would refuse. Everything is compiled once, for all targets together that
the selected tests look at.
"""

from __future__ import annotations

import ast
import fcntl
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import triton

import normkernels.kernels
from conformance.package.codegen.checks import MOST_COMPILED, Row, problems, wanted_fp8
from conformance.package.codegen.collect import collect, looked_at
from conformance.package.codegen.facts import Facts
from conformance.package.codegen.launches import gpu
from conformance.package.codegen.targets import TARGETS
from conformance.package.codegen.variants import FUSED, PLANS, VARIANTS, VENDORS
from conformance.package.codegen.workloads import WORKLOADS, Workload
from conformance.selftest.every import every
from normkernels.call import conversions

KERNELS = Path(normkernels.kernels.__file__).parent


@dataclass(frozen=True, slots=True)
class Compiled:
    """The rows of every target."""

    rows: Sequence[Row]

    def row(self, target: str, variant: str, *, fusion: bool = False) -> Row:
        """Return the result of one variant."""
        (row,) = (
            row
            for row in self.rows
            if (row["target"], row.get("variant"), row.get("fusion")) == (target, variant, fusion)
        )
        return row

    def facts(self, target: str, variant: str, *, fusion: bool = False) -> Facts:
        """Return the facts of one compiled variant."""
        return Facts.from_data(self.row(target, variant, fusion=fusion)["facts"])


@pytest.fixture(scope="session", name="compiled")
def _compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """Compile everything that the selected tests look at once, also if a run has several workers."""
    targets = looked_at(request.session.items, "compiled")
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return Compiled(collect(targets))
    shared = tmp_path_factory.getbasetemp().parent / "codegen.json"
    with shared.with_suffix(".lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not shared.exists():
            shared.write_text(json.dumps(collect(targets)), encoding="utf-8")
    return Compiled(json.loads(shared.read_text(encoding="utf-8")))


@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_compiles_to_what_it_must_be(target: str, compiled: Compiled) -> None:
    """Nothing spills or is too large, aligned rows move 16 bytes at once, no sum is fused, except as listed."""
    assert [] == [str(problem) for problem in problems(compiled.rows, [target], triton.__version__)]


def test_every_target_is_judged_here(compiled: Compiled) -> None:
    """Every supported Triton compiles for every target: no target is left out silently."""
    assert [] == [row for row in compiled.rows if "not_judged" in row]


def test_few_kernels_are_compiled(compiled: Compiled) -> None:
    """There are no more kernels than two cores compile within two minutes."""
    assert 250 < sum("facts" in row for row in compiled.rows) <= MOST_COMPILED


def test_every_kernel_is_compiled_in_every_plan(compiled: Compiled) -> None:
    """Every kernel of the package is compiled with every plan that it can be launched with."""
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in KERNELS.glob("*.py")]
    functions = [node.name for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)]
    every = [compiled.facts("sm_90", name) for name in PLANS if "facts" in compiled.row("sm_90", name)]

    assert {name for name in functions if name.endswith("_kernel")} == {facts.kernel for facts in every}
    assert {
        ("rms_norm_gated_128_kernel", "decode128"),
        ("rms_norm_gated_128_kernel", "prefill128"),
        ("rms_norm_gated_kernel", "general"),
        ("rms_norm_kernel", "general"),
        ("rms_norm_fp8_kernel", "general"),
        ("rms_norm_gated_fp8_kernel", "general"),
        ("mrope_kernel", "decode"),
        ("mrope_kernel", "prefill"),
    } == {(facts.kernel, facts.plan) for facts in every}


def test_every_access_is_compiled(compiled: Compiled) -> None:
    """Each kernel with three kinds of access is compiled aligned, and in at least one of the other two."""
    every = [compiled.facts("sm_90", name) for name in VARIANTS if "facts" in compiled.row("sm_90", name)]
    seen = {(facts.kernel, facts.access) for facts in every if facts.access}

    for kernel in {kernel for kernel, _ in seen}:
        assert (kernel, "aligned") in seen
        assert {(kernel, "unit"), (kernel, "strided")} & seen


@pytest.mark.parametrize(("plan", "size"), [("decode128", 8), ("decode128 of two rows", 16), ("prefill128", 16)])
def test_the_128_plans_stream_without_barriers(plan: str, size: int, compiled: Compiled) -> None:
    """Rows of 128 move 16 bytes a thread, or one row 8 bytes a thread, and never leave their warp."""
    code = compiled.facts("sm_90", plan)

    assert (0, 0, {size}) == (code.shared, code.barriers, set(code.accesses))


@pytest.mark.parametrize(
    "name",
    [
        "mrope",
        "mrope in place",
        "mrope prefill",
        "mrope of a token a program in place",
        "mrope of many heads",
        "mrope whole heads",
        "mrope of fp32 angles",
        "mrope of fp32 angles in place",
    ],
)
def test_rotations_stream_without_barriers(name: str, compiled: Compiled) -> None:
    """All memory but a token's three positions moves 16 bytes a thread, and no thread waits for another."""
    code = compiled.facts("sm_90", name)

    assert (0, 0, 3) == (code.shared, code.barriers, code.narrow)


def test_rotations_of_two_tokens_stream_without_barriers(compiled: Compiled) -> None:
    """Two tokens stream like one; Triton reloads positions to check for text (3.6: eight rows a thread)."""
    code = compiled.facts("sm_90", "mrope prefill in place")

    assert (0, 0, {8, 16}, {16}) == (code.shared, code.barriers, set(code.loads), set(code.stores))
    assert code.loads[8] in {3 + 3, 3 + 3 * 8}


@every("name", VARIANTS)
def test_no_sum_is_contracted(name: str, compiled: Compiled) -> None:
    """No multiplication is fused with an addition unasked: a row's bits would depend on its layout."""
    rows = [compiled.row(target, name) for target in ("sm_90", "gfx942")]

    assert [0] == sorted({row["facts"]["fused"] for row in rows if "facts" in row})


@pytest.mark.parametrize("target", TARGETS)
def test_contractions_are_noticed(target: str, compiled: Compiled) -> None:
    """Fusions are counted where Triton may fuse, so the count is not always zero."""
    assert all(compiled.facts(target, name, fusion=True).fused > 0 for name in FUSED)


@every("name", VARIANTS)
def test_a_new_batch_size_compiles_nothing(name: str, compiled: Compiled) -> None:
    """Triton sees the same kernel in batches of 1, 15, 16 and 17, and as many rows after the start of a plan."""
    row = compiled.row("sm_90", name)

    assert row.get("batches", 1) == 1
    assert ("batches" in row) == ("facts" in row)


@every("name", VARIANTS)
def test_a_place_in_memory_compiles_nothing(name: str, compiled: Compiled) -> None:
    """Triton sees the same kernel for other gaps between rows and other unaligned starts."""
    row = compiled.row("sm_90", name)

    assert row.get("places", 1) in {1, 2}
    assert ("places" in row) == ("facts" in row)


@pytest.mark.parametrize(
    "name",
    [
        "many rows",
        "wide",
        "wide of many rows",
        "widest",
        "groups",
        "norm",
        "norm gemma",
        "norm of many rows",
        "norm of many wide rows",
        "norm alone of many wide rows",
    ],
)
def test_aligned_rows_move_16_bytes_a_thread(name: str, compiled: Compiled) -> None:
    """Rows of any width that begin at multiples of 16 bytes are loaded and stored 16 bytes at once."""
    assert 0 == compiled.facts("sm_90", name).narrow


@pytest.mark.parametrize(
    "name",
    [
        "fp8",
        "fp8 and unquantised",
        "fp8 of many wide rows",
        "fp8 of whole rows",
        "gated fp8",
        "gated fp8 of many rows",
        "gated fp8, norm groups inside",
        "gated fp8, norm groups outside",
    ],
)
def test_aligned_rows_move_8_bytes_of_fp8_a_thread(name: str, compiled: Compiled) -> None:
    """A thread stores 8 fp8 values at once, in a gated norm 16; only scales are stored one by one."""
    code = compiled.facts("sm_90", name)
    of_values = {8, 16} if name.startswith("gated") else {8}

    assert [16] == list(code.loads)
    # a thread has values of several groups
    assert 1 <= code.stores[4] <= 8
    assert of_values & set(code.stores)
    assert {4, 8, 16} >= set(code.stores)


@every("name", ["two sizes", "norm of two sizes", "norm of columns apart", "mrope of gaps"])
@every("target", TARGETS)
def test_rows_that_may_lie_anywhere_move_an_element_a_time(target: str, name: str, compiled: Compiled) -> None:
    """Without known alignment or contiguity bf16 has no wide access, which would fault."""
    positions = {8} if name.startswith("mrope") else set()

    assert {2} == set(compiled.facts(target, name).accesses) - positions


@pytest.mark.parametrize("name", ["norm of two dtypes", "fp8 of two dtypes"])
def test_a_sum_of_two_dtypes_is_added_in_float32(name: str, compiled: Compiled) -> None:
    """LLVM does not make an fp16 addition of an fp16 x and a bf16 residual, which fp16 cannot hold."""
    assert [0, 0] == [compiled.facts(target, name).half_additions for target in ("sm_90", "gfx942")]


@pytest.mark.parametrize("name", ["fp8", "fp8 odd", "fp8 widest", "gated fp8, norm groups inside"])
def test_scales_and_values_are_divided_exactly(name: str, compiled: Compiled) -> None:
    """Divisions are rounded to nearest, as in the native form; only the mean's division is not."""
    assert 1 == compiled.facts("sm_90", name).approximate


@pytest.mark.parametrize("target", TARGETS)
def test_fp8_types_are_those_that_triton_says_it_has(target: str) -> None:
    """The dispatcher's answer from Triton for each GPU agrees with the known types."""
    assert set(TARGETS[target].fp8) == set(conversions(gpu(TARGETS[target])))


@pytest.mark.parametrize("target", TARGETS)
def test_each_fp8_type_is_compiled_or_declined(target: str, compiled: Compiled) -> None:
    """A GPU's own types are compiled; a type that it lacks is declined for that reason alone."""
    for name in ("fp8 in e4m3fn", "fp8 in e4m3fnuz"):
        row, fp8 = compiled.row(target, name), wanted_fp8(TARGETS[target], VARIANTS[name])
        assert fp8 is not None
        hardware = TARGETS[target].fp8.get(fp8)

        assert (hardware is None) == (row.get("declined") == ["FP8_DTYPE"])
        assert hardware is None or hardware == (row["facts"]["fp8"] > 0)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_a_workload_compiles_few_kernels(workload: Workload, compiled: Compiled) -> None:
    """Batches of 1 to 512, prefills and four layouts of a model need only kernels that have a reason."""
    kernels = {row["target"]: row["kernels"] for row in compiled.rows if row.get("workload") == workload.name}

    assert {name: workload.compiled(TARGETS[name].warp_size) for name in VENDORS} == kernels
