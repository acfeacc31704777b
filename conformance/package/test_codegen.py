"""Facts are read from compiled code and judged: text and rows in, numbers and problems out."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

import conformance
import normkernels
from conformance import report
from conformance.package.codegen import __main__ as command
from conformance.package.codegen import collect, document
from conformance.package.codegen import compile as program
from conformance.package.codegen.checks import CHECKS, KNOWN, Row, problems
from conformance.package.codegen.facts import Facts, asked, of_amd, of_nvidia, scattered
from conformance.package.codegen.launches import unwritten
from conformance.package.codegen.targets import TARGETS
from conformance.package.codegen.variants import FUSED, PLANS, VARIANTS, VENDORS, compiled_for
from conformance.package.codegen.workloads import WORKLOADS
from conformance.runs import journal
from conformance.selftest.every import every

RUN = Path(__file__).resolve().parents[2] / "reports" / "codegen.json"
LOG = """ptxas info    : Function properties for kernel
    160 bytes stack frame, 184 bytes spill stores, 176 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers, 1024 bytes smem
"""
PTX = """
	ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 + 0 ];
	@%p1 ld.global.L1::evict_last.v2.b64 { %rd2, %rd3 }, [ %rd1 + 16 ];
	ld.global.v8.b32 { %r1, %r2, %r3, %r4, %r5, %r6, %r7, %r8 }, [ %rd1 + 0 ];
	ld.global.b16 { %rs1 }, [ %rd1 + 32 ];
	ld.shared.v4.b32 {%r1, %r2, %r3, %r4}, [%r9];
	st.global.v2.b32 [ %rd1 + 0 ], { %r1, %r2 };
	st.global.b8 [ %rd1 + 0 ], { %rs1 };
	bar.sync 	0;
	fma.rn.f32 	%r1, %r2, %r3, %r4;
	cvt.rn.satfinite.e4m3x2.f32 	%rs1, %r1, %r2;
	div.rn.f32 	%r1, %r2, %r3;
	div.full.f32 	%r1, %r2, 0f46000000;
	add.rn.f16 	%rs1, %rs2, %rs3;
	mul.rn.f32 	%r1, %r2, %r3;
"""
AMDGCN = """
	buffer_load_dwordx4 v[2:5], v6, s[8:11], 0 offen
	global_load_d16_b16 v1, v[2:3], off
	global_load_ushort v1, v[2:3], off
	global_load_short_d16_hi v1, v[2:3], off
	buffer_store_b64 v[2:3], v6, s[8:11], null offen
	global_store_byte v[2:3], v1, off
	global_store_dword v[2:3], v1, off
	scratch_load_dwordx4 v[2:5], off, s32
	s_load_dwordx4 s[4:7], s[0:1], 0x0
	s_barrier_signal -1
	s_barrier_wait -1
	s_barrier
	v_rcp_f32_e32 v3, v2
	v_fma_f32 v4, -v2, v3, 1.0
	v_dual_fmac_f32 v3, v4, v3 :: v_dual_fmac_f32 v5, v6, v7
	v_fma_f32 v6, -v2, v5, v4
	v_fma_f32 v2, -v2, v5, v4
	v_div_fixup_f32 v1, v2, s3, v1
	v_rcp_f32_e32 v3, v2
	v_fmamk_f32 v1, v2, 0x4f800000, v1
	v_trunc_f32_e32 v2, v2
	v_fmamk_f32 v1, v2, 0xcf800000, v1
	s_fmac_f32 s6, s12, 0x4f800000
	v_s_rcp_f32 s6, s6
	s_trunc_f32 s12, s12
	s_fmac_f32 s6, s12, 0xcf800000
	v_rcp_iflag_f32_e32 v1, v1
	v_fma_mixlo_f16 v2, v0, v10, neg(0) op_sel_hi:[0,1,0]
	v_fma_mixlo_f16 v2, v0, v10, 0
	v_cvt_pk_fp8_f32 v1, v2, v3
	v_cvt_scalef32_pk_fp8_f32 v1, v2, v3, 1.0
	v_pk_add_f16 v1, v2, v3
    .sgpr_spill_count: 163
    .vgpr_count:     59
    .vgpr_spill_count: 2
