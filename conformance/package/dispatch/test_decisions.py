"""A decision is a pure function of a description; a path may be forced, by a call or by the environment."""

from __future__ import annotations

import dataclasses
import sys
from types import ModuleType

import pytest
import torch

from conformance.package.calls import fp8, rms_norm_gated
from conformance.package.calls.fp8 import TYPES
from conformance.package.calls.operations import FAMILIES, assert_right, call, explain, run
from conformance.package.calls.tensors import DEVICE, Arguments, values
from conformance.selftest.every import every
from normkernels import Decision, InvalidCall, Path, PathUnavailable, Reason, Rejection, dispatch, plans
from normkernels.call import Call, Device, Gated, Quantised, conversions, interpreting
from normkernels.operations import mrope, quantisation, rms_norm
from normkernels.operations.operation import ENVIRONMENT, reread_environment
from normkernels.operations.operation import OPERATIONS as KNOWN

DOUBLE, FP8 = torch.float64, torch.float8_e4m3fn
QUALIFIES = Call(
    operation="rms_norm_gated",
    dtype="bfloat16",
    n=128,
    width=128,
    rows=24,
    leading=1,
    needs_grad=None,
    not_plain=None,
    gated=Gated(gate="after", x_contiguous=True, gate_contiguous=True, out_contiguous=True),
)
QUANTISED = dataclasses.replace(
    QUALIFIES,
    operation="rms_norm_fp8",
    n=5120,
    width=8192,
    gated=None,
    quantised=Quantised("float8_e4m3fn", None, 5120),
)
H200 = Device("cuda", has_triton=True, interpreting=False, table=plans.MEASURED, fp8=("float8_e4m3fn",))
CPU = dataclasses.replace(H200, kind="cpu")


def decide(described: Call, device: Device, forced: Path | None = None) -> Decision:
    """Return the decision on a description."""
    return dispatch.decide(KNOWN[described.operation], described, device, forced)


def test_a_decision_needs_no_tensor() -> None:
    """Data in, data out: the plan of a GPU is decided without one."""
    prefill = dataclasses.replace(QUALIFIES, rows=plans.row_thresholds("gated 128", plans.MEASURED)[-1])

    assert "rows/decode128" == decide(QUALIFIES, H200).name
    assert "rows/prefill128" == decide(prefill, H200).name
    assert "native" == decide(QUALIFIES, CPU).name


def test_a_decision_carries_every_reason() -> None:
    """Not the first reason alone: all that has to change is named at once."""
    worst = dataclasses.replace(QUALIFIES, dtype="float64", leading=4, needs_grad="x")

    wanted = [Reason.NO_GPU, Reason.DTYPE, Reason.NEEDS_GRAD, Reason.LEADING_STRIDES]
    assert wanted == [rejection.reason for rejection in decide(worst, CPU).rejected]


def test_a_forced_path_never_falls_back() -> None:
    """A path that was asked for by name runs or raises, with every reason."""
    worst = dataclasses.replace(QUALIFIES, dtype="float64")

    with pytest.raises(PathUnavailable, match="rms_norm_gated: path=rows cannot run Call") as raised:
        decide(worst, CPU, Path.ROWS)
    assert "\n  rows: NO_GPU: needs a GPU, got 'cpu'\n" in str(raised.value)
    assert [Reason.NO_GPU, Reason.DTYPE] == [
        each.reason for each in raised.value.reasons if isinstance(each, Rejection)
    ]


def test_a_gpu_without_the_type_runs_natively_and_says_why() -> None:
    """NVIDIA GPUs have no fnuz type, and before Ada neither fp8 type."""
    fnuz = dataclasses.replace(QUANTISED, quantised=Quantised("float8_e4m3fnuz", None, 5120))
    a100 = dataclasses.replace(H200, fp8=())

    assert ("rows/general", ()) == (decide(QUANTISED, H200).name, decide(QUANTISED, H200).rejected)
    for call_, device, name in ((fnuz, H200, "float8_e4m3fnuz"), (QUANTISED, a100, "float8_e4m3fn")):
        assert [
            "native",
            f"  not rows: FP8_DTYPE: needs an fp8 type that Triton converts to on the GPU, got {name}",
        ] == str(decide(call_, device)).splitlines()


