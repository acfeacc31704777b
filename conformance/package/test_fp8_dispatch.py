"""The norms with fp8 values: every reason fires in both directions, and the decision is what runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import pytest
import torch

from conformance.package.calls.fp8 import OPERATIONS, TYPES, assert_right, call, explain, full, run
from conformance.package.calls.tensors import DEVICE, Arguments, values
from normkernels import Decision, Path, PathUnavailable, Reason, dispatch, plans
from normkernels.call import Call, Device, Quantised, conversions
from normkernels.operations import quantisation
from normkernels.operations.operation import OPERATIONS as KNOWN
from normkernels.operations.operation import _cache

DOUBLE = torch.float64
NORM, GATED = OPERATIONS


class Subclass(torch.Tensor):
    """A tensor subclass, which may redefine operations."""


def apart(operation: str, leading: int, name: str) -> Arguments:
    """Return a call of five sizes, the first ``leading`` with gaps in the memory of the tensor named."""
    shape = (2, 2, 2, 2, 8)
    wider = [size + (5 - leading <= at < 4) for at, size in enumerate(shape)]
    dtype = torch.float8_e4m3fn if name == "out" else torch.float32
    tensor = torch.zeros(wider, dtype=dtype, device=DEVICE)[tuple(slice(size) for size in shape)]
    return full(operation, *shape) | {name: tensor.copy_(values(name, *shape))}


def ragged(leading: int) -> Arguments:
    """Return a call of ``leading`` sizes apart, the last of which one stride takes through to spans in x alone.

    Rows of 192 columns begin 256 apart, as two spans of 128 would; in fresh results the second one is cut short.
    """
    shape = (*(2,) * leading, 192)
    x = torch.zeros((*(3,) * leading, 256), device=DEVICE)[tuple(slice(size) for size in shape)]
    x.copy_(values("x", *shape))
    return call(GATED, *shape, x=x, gate=x, group_size=64, quant_group=128)


# A call that just qualifies, and one that just does not: the two differ in one condition.
Pair = tuple[Reason, tuple[str, ...], Callable[[str], Arguments], Callable[[str], Arguments]]
CALLS: dict[str, Pair] = {
    "float64": (Reason.DTYPE, OPERATIONS, full, lambda operation: full(operation, dtype=DOUBLE)),
    **{
        f"leading sizes of {name}": (
            Reason.LEADING_STRIDES,
            operations,
            partial(apart, leading=3, name=name),
            partial(apart, leading=4, name=name),
        )
        for name, operations in {
            "x": OPERATIONS,
            "out": OPERATIONS,
            "gate": (GATED,),
            "residual": (NORM,),
            "residual_out": (NORM,),
        }.items()
    },
    "wide": (
        Reason.TOO_WIDE,
        OPERATIONS,
        lambda operation: call(operation, 1, plans.MAX_WIDTH),
        lambda operation: call(operation, 1, plans.MAX_WIDTH + 1),
    ),
    # 128 groups in 256 columns each, and 129
    "wide with its padding": (
        Reason.TOO_WIDE,
        OPERATIONS,
        lambda operation: call(operation, 1, 128 * 129, quant_group=129),
        lambda operation: call(operation, 1, 128 * 129 + 1, quant_group=129),
    ),
    "quant groups in norm groups": (
        Reason.QUANT_GROUP,
        (GATED,),
        lambda operation: call(operation, 3, 192, group_size=96, quant_group=48),
        lambda operation: call(operation, 3, 192, group_size=96, quant_group=64),
    ),
    "norm groups in quant groups": (
        Reason.QUANT_GROUP,
        (GATED,),
        lambda operation: call(operation, 3, 192, group_size=32, quant_group=64),
        lambda operation: call(operation, 3, 192, group_size=32, quant_group=65),
    ),
    "subclass": (
        Reason.SUBCLASS,
        OPERATIONS,
        call,
        lambda operation: call(operation, x=values("x", 3, 96).as_subclass(Subclass)),
    ),
    "subclass of out": (
        Reason.SUBCLASS,
        OPERATIONS,
        lambda operation: call(operation, out=torch.empty(3, 96, dtype=torch.float8_e4m3fn, device=DEVICE)),
        lambda operation: call(
            operation, out=torch.empty(3, 96, dtype=torch.float8_e4m3fn, device=DEVICE).as_subclass(Subclass)
        ),
    ),
    "forced": (
        Reason.FORCED,
        OPERATIONS,
        lambda operation: call(operation, path="rows"),
        lambda operation: call(operation, path="native"),
    ),
}
EACH = [(operation, name) for name, (_, operations, _, _) in CALLS.items() for operation in operations]
# test_dispatch tests the reasons from the environment, for every operation.
ENVIRONMENT = {Reason.NO_TRITON, Reason.NO_GPU}
# Types that a GPU lacks are decided on its description below, and compiled in test_compiles.
GPU = {Reason.FP8_DTYPE}
# Reasons against the plans for contiguous gated rows; and a gradient, which is refused here.
ELSEWHERE = {
    Reason.HEAD_DIM_LIMIT,
    Reason.NO_GATE,
    Reason.GROUPED,
    Reason.GATE_FIRST,
    Reason.WIDTH,
    Reason.X_NOT_CONTIGUOUS,
    Reason.GATE_NOT_CONTIGUOUS,
    Reason.OUT_NOT_CONTIGUOUS,
    Reason.NEEDS_GRAD,
}


def test_every_reason_stands_in_the_table() -> None:
    """A reason that no call fires belongs to another operation."""
    assert set(Reason) - ELSEWHERE - ENVIRONMENT - GPU == {reason for reason, *_ in CALLS.values()}


@pytest.mark.parametrize(("operation", "name"), EACH)
def test_a_reason_fires_alone(operation: str, name: str, launched: list[plans.Plan]) -> None:
    """The call that just does not qualify is rejected for this reason only, and runs natively."""
    reason, _, _, misses = CALLS[name]
    arguments = misses(operation)
    decision = explain(operation, arguments)
    results = run(operation, arguments)

    assert [reason] == [rejection.reason for rejection in decision.rejected]
    assert (Path.NATIVE, []) == (decision.path, launched)
    assert_right(operation, arguments, results)


@pytest.mark.parametrize(("operation", "name"), EACH)
def test_a_reason_does_not_fire_on_the_call_beside(operation: str, name: str, launched: list[plans.Plan]) -> None:
    """The call that just qualifies has no reason against it, and runs the only plan."""
    _, _, qualifies, _ = CALLS[name]
    arguments = qualifies(operation)
    decision = explain(operation, arguments)
    results = run(operation, arguments)

    assert ("rows/general", ()) == (decision.name, decision.rejected)
    assert [decision.plan] == launched
    assert_right(operation, arguments, results)


@pytest.mark.parametrize("leading", [1, 2, 3])
def test_results_count_among_the_leading_sizes(leading: int, launched: list[plans.Plan]) -> None:
    """Fresh results may need one size more than the inputs: the decision includes them."""
    arguments = ragged(leading)
    decision = explain(GATED, arguments)
    results = run(GATED, arguments)

    assert ("native" if leading == 3 else "rows/general") == decision.name
    assert ([decision.plan] if decision.plan else []) == launched
    assert_right(GATED, arguments, results)


QUALIFIES = Call(
    operation="rms_norm_fp8",
    dtype="bfloat16",
    n=5120,
    width=8192,
    rows=24,
    leading=1,
    needs_grad=None,
    not_plain=None,
    quantised=Quantised("float8_e4m3fn", None, 5120),
)
H200 = Device("cuda", has_triton=True, interpreting=False, table=plans.MEASURED, fp8=("float8_e4m3fn",))


def decide(described: Call, device: Device) -> Decision:
    """Return the decision on a description."""
    return dispatch.decide(KNOWN[described.operation], described, device)


def test_a_gpu_without_the_type_runs_natively_and_says_why() -> None:
    """NVIDIA GPUs have no fnuz type, and before Ada neither fp8 type."""
    fnuz = dataclasses.replace(QUALIFIES, quantised=Quantised("float8_e4m3fnuz", None, 5120))
    a100 = dataclasses.replace(H200, fp8=())

    assert ("rows/general", ()) == (decide(QUALIFIES, H200).name, decide(QUALIFIES, H200).rejected)
    for call_, device, name in ((fnuz, H200, "float8_e4m3fnuz"), (QUALIFIES, a100, "float8_e4m3fn")):
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
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("fp8_dtype", TYPES, ids=str)
def test_every_type_runs_on_this_gpu(operation: str, fp8_dtype: torch.dtype, launched: list[plans.Plan]) -> None:
    """Each type runs on the path decided, with right results."""
    arguments = full(operation, fp8_dtype=fp8_dtype)
    decision = explain(operation, arguments)
    results = run(operation, arguments)

    assert {Reason.FP8_DTYPE} >= {rejection.reason for rejection in decision.rejected}
    assert ([decision.plan] if decision.plan else []) == launched
    assert_right(operation, arguments, results)


def test_a_rejection_names_both_groups() -> None:
    """The message names the needed group, then the given one."""
    decision = explain(GATED, call(GATED, 3, 192, group_size=96, quant_group=64))

    assert [
        "rows: QUANT_GROUP: needs quant groups in norm groups, or norm groups in quant groups, got 64 over 96"
    ] == [str(rejection) for rejection in decision.rejected]


@pytest.mark.parametrize("rows", [1, 7, 8, 33])
@pytest.mark.parametrize("group", [None, 32, 40, 128])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_cached_call_agrees_with_decide(
    operation: str, group: int | None, rows: int, launched: list[plans.Plan]
) -> None:
    """A call whose key another batch has cached runs the plan from ``decide``."""
    run(operation, call(operation, 2, 96, quant_group=group))
    arguments = call(operation, rows, 96, quant_group=group)
    results = run(operation, arguments)

    assert 1 == len(_cache)
    assert explain(operation, arguments).plan == launched[-1]
    assert_right(operation, arguments, results)


@pytest.mark.parametrize("width", [24, 48, 96])
@pytest.mark.parametrize("group", [None, 24, 48])
def test_a_cached_call_of_groups_agrees_with_decide(
    width: int, group: int | None, launched: list[plans.Plan]
) -> None:
    """Spans are counted alike by the cache and by ``decide``."""
    for rows in (2, 9):
        arguments = call(GATED, rows, 96, quant_group=group, group_size=width)
        run(GATED, arguments)
        assert explain(GATED, arguments).plan == launched[-1]


def test_a_key_of_one_operation_serves_no_other() -> None:
    """The same arguments have separate keys in each operation."""
    for operation in (*OPERATIONS, *OPERATIONS):
        arguments = full(operation) | ({"residual": None} if operation == NORM else {"gate": None})
        run(operation, arguments)
        assert_right(operation, {k: v for k, v in arguments.items() if k != "residual"}, run(operation, arguments))

    assert 2 == len(_cache)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_forced_path_that_cannot_run_raises_before_it_writes(operation: str) -> None:
    """The given output keeps its values."""
    out = values("out", 3, 96).to(torch.float8_e4m3fn)
    before = out.clone()

    with pytest.raises(PathUnavailable, match="DTYPE"):
        run(operation, full(operation, dtype=DOUBLE, path="rows", out=out))
    assert torch.equal(before.view(torch.uint8), out.view(torch.uint8))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_native_is_what_is_judged(monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
    """``path="native"`` runs the native form."""
    marks = torch.full((1,), 7.0), torch.ones(1)
    monkeypatch.setattr(quantisation, "native", lambda *_args: marks)

    assert run(operation, call(operation, path="native"))[0] is marks[0]
    assert run(operation, call(operation, path="rows"))[0] is not marks[0]


def test_an_empty_call_is_described() -> None:
    """A call without columns has a description like any other."""
    for shape in ((3, 0), (0, 96), (0,)):
        bound = KNOWN[NORM].signature.bind(
            torch.empty(shape), torch.empty(shape[-1]), eps=0.0, fp8_dtype=torch.float8_e4m3fn
        )
        bound.apply_defaults()
        flags = KNOWN[NORM].resolve(bound.arguments)
        assert 0 == KNOWN[NORM].describe(bound.arguments, flags).rows