"""


def test_ptx_is_read() -> None:
    """PTX gives accesses by bytes (shared memory apart) and instructions by kind; ptxas gives the rest."""
    assert {
        "registers": 64,
        "spilled": 184,
        "scalars_spilled": 0,
        "loads": {2: 1, 16: 2, 32: 1},
        "stores": {1: 1, 8: 1},
        "barriers": 1,
        "fused": 1,
        "fp8": 1,
        "divisions": 1,
        "approximate": 1,
        "half_additions": 1,
        "bytes": len(PTX),
    } == of_nvidia(PTX, LOG)


def test_amdgcn_is_read() -> None:
    """Instructions of old and new AMD GPUs are counted; those inside divisions and conversions are not."""
    assert {
        "registers": 59,
        "spilled": 8,
        "scalars_spilled": 163,
        "loads": {2: 3, 16: 1},
        "stores": {1: 1, 4: 1, 8: 1},
        "barriers": 2,
        "fused": 0,
        "fp8": 2,
        "divisions": 1,
        "approximate": 0,
        "half_additions": 1,
        "bytes": len(AMDGCN),
    } == of_amd(AMDGCN)


@pytest.mark.parametrize(
    ("contracted", "sums"),
    [
        ("v_fma_f32 v1, v2, v3, v4", 1),
        ("v_pk_fma_f32 v[0:1], v[2:3], v[4:5], v[6:7]", 2),
        ("v_fma_mixlo_f16 v1, v2, v3, v4", 1),
        ("s_fmac_f32 s5, s4, 0x43e00000", 1),
    ],
)
def test_a_sum_that_is_fused_on_amd_is_seen(contracted: str, sums: int) -> None:
    """One fused instruction more than the divisions are made of is reported."""
    assert sums == of_amd(f"{AMDGCN}\n\t{contracted}\n")["fused"]


def test_a_product_by_a_number_is_fused_too() -> None:
    """A fused product is seen also if its operands are not registers."""
    assert 2 == of_nvidia(f"{PTX}\n\tfma.rn.f32 \t%r1, %r2, 0f3B124925, %r4;\n", LOG)["fused"]


def test_two_sums_that_are_fused_at_once_are_seen() -> None:
    """The packed instruction of newer GPUs counts as two fused sums."""
    assert 3 == of_nvidia(f"{PTX}\n\tfma.rn.f32x2 \t%rd1, %rd2, %rd3, %rd4;\n", LOG)["fused"]


@pytest.mark.parametrize(
    ("addition", "fused"),
    [
        ("mov.b32 \t%r88, 1065369472;\n\tfma.rn.bf16x2 \t%r49, %r1, %r88, %r17;", 1),
        ("mov.b16 \t%rs42, 0x3F80;\n\tfma.rn.bf16 \t%rs26, %rs1, %rs42, %rs10;", 1),
        ("mov.b32 \t%r88, 1065369473;\n\tfma.rn.bf16x2 \t%r49, %r1, %r88, %r17;", 3),
        ("mov.b16 \t%rs42, 0x4000;\n\tfma.rn.bf16 \t%rs26, %rs1, %rs42, %rs10;", 2),
    ],
)
def test_an_addition_of_bf16_is_no_fused_product(addition: str, fused: int) -> None:
    """Before sm_90 a bf16 addition is a fused product by one; a product by another number counts as fused."""
    assert fused == of_nvidia(f"{PTX}\n\t{addition}\n", LOG)["fused"]


def test_what_a_kernel_asks_to_fuse_is_read() -> None:
    """Calls of fma count once per lane; declarations and fused fp64 operations do not count."""
    assert 5 == asked("""
  %9 = call float @llvm.fma.f32(float %8, float %7, float %6)
  %10 = tail call <4 x float> @llvm.fma.v4f32(<4 x float> %8, <4 x float> %7, <4 x float> %6)
  %11 = call double @llvm.fma.f64(double %8, double %7, double %6)
  %12 = fmul float %9, %8
