"""Every kernel compiles, for GPUs that are not there, to what it must be.

What only a compiler refuses the interpreter runs. All is compiled once, for every target at a time.
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
from conformance.codegen.checks import MOST_COMPILED, Row, problems, wanted_fp8
from conformance.codegen.collect import collect
from conformance.codegen.facts import Facts
from conformance.codegen.launches import gpu
from conformance.codegen.targets import TARGETS
from conformance.codegen.variants import PLANS, VARIANTS, VENDORS
from conformance.codegen.workloads import WORKLOADS, Workload
from normkernels.call import conversions

KERNELS = Path(normkernels.kernels.__file__).parent


@dataclass(frozen=True, slots=True)
class Compiled:
    """The rows of every target."""

    rows: Sequence[Row]

    def row(self, target: str, variant: str, *, fusion: bool = False) -> Row:
        """Return what became of one variant."""
        (row,) = (
            row
            for row in self.rows
            if (row["target"], row.get("variant"), row.get("fusion")) == (target, variant, fusion)
        )
        return row

    def facts(self, target: str, variant: str, *, fusion: bool = False) -> Facts:
        """Return what is known of one compiled variant."""
        return Facts.from_data(self.row(target, variant, fusion=fusion)["facts"])


@pytest.fixture(scope="session", name="compiled")
def _compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """Compile everything; workers of one run do so once, for all of them."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return Compiled(collect(list(TARGETS)))
    shared = tmp_path_factory.getbasetemp().parent / "codegen.json"
    with shared.with_suffix(".lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not shared.exists():
            shared.write_text(json.dumps(collect(list(TARGETS))), encoding="utf-8")
    return Compiled(json.loads(shared.read_text(encoding="utf-8")))


@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_compiles_to_what_it_must_be(target: str, compiled: Compiled) -> None:
    """Nothing spills or is too large, aligned rows move 16 bytes at once, no sum is fused; what is known apart."""
    assert [] == [str(problem) for problem in problems(compiled.rows, [target], triton.__version__)]


def test_every_target_is_judged_here(compiled: Compiled) -> None:
    """Each Triton that the package runs with compiles for all of them: none is left out in silence."""
    assert [] == [row for row in compiled.rows if "not_judged" in row]


def test_few_kernels_are_compiled(compiled: Compiled) -> None:
    """As many as two cores compile within three minutes."""
    assert 400 < sum("facts" in row for row in compiled.rows) <= MOST_COMPILED


def test_every_kernel_is_compiled_in_every_plan(compiled: Compiled) -> None:
    """No kernel of the package, and no plan that it can be launched with, is left out."""
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
    """Each kernel that knows three kinds of access is seen aligned, and in one of the other two at least."""
    every = [compiled.facts("sm_90", name) for name in VARIANTS if "facts" in compiled.row("sm_90", name)]
    seen = {(facts.kernel, facts.access) for facts in every if facts.access}

    for kernel in {kernel for kernel, _ in seen}:
        assert (kernel, "aligned") in seen
        assert {(kernel, "unit"), (kernel, "strided")} & seen


@pytest.mark.parametrize(("plan", "size"), [("decode128", 8), ("decode128 of two rows", 16), ("prefill128", 16)])
def test_the_128_plans_stream_without_barriers(plan: str, size: int, compiled: Compiled) -> None:
    """Rows of 128 move 16 bytes a thread, or one of them 8 a thread of a warp, and never leave their warp."""
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
    """All but the three positions of a token moves 16 bytes a thread, and no thread waits for another."""
    code = compiled.facts("sm_90", name)

    assert (0, 0, 3) == (code.shared, code.barriers, code.narrow)


def test_rotations_of_two_tokens_stream_without_barriers(compiled: Compiled) -> None:
    """As those of one; Triton loads positions again to see whether all are of text, 3.6 eight rows a thread."""
    code = compiled.facts("sm_90", "mrope prefill in place")

    assert (0, 0, {8, 16}, {16}) == (code.shared, code.barriers, set(code.loads), set(code.stores))
    assert code.loads[8] in {3 + 3, 3 + 3 * 8}


@pytest.mark.parametrize("name", VARIANTS)
def test_no_sum_is_contracted(name: str, compiled: Compiled) -> None:
    """No multiplication is fused with an addition unasked: that would tie a row's bits to its layout."""
    rows = [compiled.row(target, name) for target in ("sm_90", "gfx942")]

    assert [0] == sorted({row["facts"]["fused"] for row in rows if "facts" in row})


@pytest.mark.parametrize("target", TARGETS)
def test_contractions_are_noticed(target: str, compiled: Compiled) -> None:
    """Where Triton may fuse it does: a count that was always zero would say nothing."""
    names = ("decode128", "norm of two sizes", "mrope")

    assert all(compiled.facts(target, name, fusion=True).fused > 0 for name in names)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_new_batch_size_compiles_nothing(name: str, compiled: Compiled) -> None:
    """Triton sees the same kernel in batches of 1, 15, 16 and 17, or so many rows after a plan begins."""
    row = compiled.row("sm_90", name)

    assert row.get("batches", 1) == 1
    assert ("batches" in row) == ("facts" in row)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_place_in_memory_compiles_nothing(name: str, compiled: Compiled) -> None:
    """Triton sees the same kernel for other gaps between rows and other starts that are not aligned."""
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
    """Rows that begin at multiples of 16 bytes are loaded and stored 16 bytes at once, whatever their width."""
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
    """As many as a thread loads 16 bytes for, or of a gated norm twice as many: only scales go one by one."""
    code = compiled.facts("sm_90", name)
    of_values = {8, 16} if name.startswith("gated") else {8}

    assert [16] == list(code.loads)
    # a thread has values of several groups
    assert 1 <= code.stores[4] <= 8
    assert of_values & set(code.stores)
    assert {4, 8, 16} >= set(code.stores)


@pytest.mark.parametrize("name", ["two sizes", "norm of two sizes", "norm of columns apart", "mrope of gaps"])
@pytest.mark.parametrize("target", TARGETS)
def test_rows_that_may_lie_anywhere_move_an_element_a_time(target: str, name: str, compiled: Compiled) -> None:
    """Where neither alignment nor contiguity is known no wide access is made of bf16: it would be a fault."""
    positions = {8} if name.startswith("mrope") else set()

    assert {2} == set(compiled.facts(target, name).accesses) - positions


@pytest.mark.parametrize("name", ["norm of two dtypes", "fp8 of two dtypes"])
def test_a_sum_of_two_dtypes_is_added_in_float32(name: str, compiled: Compiled) -> None:
    """LLVM does not make an fp16 addition of an fp16 x and a bf16 residual, which fp16 cannot hold."""
    assert [0, 0] == [compiled.facts(target, name).half_additions for target in ("sm_90", "gfx942")]


@pytest.mark.parametrize("name", ["fp8", "fp8 odd", "fp8 widest", "gated fp8, norm groups inside"])
def test_scales_and_values_are_divided_exactly(name: str, compiled: Compiled) -> None:
    """Rounded to nearest, as the native form's are: only the mean's division, of which nobody knows, is not."""
    assert 1 == compiled.facts("sm_90", name).approximate


@pytest.mark.parametrize("target", TARGETS)
def test_fp8_types_are_those_that_triton_says_it_has(target: str) -> None:
    """What the dispatcher asks Triton for on each GPU is what is known of it."""
    assert set(TARGETS[target].fp8) == set(conversions(gpu(TARGETS[target])))


@pytest.mark.parametrize("target", TARGETS)
def test_each_fp8_type_is_compiled_or_declined(target: str, compiled: Compiled) -> None:
    """A type that a GPU has is converted to; one that it has not is declined for that reason alone."""
    for name in ("fp8 in e4m3fn", "fp8 in e4m3fnuz"):
        row, fp8 = compiled.row(target, name), wanted_fp8(TARGETS[target], VARIANTS[name])
        assert fp8 is not None
        hardware = TARGETS[target].fp8.get(fp8)

        assert (hardware is None) == (row.get("declined") == ["FP8_DTYPE"])
        assert hardware is None or hardware == (row["facts"]["fp8"] > 0)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_a_workload_compiles_few_kernels(workload: Workload, compiled: Compiled) -> None:
    """Batches of 1 to 512, prefills and four layouts of a model come to as many kernels as have a reason."""
    kernels = {row["target"]: row["kernels"] for row in compiled.rows if row.get("workload") == workload.name}

    assert {name: workload.compiled(TARGETS[name].warp_size) for name in VENDORS} == kernels