def test_triton_says_what_a_gpu_converts_to() -> None:
    """The decisions cover A100, RTX 4090, H200 and MI300; test_compiles compiles for the last two."""
    from triton.backends.compiler import GPUTarget

    targets = [("cuda", 80, 32), ("cuda", 89, 32), ("cuda", 90, 32), ("hip", "gfx942", 64)]
    found = [conversions(GPUTarget(*target)) for target in targets]

    assert [(), ("float8_e4m3fn",), ("float8_e4m3fn",), ("float8_e4m3fn", "float8_e4m3fnuz")] == found


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU: without one every type is interpreted")
@pytest.mark.parametrize("operation", fp8.OPERATIONS)
@pytest.mark.parametrize("fp8_dtype", TYPES, ids=str)
def test_every_type_runs_on_this_gpu(operation: str, fp8_dtype: torch.dtype, launched: list[plans.Plan]) -> None:
    """Each type runs on the path decided, with right results."""
    arguments = fp8.full(operation, fp8_dtype=fp8_dtype)
    decision = explain(operation, arguments)
    results = run(operation, arguments)

    assert {Reason.FP8_DTYPE} >= {rejection.reason for rejection in decision.rejected}
    assert ([decision.plan] if decision.plan else []) == launched
    assert_right(operation, arguments, results)


def test_without_triton_nothing_is_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton is not asked for what it runs kernels on where it cannot be imported."""
    monkeypatch.setattr("normkernels.call.has_triton", lambda: False)
    monkeypatch.setitem(sys.modules, "triton", None)

    assert not interpreting.__wrapped__()


def test_a_rejection_names_both_groups() -> None:
    """The message names the needed group, then the given one."""
    operation = "rms_norm_gated_fp8"
    decision = explain(operation, fp8.call(operation, 3, 192, group_size=96, quant_group=64))

    assert [
        "rows: QUANT_GROUP: needs quant groups in norm groups, or norm groups in quant groups, got 64 over 96"
    ] == [str(rejection) for rejection in decision.rejected]


@pytest.mark.parametrize("leading", [1, 2, 3])
def test_results_count_among_the_leading_sizes(leading: int, launched: list[plans.Plan]) -> None:
    """Fresh results may need one size more than the inputs: the decision includes them.

    Rows of 192 columns begin 256 apart, as two spans of 128 would; in fresh results the second one is cut short.
    """
    shape = (*(2,) * leading, 192)
    x = torch.zeros((*(3,) * leading, 256), device=DEVICE)[tuple(slice(size) for size in shape)]
    x.copy_(values("x", *shape))
    arguments = fp8.call("rms_norm_gated_fp8", *shape, x=x, gate=x, group_size=64, quant_group=128)
    decision = explain("rms_norm_gated_fp8", arguments)
    results = run("rms_norm_gated_fp8", arguments)

    assert ("native" if leading == 3 else "rows/general") == decision.name
    assert ([decision.plan] if decision.plan else []) == launched
    assert_right("rms_norm_gated_fp8", arguments, results)


def test_an_empty_call_is_described() -> None:
    """A call without columns has a description like any other."""
    operation = KNOWN["rms_norm_fp8"]
    for shape in ((3, 0), (0, 96), (0,)):
        bound = operation.signature.bind(torch.empty(shape), torch.empty(shape[-1]), eps=0.0, fp8_dtype=FP8)
        bound.apply_defaults()
        assert 0 == operation.describe(bound.arguments, operation.resolve(bound.arguments)).rows


# --- forced paths ---------------------------------------------------------------------------------------------

# Tensors that a call writes into, by operation.
WRITTEN: dict[str, Arguments] = {
    "rms_norm_gated": {"out": values("out", 3, 128, dtype=DOUBLE)},
    **{
        operation: {
            "residual": values("residual", 3, 96, dtype=DOUBLE),
            **{name: values(name, 3, 96, dtype=DOUBLE) for name in ("out", "residual_out")},
        }
        for operation in ("rms_norm", "gemma_rms_norm")
    },
    **{operation: {"out": values("out", 3, 96).to(FP8)} for operation in fp8.OPERATIONS},
    **{operation: {"q": values("q", 5, 6, 64, dtype=DOUBLE)} for operation in ("mrope", "mrope_")},
}


@every("operation", KNOWN)
def test_a_forced_path_that_cannot_run_raises_before_it_writes(operation: str) -> None:
    """A path that was asked for by name runs or raises; the tensors given keep their values."""
    path = str(KNOWN[operation].path)
    before = {name: tensor.clone() for name, tensor in WRITTEN[operation].items()}
    arguments = call(operation, dtype=DOUBLE, path=path) | WRITTEN[operation]

    message = rf"^{KNOWN[operation].family}: path={path} cannot run Call(.|\n)*DTYPE"
    with pytest.raises(PathUnavailable, match=message):
        run(operation, arguments)
    for name, tensor in before.items():
        assert torch.equal(tensor.view(torch.uint8), arguments[name].view(torch.uint8))


MODULES: dict[str, ModuleType] = {
    **dict.fromkeys(("rms_norm", "gemma_rms_norm"), rms_norm),
    **dict.fromkeys(fp8.OPERATIONS, quantisation),
    "mrope": mrope,
}


@pytest.mark.parametrize("operation", MODULES)
def test_native_is_what_is_judged(monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
    """``path="native"`` runs the native form."""
    marks = torch.full((1,), 7.0), torch.ones(1)
    # a norm without a residual has no second result
    results = (marks[0], None) if MODULES[operation] is rms_norm else marks
    monkeypatch.setattr(MODULES[operation], "native", lambda *_args, **_flags: results)

    assert run(operation, call(operation, path="native"))[0] is marks[0]
    assert run(operation, call(operation, path=str(KNOWN[operation].path)))[0] is not marks[0]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("", "rows/decode128"),
        ("native", "native"),
        ("rms_norm_gated=native", "native"),
        ("gemma_rms_norm=native,rms_norm_gated=native", "native"),
        ("rms_norm_gated=native,rms_norm_gated=native", "native"),
    ],
)
def test_the_environment_forces_a_path(monkeypatch: pytest.MonkeyPatch, text: str, name: str) -> None:
    """``NORMKERNELS_PATH`` bisects a failure without touching code, and shows in the decision."""
    monkeypatch.setenv(ENVIRONMENT, text)
    reread_environment()
    decision = explain("rms_norm_gated", call("rms_norm_gated"))

    assert name == decision.name
    assert [f"NORMKERNELS_PATH={name}"] * bool(text) == [r.got for r in decision.rejected]


@every("forced", FAMILIES)
def test_the_environment_forces_one_operation(monkeypatch: pytest.MonkeyPatch, forced: str) -> None:
    """``NORMKERNELS_PATH`` names one operation, in place or not, and changes no other."""
    monkeypatch.setenv(ENVIRONMENT, f"{forced}=native")
    reread_environment()

    native = {each: explain(each, call(each)).path is Path.NATIVE for each in KNOWN}
    assert {each: operation.family == forced for each, operation in KNOWN.items()} == native


@every("operation", KNOWN)
def test_the_path_of_a_call_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
    """Code that asks for a path gets it."""
    monkeypatch.setenv(ENVIRONMENT, "native")
    reread_environment()
    path = KNOWN[operation].path
    decision = explain(operation, call(operation, path=str(path)))

    assert path is decision.path
    assert operation != "rms_norm_gated" or "rows/decode128" == decision.name


@every("text", ["rows", "native,", "nothing=native", "rms_norm_gated=rows", " native"])
def test_the_environment_is_held_to_what_it_may_say(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Anything else raises at the first call and says what is allowed."""
    monkeypatch.setenv(ENVIRONMENT, text)
    reread_environment()

    with pytest.raises(InvalidCall, match=r"must be native or a comma-separated list of .*rms_norm_gated=native"):
        run("rms_norm_gated", call("rms_norm_gated"))