declare float @llvm.fma.f32(float, float, float)
""")


@pytest.mark.parametrize(
    ("layout", "axis", "want"),
    [
        # the tile of two blocks a scale that was quantised wrongly on an H200
        ("#ttg.linear<{register = [[0, 2]], lane = [[0, 16], [1, 0], [2, 0], [0, 1]], warp = []}>", 1, 1),
        ("#ttg.linear<{register = [[0, 2]], lane = [[0, 16], [1, 0], [2, 0], [0, 1]], warp = []}>", 0, 0),
        ("#ttg.linear<{register = [], lane = [[0, 1], [0, 0], [0, 2], [1, 0]], warp = []}>", 1, 1),
        ("#ttg.linear<{register = [], lane = [[1, 0]], warp = [[1, 0], [0, 1], [2, 0]], block = []}>", 0, 1),
        ("#ttg.linear<{register = [], lane = [[1, 0]], warp = [[1, 0], [2, 0], [0, 1]], block = []}>", 0, 0),
        ("#ttg.blocked<{threadsPerWarp = [16, 2], warpsPerCTA = [1, 4], order = [0, 1]}>", 0, 0),
        ("#ttg.blocked<{threadsPerWarp = [16, 2], warpsPerCTA = [1, 4], order = [0, 1]}>", 1, 0),
    ],
)
def test_a_reduction_over_lanes_apart_is_seen(layout: str, axis: int, want: int) -> None:
    """Triton's own layouts have no such reduction; in a derived layout the axis may be on any lanes."""
    assert want == scattered(reduction(layout, "#of", axis))


def test_a_reduction_of_a_part_of_a_layout_is_seen() -> None:
    """A layout without its middle axis has its last axis second, on the same lanes."""
    lanes = "[[0, 0, 1], [0, 1, 0], [0, 0, 2], [1, 0, 0]]"
    layout = f"#ttg.linear<{{register = [], lane = {lanes}, warp = [], block = []}}>"
    part = "#ttg.slice<{dim = 1, parent = #of}>"

    assert (0, 1) == tuple(scattered(reduction(layout, part, axis)) for axis in (0, 1))
    assert 0 == scattered(reduction(layout, f"#ttg.slice<{{dim = 1, parent = {part}}}>", 0))


@pytest.mark.parametrize("layout", ["#ttg.nvidia_mma<{order = [1, 0]}>", "#ttg.linear<{register = []}>"])
def test_a_layout_that_is_not_understood_is_an_error(layout: str) -> None:
    """An unknown layout raises, because its lanes may hold anything."""
    with pytest.raises(ValueError, match="a layout without"):
        scattered(reduction(layout, "#of", 0))


def test_a_reduction_that_is_not_understood_is_an_error() -> None:
    """A reduction in an unknown notation raises; the reader does not count it as none."""
    text = reduction("#ttg.linear<{lane = [[0, 1], [1, 0]], warp = []}>", "#of", 0)
    assert 0 == scattered(text)

    with pytest.raises(ValueError, match="of 1 reductions not all are understood"):
        scattered(text.replace("<8x2xf32, #of>", "<8x2xf32>"))


def reduction(layout: str, operand: str, axis: int) -> str:
    """Return Triton's GPU form of one reduction, of an operand whose layout ``#of`` is or is a part of."""
    return f"""#of = {layout}
module attributes {{"ttg.num-warps" = 1 : i32}} {{
    %amax = "tt.reduce"(%0) <{{axis = {axis} : i32}}> ({{
    ^bb0(%1: f32 loc(callsite(#loc1 at #loc2)), %2: f32 loc(#loc1)):
      %3 = arith.addf %1, %2 : f32 loc(#loc3)
      tt.reduce.return %3 : f32 loc(#loc2)
    }}) : (tensor<8x2xf32, {operand}>) -> tensor<8xf32, #other> loc(#loc2)
}}
"""


