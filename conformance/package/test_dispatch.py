"""Every reason fires in both directions, one condition at a time, and what was decided is what runs."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path as File

import pytest
import torch

import normkernels
from conformance.package.calls.rms_norm_gated import assert_right, call, explain, run
from conformance.package.calls.tensors import DEVICE, Arguments, strided, values
from normkernels import Decision, InvalidCall, Path, PathUnavailable, Reason, Rejection, plans
from normkernels.call import Call, Device, Gated
from normkernels.dispatch import decide
from normkernels.operations.operation import ENVIRONMENT, OPERATIONS, _cache, reread_environment


class Subclass(torch.Tensor):
    """A tensor that may mean something else."""


def apart(leading: int) -> Arguments:
    """Return a call of five sizes, ``leading`` of which are apart in memory."""
    shape = (2, 2, 2, 2, 8)
    wider = [size + (5 - leading <= at < 4) for at, size in enumerate(shape)]
    x = torch.zeros(wider, device=DEVICE)[tuple(slice(size) for size in shape)]
    return call(*shape, x=x.copy_(values("x", *shape)))


# The call that just qualifies, and the one that just does not: they differ in one condition.
CALLS: dict[Reason, tuple[Callable[[], Arguments], Callable[[], Arguments]]] = {
    Reason.NO_GATE: (call, lambda: call(gate=None)),
    Reason.GROUPED: (lambda: call(group_size=128), lambda: call(group_size=64)),
    Reason.GATE_FIRST: (call, lambda: call(norm_before_gate=False)),
    Reason.WIDTH: (call, lambda: call(3, 127)),
    Reason.X_NOT_CONTIGUOUS: (call, lambda: call(x=strided(values("x", 3, 128)))),
    Reason.GATE_NOT_CONTIGUOUS: (call, lambda: call(gate=strided(values("gate", 3, 128)))),
    Reason.OUT_NOT_CONTIGUOUS: (
        lambda: call(out=values("out", 3, 128)),
        lambda: call(out=strided(values("out", 3, 128))),
    ),
    Reason.DTYPE: (call, lambda: call(dtype=torch.float64)),
    Reason.LEADING_STRIDES: (lambda: apart(3), lambda: apart(4)),
    Reason.TOO_WIDE: (lambda: call(1, plans.MAX_WIDTH), lambda: call(1, plans.MAX_WIDTH + 1)),
    Reason.NEEDS_GRAD: (call, lambda: call(weight=values("weight", 128).requires_grad_())),
    Reason.SUBCLASS: (call, lambda: call(x=values("x", 3, 128).as_subclass(Subclass))),
    Reason.FORCED: (lambda: call(path="rows"), lambda: call(path="native")),
}

# Environments that just qualify, and just do not: variables, and modules that cannot be imported.
RUNS = {"TRITON_INTERPRET": "1"}
ENVIRONMENTS: dict[Reason, tuple[dict[str, str], dict[str, str]]] = {
    Reason.NO_TRITON: (RUNS, RUNS | {"WITHOUT": "triton"}),
    Reason.NO_GPU: (RUNS, {}),
    Reason.FORCED: (RUNS, RUNS | {ENVIRONMENT: "native"}),
}

SCRIPT = """
import json, os, sys
if "WITHOUT" in os.environ:
    sys.modules[os.environ["WITHOUT"]] = None
import torch, normkernels
if "TRITON_INTERPRET" in os.environ and "WITHOUT" not in os.environ:
    # as shipped, Triton 3.6 takes no loop's bounds with NumPy 2.4 on
    from conformance import interpreter
    interpreter.install()
x = torch.linspace(-2, 2, 256).reshape(2, 128)
found = {}
for operation in sys.argv[1:]:
    given = (x, x, x[0]) if "gated" in operation else (x, x[0])
    flags = {"eps": 1e-6} | ({"fp8_dtype": torch.float8_e4m3fn} if "fp8" in operation else {})
    if operation == "mrope":
        given, flags = (x[:, None], x[:, None], torch.arange(2), x[:, :64], x[:, 64:]), {"sections": (24, 20, 20)}
    decision = normkernels.explain(operation, *given, **flags)
    y = getattr(normkernels, operation)(*given, **flags)
    native = getattr(normkernels, operation)(*given, **flags, path="native")
    if "fp8" in operation:
        # scales: a unit in the last place of y may be a step of fp8
        y, native = y[1], native[1]
    if operation == "mrope":
        y, native = y[0], native[0]
    agrees = bool(((y - native).abs() < 1e-6).all())
    found[operation] = [decision.name, [str(r) for r in decision.rejected], agrees]
