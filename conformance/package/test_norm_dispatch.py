"""RMSNorm and Gemma's: every reason fires in both directions, and the decision is what runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from conformance.package.calls.rms_norm import OPERATIONS, added, assert_right, call, explain, run
from conformance.package.calls.tensors import DEVICE, Arguments, values
from normkernels import InvalidCall, Path, PathUnavailable, Reason, plans
from normkernels.operations import rms_norm as norm
from normkernels.operations.operation import ENVIRONMENT, _cache, reread_environment

DOUBLE = torch.float64


class Subclass(torch.Tensor):
    """A tensor subclass, which may redefine operations."""


def apart(leading: int, name: str) -> Arguments:
    """Return a call of five sizes, the first ``leading`` with gaps in the memory of the tensor named."""
    shape = (2, 2, 2, 2, 8)
    wider = [size + (5 - leading <= at < 4) for at, size in enumerate(shape)]
    tensor = torch.zeros(wider, device=DEVICE)[tuple(slice(size) for size in shape)]
    return added(*shape) | {name: tensor.copy_(values(name, *shape))}


# A call that just qualifies, and one that just does not: the two differ in one condition.
CALLS: dict[str, tuple[Reason, Callable[[], Arguments], Callable[[], Arguments]]] = {
    "float64": (Reason.DTYPE, added, lambda: added(dtype=DOUBLE)),
    "leading sizes of x": (Reason.LEADING_STRIDES, lambda: apart(3, "x"), lambda: apart(4, "x")),
    "leading sizes of the residual": (
        Reason.LEADING_STRIDES,
        lambda: apart(3, "residual"),
        lambda: apart(4, "residual"),
    ),
    "leading sizes of out": (Reason.LEADING_STRIDES, lambda: apart(3, "out"), lambda: apart(4, "out")),
    "leading sizes of residual_out": (
        Reason.LEADING_STRIDES,
        lambda: apart(3, "residual_out"),
        lambda: apart(4, "residual_out"),
    ),
    "wide": (
        Reason.TOO_WIDE,
        lambda: call(1, plans.MAX_WIDTH),
        lambda: call(1, plans.MAX_WIDTH + 1),
    ),
    "gradient of the weight": (
        Reason.NEEDS_GRAD,
        call,
        lambda: call(weight=values("weight", 96).requires_grad_()),
    ),
    "gradient of the residual": (
        Reason.NEEDS_GRAD,
        added,
        lambda: added(residual=values("residual", 3, 96).requires_grad_()),
    ),
    "subclass": (Reason.SUBCLASS, call, lambda: call(x=values("x", 3, 96).as_subclass(Subclass))),
    "negated residual": (
        Reason.SUBCLASS,
        added,
        lambda: added(residual=torch._neg_view(values("residual", 3, 96))),
    ),
    "forced": (Reason.FORCED, lambda: call(path="rows"), lambda: call(path="native")),
}
# test_dispatch tests the reasons from the environment, for every operation.
MACHINES = {Reason.NO_TRITON, Reason.NO_GPU}
# Reasons against the plans for contiguous gated rows.
GATED = {
    Reason.NO_GATE,
    Reason.GROUPED,
    Reason.GATE_FIRST,
    Reason.WIDTH,
    Reason.X_NOT_CONTIGUOUS,
    Reason.GATE_NOT_CONTIGUOUS,
    Reason.OUT_NOT_CONTIGUOUS,
}
# Reasons against the path for heads.
HEADS = {Reason.HEAD_DIM_LIMIT}
# Reasons against rows with fp8 values.
QUANTISED = {Reason.FP8_DTYPE, Reason.QUANT_GROUP}


def test_every_reason_stands_in_the_table() -> None:
    """A reason that no call fires belongs to another operation."""
    assert set(Reason) - GATED - HEADS - QUANTISED - MACHINES == {reason for reason, _, _ in CALLS.values()}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", CALLS)
def test_a_reason_fires_alone(operation: str, name: str, launched: list[plans.Plan]) -> None:
    """The call that just does not qualify is rejected for this reason only, and runs natively."""
    reason, _, misses = CALLS[name]
    arguments = misses()
    decision = explain(operation, arguments)
    results = run(operation, arguments)

    assert [reason] == [rejection.reason for rejection in decision.rejected]
    assert (Path.NATIVE, []) == (decision.path, launched)
    plain = tuple(result.as_subclass(torch.Tensor) if type(result) is Subclass else result for result in results)
    assert_right(operation, arguments, plain)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", CALLS)
def test_a_reason_does_not_fire_on_the_call_beside(operation: str, name: str, launched: list[plans.Plan]) -> None:
    """The call that just qualifies has no reason against it, and runs the only plan."""
    _, qualifies, _ = CALLS[name]
    arguments = qualifies()
    decision = explain(operation, arguments)
    results = run(operation, arguments)

    assert ("rows/general", ()) == (decision.name, decision.rejected)
    assert [decision.plan] == launched
    assert_right(operation, arguments, results)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("rows", [1, 7, 8, 33])
@pytest.mark.parametrize("residual", [True, False])
def test_a_cached_call_agrees_with_decide(
    operation: str,
    rows: int,
    residual: bool,  # noqa: FBT001
    launched: list[plans.Plan],
) -> None:
    """A call whose key another batch has cached runs the plan from ``decide``."""
    make = added if residual else call
    run(operation, make(2, 96))
    arguments = make(rows, 96)
    results = run(operation, arguments)

    assert 1 == len(_cache)
    assert explain(operation, arguments).plan == launched[-1]
    assert_right(operation, arguments, results)


def test_a_key_of_one_operation_serves_no_other() -> None:
    """The same arguments have separate keys in each operation."""
    arguments = added()
    for operation in (*OPERATIONS, *OPERATIONS):
        assert_right(operation, arguments, run(operation, arguments))
    with pytest.raises(InvalidCall, match="weight is a NoneType"):
        run("gemma_rms_norm", call(weight=None))
    run("rms_norm", call(weight=None))
    with pytest.raises(InvalidCall, match="weight is a NoneType"):
        run("gemma_rms_norm", call(weight=None))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_environment_forces_one_operation(monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
    """``NORMKERNELS_PATH`` names one operation and changes no other."""
    monkeypatch.setenv(ENVIRONMENT, f"{operation}=native")
    reread_environment()

    forced = {each: explain(each, call()).path is Path.NATIVE for each in OPERATIONS}
    assert {each: each == operation for each in OPERATIONS} == forced


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_forced_path_that_cannot_run_raises_before_it_writes(operation: str) -> None:
    """The given outputs keep their values."""
    outputs = {name: values(name, 3, 96, dtype=DOUBLE) for name in ("out", "residual_out")}
    before = [tensor.clone() for tensor in outputs.values()]

    with pytest.raises(PathUnavailable, match="DTYPE"):
        run(operation, added(dtype=DOUBLE, path="rows") | outputs)
    assert all(map(torch.equal, before, outputs.values()))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_native_is_what_is_judged(monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
    """``path="native"`` runs the native form."""
    marks = torch.full((1,), 7.0), None
    monkeypatch.setattr(norm, "native", lambda *_args, **_flags: marks)

    assert run(operation, call(path="native"))[0] is marks[0]
    assert run(operation, call(path="rows"))[0] is not marks[0]