def test_text_that_says_nothing_of_registers_is_an_error() -> None:
    """Text without ptxas's register count raises: unknown is not zero."""
    with pytest.raises(ValueError, match="stands 0 times, must once"):
        of_nvidia(PTX, "")


# --- checks -------------------------------------------------------------------------------------------------


@pytest.fixture(name="run")
def _run() -> dict[str, Any]:
    """Return a run over all targets."""
    read: dict[str, Any] = json.loads(RUN.read_text(encoding="utf-8"))
    return read


def _said(rows: list[Row], target: str = "sm_90", triton: str = "3.9.0") -> list[str]:
    return [problem.check for problem in problems(rows, [target], triton)]


def _changed(rows: list[Row], variant: str, facts: Mapping[str, object], *, fusion: bool = False) -> list[Row]:
    """Return the rows, with other facts of a variant, as it is launched or with FP fusion."""
    place = {"target": "sm_90", "variant": variant, "fusion": fusion}
    return [{**row, "facts": {**row["facts"], **facts}} if place.items() <= row.items() else row for row in rows]


@pytest.mark.parametrize("target", TARGETS)
def test_the_run_that_is_committed_holds(run: dict[str, Any], target: str) -> None:
    """The committed rows are judged again without a problem."""
    assert [] == [str(problem) for problem in problems(run["rows"], [target], run["header"]["triton"])]
    assert [] == run["problems"]


@pytest.mark.parametrize(
    ("check", "variant", "facts"),
    [
        ("spills", "norm", {"spilled": 4}),
        ("scalars", "norm", {"scalars_spilled": 1}),
        ("registers", "norm", {"registers": 256}),
        ("shared", "norm", {"shared": 227 * 1024 + 1}),
        ("threads", "norm", {"threads": 2048}),
        ("wide", "norm", {"loads": {"8": 12}}),
        ("wide", "prefill128", {"stores": {"8": 2, "16": 3}}),
        ("wide", "mrope", {"stores": {"8": 40}}),
        ("wide", "fp8", {"stores": {"2": 8, "4": 1, "16": 2}}),
        ("wide", "norm", {"loads": {}, "stores": {}}),
        ("narrow", "norm of two sizes", {"loads": {"16": 6}}),
        ("narrow", "norm of two sizes", {"loads": {"4": 24}}),
        ("narrow", "mrope of gaps", {"stores": {"16": 20}}),
        ("fused", "norm", {"fused": 1}),
        ("fused", "norm", {"fused": -1}),
        ("fp8", "fp8", {"fp8": 0}),
        ("fp8", "norm", {"fp8": 1}),
        ("lanes", "fp8", {"scattered": 1}),
    ],
)
def test_each_check_can_fail(check: str, variant: str, facts: dict[str, object], run: dict[str, Any]) -> None:
    """One wrong fact is one problem, of the check concerned."""
    assert [check] == _said(_changed(run["rows"], variant, facts))
    assert check in CHECKS


def test_fusions_that_nothing_counts_are_a_problem(run: dict[str, Any]) -> None:
    """Without them a count of none would say nothing of kernels as they are launched; no other fact counts."""
    assert ["noticed"] == _said(_changed(run["rows"], "mrope", {"fused": 0}, fusion=True))
    assert [] == _said(_changed(run["rows"], "mrope", {"spilled": 4}, fusion=True))


def test_what_is_known_to_fail_must_fail(run: dict[str, Any]) -> None:
    """A row that no longer spills makes its exception out of date, from the Triton version of the exception on."""
    mended = _changed(run["rows"], "norm widest", {"spilled": 0})

    assert ["spills"] == _said(mended)
    assert [] == _said(mended, triton="3.5.0")
    assert "take it out of KNOWN" in problems(mended, ["sm_90"], "3.9.0")[0].said


def test_what_was_known_to_fail_may_no_more(run: dict[str, Any]) -> None:
    """Under the Triton that fixed it a row must pass; under an older one it may pass or fail."""
    again = _changed(run["rows"], "mrope of columns apart", {"spilled": 64})

    assert ["spills"] == _said(again)
    assert [] == _said(again, triton="3.6.0")
    assert [] == _said(run["rows"], triton="3.6.0")