print(json.dumps(found))
"""


# A form in place is decided as the other one.
FAMILIES = [name for name, operation in OPERATIONS.items() if name == operation.family]


@functools.cache
def in_environment(*variables: tuple[str, str]) -> dict[str, tuple[str, list[str], bool]]:
    """Return each operation's decision, rejections and agreement with native, from one process on the CPU."""
    cleared = {"TRITON_INTERPRET", ENVIRONMENT, "PYTHONPATH"}
    kept = {k: v for k, v in os.environ.items() if k not in cleared}
    root = str(File(normkernels.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *FAMILIES],
        env=kept | {"PYTHONPATH": root, "CUDA_VISIBLE_DEVICES": ""} | dict(variables),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return {operation: (name, rejected, agrees) for operation, (name, rejected, agrees) in found.items()}


def reasons(decision: Decision) -> list[Reason]:
    """Return the reasons of a decision, in order."""
    return [rejection.reason for rejection in decision.rejected]


# Against rows with fp8 values: test_fp8_dispatch.
QUANTISED = {Reason.FP8_DTYPE, Reason.QUANT_GROUP}


def test_every_reason_stands_in_a_table() -> None:
    """A reason that no call and no environment can fire does not exist; those of others are tested there."""
    assert set(Reason) - QUANTISED - {Reason.HEAD_DIM_LIMIT} == set(CALLS) | set(ENVIRONMENTS)


@pytest.mark.parametrize("reason", CALLS, ids=lambda reason: reason.name)
def test_a_reason_fires_alone(reason: Reason, launched: list[plans.Plan]) -> None:
    """The call that just does not qualify is rejected for this reason only, and runs where it says."""
    qualifies, misses = CALLS[reason]
    arguments = misses()
    decision = explain(arguments)
    result = run(arguments)

    assert {reason} == set(reasons(decision)) - set(reasons(explain(qualifies())))
    assert ([decision.plan] if decision.plan else []) == launched
    assert_right(arguments, result)


@pytest.mark.parametrize("reason", CALLS, ids=lambda reason: reason.name)
def test_a_reason_does_not_fire_on_the_call_beside(reason: Reason, launched: list[plans.Plan]) -> None:
    """The call that just qualifies is not rejected for this reason, and runs on Triton."""
    qualifies, _ = CALLS[reason]
    arguments = qualifies()
    decision = explain(arguments)
    result = run(arguments)

    assert reason not in reasons(decision)
    assert Path.ROWS is decision.path
    assert [decision.plan] == launched
    assert_right(arguments, result)


@pytest.mark.parametrize("reason", ENVIRONMENTS, ids=lambda reason: reason.name)
def test_an_environment_fires_a_reason(reason: Reason) -> None:
    """In the environment that just does not qualify, each operation runs natively and says why; beside it, not."""
    qualifies, misses = (in_environment(*variables.items()) for variables in ENVIRONMENTS[reason])
    named = {"rms_norm_gated": "rows/decode128", "mrope": "heads/decode"}

    assert {each: (named.get(each, "rows/general"), [], True) for each in FAMILIES} == qualifies
    assert dict.fromkeys(FAMILIES, ("native", True)) == {
        each: (name, agrees) for each, (name, _, agrees) in misses.items()
    }
    assert set(FAMILIES) == {
        each for each, (_, rejected, _) in misses.items() if any(f": {reason.name}: " in line for line in rejected)
    }


def test_a_machine_without_a_gpu_says_what_it_is() -> None:
    """The rejection says what is needed, then what was given."""
    assert ["rows: NO_GPU: needs a GPU, got 'cpu'"] == in_environment()["rms_norm_gated"][1]


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
GATED = OPERATIONS["rms_norm_gated"]
H200 = Device("cuda", has_triton=True, interpreting=False, table=plans.MEASURED)
CPU = dataclasses.replace(H200, kind="cpu")


def test_a_decision_needs_no_tensor() -> None:
    """Data in, data out: the plan of a GPU is decided without one."""
    prefill = dataclasses.replace(QUALIFIES, rows=plans.row_thresholds("gated 128", plans.MEASURED)[-1])

    assert "rows/decode128" == decide(GATED, QUALIFIES, H200).name
    assert "rows/prefill128" == decide(GATED, prefill, H200).name
    assert "native" == decide(GATED, QUALIFIES, CPU).name


def test_a_decision_carries_every_reason() -> None:
    """Not the first reason alone: all that has to change is named at once."""
    worst = dataclasses.replace(QUALIFIES, dtype="float64", leading=4, needs_grad="x")

    wanted = [Reason.NO_GPU, Reason.DTYPE, Reason.NEEDS_GRAD, Reason.LEADING_STRIDES]
    assert wanted == reasons(decide(GATED, worst, CPU))


def test_a_forced_path_never_falls_back() -> None:
    """A path that was asked for by name runs or raises, with every reason."""
    worst = dataclasses.replace(QUALIFIES, dtype="float64")

    with pytest.raises(PathUnavailable, match="rms_norm_gated: path=rows cannot run Call") as raised:
        decide(GATED, worst, CPU, Path.ROWS)
    assert "\n  rows: NO_GPU: needs a GPU, got 'cpu'\n" in str(raised.value)
    assert [Reason.NO_GPU, Reason.DTYPE] == [
        each.reason for each in raised.value.reasons if isinstance(each, Rejection)
    ]


def test_a_forced_path_that_cannot_run_raises_before_it_writes() -> None:
    """The output given is as it was."""
    out = values("out", 3, 128, dtype=torch.float64)
    before = out.clone()

    with pytest.raises(PathUnavailable, match="DTYPE"):
        run(call(dtype=torch.float64, path="rows", out=out))
    assert torch.equal(before, out)


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
    decision = explain(call())

    assert name == decision.name
    assert [f"NORMKERNELS_PATH={name}"] * bool(text) == [r.got for r in decision.rejected]


def test_the_path_of_a_call_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that asks for a path gets it."""
    monkeypatch.setenv(ENVIRONMENT, "native")
    reread_environment()

    assert "rows/decode128" == explain(call(path="rows")).name


@pytest.mark.parametrize("text", ["rows", "native,", "nothing=native", "rms_norm_gated=rows", " native"])
def test_the_environment_is_held_to_what_it_may_say(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Anything else raises at the first call and says what is allowed."""
    monkeypatch.setenv(ENVIRONMENT, text)
    reread_environment()

    with pytest.raises(InvalidCall, match=r"must be native or a comma-separated list of .*rms_norm_gated=native"):
        run(call())


def test_the_environment_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that changes after the first call changes nothing."""
    run(call())
    monkeypatch.setenv(ENVIRONMENT, "native")

    assert "rows/decode128" == explain(call()).name


@pytest.mark.parametrize("rows", [1, 7, 8, 31, 32, 33, 4096])
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("changes", [{}, {"gate": None}, {"group_size": 32}, {"norm_before_gate": False}])
def test_a_cached_call_agrees_with_decide(
    launched: list[plans.Plan], rows: int, width: int, changes: Arguments
) -> None:
    """A call whose key is cached from another batch runs the plan that ``decide`` gives it."""
    run(call(2, width, **changes))
    cached = len(_cache)
    arguments = call(rows, width, **changes)
    result = run(arguments)

    assert cached == len(_cache) == 1
    assert explain(arguments).plan == launched[-1]
    assert_right(arguments, result)


def test_explain_launches_nothing(launched: list[plans.Plan]) -> None:
    """The decision is given to anybody who asks, without running."""
    explain(call())

    assert [] == launched


@pytest.mark.parametrize("changes", [{"epsilon": 1e-6}, {"out_residual": None}, {"eps": None}])
def test_explain_takes_what_the_operation_takes(changes: Arguments) -> None:
    """An argument that the operation has not, or that has no meaning to it, is refused in its words."""
    errors = []
    for made in (explain, run):
        with pytest.raises((TypeError, InvalidCall)) as raised:
            made(call(**changes))
        errors.append(raised.type)

    assert errors[0] is errors[1]


def test_a_decision_says_why_in_words() -> None:
    """Printed, a decision names the choice, the launch, each better one with what it needs and what was given."""
    decision = explain(call(3, 64, gate=None))

    assert str(decision).splitlines() == [
        "rows/general",
        f"  launched {decision.launched}",
        "  not rows/decode128: NO_GATE: needs a gate, got none",
        "  not rows/decode128: WIDTH: needs 128 columns, got 64",
    ]