def test_the_environment_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that changes after the first call changes nothing."""
    run("rms_norm_gated", call("rms_norm_gated"))
    monkeypatch.setenv(ENVIRONMENT, "native")

    assert "rows/decode128" == explain("rms_norm_gated", call("rms_norm_gated")).name


# --- decisions for their reader -------------------------------------------------------------------------------


def test_explain_launches_nothing(launched: list[plans.Plan]) -> None:
    """The decision is given to anybody who asks, without running."""
    explain("rms_norm_gated", call("rms_norm_gated"))

    assert [] == launched


@pytest.mark.parametrize("changes", [{"epsilon": 1e-6}, {"out_residual": None}, {"eps": None}])
def test_explain_takes_what_the_operation_takes(changes: Arguments) -> None:
    """An argument that the operation has not, or that has no meaning to it, is refused in its words."""
    errors = []
    for made in (explain, run):
        with pytest.raises((TypeError, InvalidCall)) as raised:
            made("rms_norm_gated", call("rms_norm_gated", **changes))
        errors.append(raised.type)

    assert errors[0] is errors[1]


def test_what_runs_natively_is_not_launched() -> None:
    """A decision for the native form says nothing of a launch, but who asked for it."""
    decision = explain("rms_norm_gated", call("rms_norm_gated", path="native"))

    assert (None, None) == (decision.plan, decision.launched)
    assert [
        "native",
        "  not rows: FORCED: runs unless another path is asked for, got path=native",
    ] == str(decision).splitlines()


def test_what_is_explained_is_an_operation() -> None:
    """Another name is refused with those that there are."""
    with pytest.raises(InvalidCall, match=r"^explain: operation='layer_norm', must be one of 'rms_norm', "):
        explain("layer_norm", {})


def test_a_decision_says_why_in_words() -> None:
    """Printed, a decision names the choice, the launch, each better one with what it needs and what was given."""
    decision = explain("rms_norm_gated", rms_norm_gated.call(3, 64, gate=None))

    assert str(decision).splitlines() == [
        "rows/general",
        f"  launched {decision.launched}",
        "  not rows/decode128: NO_GATE: needs a gate, got none",
        "  not rows/decode128: WIDTH: needs 128 columns, got 64",
    ]