def test_what_is_known_names_what_is_compiled() -> None:
    """Each exception names a check, existing targets, and variants that one of these targets compiles."""
    for known in KNOWN:
        assert known.check in CHECKS
        assert set(known.targets) <= set(TARGETS)
        compiled = {name: {variant for variant, _ in compiled_for(TARGETS[name])} for name in known.targets}
        assert set(known.variants) <= set().union(*compiled.values())
        assert [] == [name for name, variants in compiled.items() if not variants & set(known.variants)]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"error": "CompilationError: no"}, "compiles"),
        ({"declined": ["DTYPE"], "said": "rows: DTYPE"}, "declined"),
        ({"batches": 2}, "kernels"),
        ({"places": 3}, "kernels"),
    ],
)
def test_each_row_can_fail(wrong: dict[str, object], said: str, run: dict[str, Any]) -> None:
    """A variant fails that does not compile, is declined, or needs a kernel for each batch or place."""
    place = {"target": "sm_90", "variant": "fp8", "fusion": False}
    rows = [{**row, **wrong} if place.items() <= row.items() else row for row in run["rows"]]

    assert [said] == _said(rows)


def test_what_is_missing_is_a_problem(run: dict[str, Any]) -> None:
    """Variants that a process left out by ending early are named, and so is its exit status."""
    rows = [row for row in run["rows"] if (row["target"], row.get("variant")) != ("sm_90", "norm")]

    assert ["compiles"] == _said(rows)
    assert ["process"] == _said([*run["rows"], {"target": "sm_90", "failed": "exit status 1"}])


def test_a_workload_of_more_kernels_is_a_problem(run: dict[str, Any]) -> None:
    """One more kernel for a row count is reported."""
    rows = [
        {**row, "kernels": {**row["kernels"], "rms_norm_kernel": 513}}
        if (row["target"], row.get("workload")) == ("gfx942", WORKLOADS[0].name)
        else row
        for row in run["rows"]
    ]

    assert ["workload"] == _said(rows, "gfx942")


def test_too_many_kernels_are_a_problem(run: dict[str, Any]) -> None:
    """Too many variants are a problem, so that adding some means removing others."""
    assert ["number"] == _said([*run["rows"], *run["rows"]])


def test_a_target_without_a_backend_is_not_judged(run: dict[str, Any]) -> None:
    """A target without a backend neither passes nor fails, and the report says why."""
    rows = [{"target": "gfx942", "not_judged": "Triton has no backend for hip"}]
    made = document.document(rows, ["gfx942"], run["header"], 1.0)

    assert [] == made["problems"]
    assert report.Exit.NOTHING_JUDGED == made["footer"]["exit_code"]
    assert "nothing was compiled" in document.closing(made).text


def test_the_variants_of_a_target_are_counted() -> None:
    """Every target compiles the plans, some also with FP fusion; targets of two vendors also their own code."""
    for name, target in TARGETS.items():
        every = compiled_for(target)
        variants = {variant for variant, fusion in every if not fusion}

        assert FUSED == tuple(variant for variant, fusion in every if fusion)
        assert set(PLANS) <= variants

        assert (name in VENDORS) == (variants == set(VARIANTS))


# --- around them --------------------------------------------------------------------------------------------


@every("name", VARIANTS)
def test_arguments_are_laid_out_as_the_case_says(name: str) -> None:
    """Shapes, dtypes and strides are those of the case; tensors that share a buffer in the case share one here."""
    case = VARIANTS[name].case
    arguments = unwritten(case.with_flag("fp8_dtype", "float8_e4m3fn") if "fp8" in case.operation else case)

    for tensor, spec in case.tensors:
        assert spec.shape == arguments[tensor].shape
        assert f"torch.{spec.dtype}" == str(arguments[tensor].dtype)
        assert spec.layout.place(spec.shape, 2).strides == arguments[tensor].stride()
    if case.operation == "mrope" and VARIANTS[name].in_place:
        q, k = arguments["q"], arguments["k"]
        assert q.untyped_storage().data_ptr() == k.untyped_storage().data_ptr()


def test_a_target_that_fails_is_a_row(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A process that fails or hangs keeps what it printed, its last lines are shown, and others go on."""

    def shown(name: str) -> None:
        print(f'{{"target": "{name}"}}\nnot JSON', flush=True)  # noqa: T201 - as a target's process does
        if name == "sm_80":
            raise RuntimeError("out of memory")
        time.sleep(60 if name == "sm_90" else 0)

    monkeypatch.setattr(program, "show_rows", shown)
    monkeypatch.setattr(program, "LIMIT", 1)
    program.main(["sm_80", "sm_90", "gfx942"], 2)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    failed = {row["target"]: row["failed"] for row in rows if "failed" in row}

    assert ["gfx942", "sm_80", "sm_90"] == sorted(row["target"] for row in rows if "failed" not in row)
    assert {"sm_80", "sm_90"} == set(failed)
    assert failed["sm_80"].startswith("exit status 1: ")
    assert failed["sm_80"].endswith("RuntimeError: out of memory\n")
    assert "took more than 1 s: " == failed["sm_90"]


def test_a_program_that_fails_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program's earlier output is kept, and its last lines are shown."""
    printed = '{"target": "sm_90", "variant": "norm"}\nnot JSON\n'
    done = subprocess.CompletedProcess([], 3, printed, "out of memory")
    monkeypatch.setattr(subprocess, "run", lambda *_args, **_named: done)

    assert [
        {"target": "sm_90", "variant": "norm"},
        {"target": "sm_90", "failed": "exit status 3: out of memory"},
    ] == collect.collect(["sm_90"], 1)


def test_a_child_sees_no_switch_of_triton(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the interpreter nor an override reaches the child, and its cache is its own."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("TRITON_OVERRIDE_ARCH", "sm70")
    made = collect._environment(tmp_path)

    assert {"TRITON_CACHE_DIR", "TRITON_ALWAYS_COMPILE", "TRITON_DUMP_PTXAS_LOG"} == {
        name for name in made if name.startswith("TRITON_")
    }


def test_a_child_compiles_the_package_of_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another copy of it comes before the one beside the suite, and both before the current folder."""
    seen: list[tuple[str, Path]] = []

    def run(command: object, *, env: dict[str, str], cwd: str, **rest: object) -> object:
        seen.append((env["PYTHONPATH"], Path(cwd)))
        assert not list(Path(cwd).iterdir())
        return subprocess.CompletedProcess([], 0, "", "")

    monkeypatch.setattr(normkernels, "__file__", str(tmp_path / "copy" / "normkernels" / "__init__.py"))
    monkeypatch.setattr(subprocess, "run", run)
    collect.collect(["sm_90"], 1)

    [(paths, folder)] = seen
    first, second = paths.split(os.pathsep)[:2]
    assert (tmp_path / "copy", Path(conformance.__file__).parents[1]) == (Path(first), Path(second))
    assert Path.cwd() != folder


def test_facts_survive_json(run: dict[str, Any]) -> None:
    """Facts that are written to JSON are read back unchanged."""
    for row in run["rows"]:
        if "facts" in row:
            facts = Facts.from_data(row["facts"])
            assert facts == Facts.from_data(json.loads(json.dumps(facts.to_data())))


def test_the_document_is_read_as_it_was_written(run: dict[str, Any]) -> None:
    """The document has one row per line, and is JSON."""
    text = report.in_lines(run)

    assert run == json.loads(text)
    assert len(run["rows"]) < len(text.splitlines())


@pytest.mark.parametrize("broken", [False, True])
def test_the_page_says_what_the_terminal_says(
    broken: bool,  # noqa: FBT001 - a parameter of the test
    run: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A report's page shows the targets, kernels, exceptions with reasons, and problems of the terminal."""
    rows = _changed(run["rows"], "norm", {"spilled": 4}) if broken else run["rows"]
    made = document.document(rows, list(run["targets"]), run["header"], 9.0)
    (tmp_path / "report.json").write_text(
        (RUN.parent / "world" / "normkernels_cuda.json").read_text(encoding="utf-8"), encoding="utf-8"
    )
    without = report.write_page(tmp_path / "report.json").read_text(encoding="utf-8")
    report.write_section(tmp_path, "codegen", document.section(made))
    page = report.write_page(tmp_path / "report.json").read_text(encoding="utf-8")
    report.show_section(document.section(made), "build/codegen.json")
    shown = "".join(capsys.readouterr().out.split())

    assert "Compiled code" not in without
    phrases = [
        *TARGETS,
        *(known.reason for known in KNOWN),
        *(f"{w.name}: {k}" for w in WORKLOADS for k in w.kernels),
    ]
    assert [] == [said for said in phrases if said not in page]
    assert [] == [known.reason for known in KNOWN if "".join(known.reason.split()) not in shown]
    assert broken == ("a thread keeps 4 bytes of registers in memory" in page)
    assert broken == ("athreadkeeps4bytesofregistersinmemory" in shown)
    assert broken == (made["footer"]["exit_code"] == report.Exit.FAILED)


def test_an_unknown_target_is_bad_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the known targets."""
    result = CliRunner().invoke(command.main, ["--target", "sm_70"])

    assert 2 == result.exit_code
    assert "'sm_80', 'sm_90'" in result.output
    monkeypatch.setattr(command, "find_spec", lambda _name: None)
    result = CliRunner().invoke(command.main, [])
    assert (2, True) == (result.exit_code, "needs triton" in result.output)


def test_the_command_writes_shows_and_ends(
    run: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The command writes codegen.json, shows it here and on a page, and exits with the status of its problems."""
    rows = [row for row in run["rows"] if row["target"] == "sm_90"]
    page = tmp_path / "new" / "report.html"
    page.parent.mkdir()
    monkeypatch.setattr(command, "collect", lambda targets, _workers: rows if targets == ("sm_90",) else [])
    arguments = ["--target", "sm_90", "--report", str(page.parent)]
    result = CliRunner().invoke(command.main, arguments)

    assert (report.Exit.HOLDS, False) == (result.exit_code, page.exists())
    assert ["sm_90"] == list(json.loads((page.parent / "codegen.json").read_text(encoding="utf-8"))["targets"])
    assert "every kernel compiles to what it must be" in result.output

    (page.parent / "report.json").write_text(
        (RUN.parent / "world" / "normkernels_cuda.json").read_text(encoding="utf-8"), encoding="utf-8"
    )
    rows[:] = _changed(rows, "norm", {"spilled": 4})
    result = CliRunner().invoke(command.main, arguments)

    assert report.Exit.FAILED == result.exit_code
    assert "a thread keeps 4 bytes of registers in memory" in page.read_text(encoding="utf-8")

    # a later run begins with an empty folder, and ends with a page
    made = (page.parent / "report.json").read_text(encoding="utf-8")
    journal.prepare(page.parent)
    assert not page.exists()
    (page.parent / "report.json").write_text(made, encoding="utf-8")
    report.write_page(page.parent / "report.json")
    assert "a thread keeps 4 bytes of registers in memory" in page.read_text(encoding="utf-8")


def test_only_the_targets_that_tests_look_at_are_compiled() -> None:
    """A test of one target alone compiles that, and one that names none compiles all."""

    def item(fixture: str, **params: str) -> SimpleNamespace:
        return SimpleNamespace(fixturenames=[fixture], callspec=SimpleNamespace(params=params))

    other, without = item("tmp_path", target="gfx950"), SimpleNamespace()
    two = [item("compiled", target=target) for target in ("gfx942", "sm_80")]
    whole = SimpleNamespace(fixturenames=["compiled"])

    assert ["sm_80", "gfx942"] == collect.looked_at([*two, other, without], "compiled")
    assert list(TARGETS) == collect.looked_at([*two, whole], "compiled")
    assert list(TARGETS) == collect.looked_at([*two, item("compiled", name="decode")], "compiled")
