"""A cached decision serves its own call alone, and a launch that fails is seen, in every operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch

from conformance.package.calls import fp8, mrope, rms_norm, rms_norm_gated
from conformance.package.calls.mrope import positions
from conformance.package.calls.operations import explain, run
from conformance.package.calls.tensors import DEVICE, Arguments, strided, values
from normkernels import Decision, InvalidCall, plans

DOUBLE, LOW = torch.float64, torch.bfloat16

# For every family: calls that differ from a common call in one argument and have a meaning, and calls without a
# meaning, each with the requirement that its message names.
GATED_OTHER: dict[str, Arguments] = {
    "eps": {"eps": 1.0},
    "activation": {"activation": "sigmoid"},
    "rounding": {"rounding": "hf"},
    "groups": {"group_size": 64},
    "gate first": {"norm_before_gate": False},
    "no gate": {"gate": None},
    "path": {"path": "native"},
    "weight with a gradient": {"weight": values("weight", 128).requires_grad_()},
}
GATED_REFUSED: dict[str, tuple[Arguments, str]] = {
    "no weights": (
        {"weight": values("weight", 0)},
        r"weight has shape \(0,\), must be the last dimension of x, \(128,\)",
    ),
    "a list": ({"weight": [1.0] * 128}, "weight is a list, must be a tensor"),
    "an integer flag": ({"norm_before_gate": 1}, "norm_before_gate=1, must be one of True, False"),
    "a boolean eps": ({"eps": True}, "eps=True, must be a number"),
    "a fractional group": ({"group_size": 128.0}, "group_size=128.0, must be None or a divisor"),
}

NORM_OTHER: dict[str, Arguments] = {
    "eps": {"eps": 1.0},
    "offset": {"weight_offset": 1.0},
    "rounding": {"rounding": "hf"},
    "no weight": {"weight": None},
    "no residual": {"residual": None},
    "residual of another dtype": {"residual": values("residual", 3, 96, dtype=torch.bfloat16)},
    "path": {"path": "native"},
    "weight with a gradient": {"weight": values("weight", 96).requires_grad_()},
}
NORM_REFUSED: dict[str, tuple[Arguments, str]] = {
    "residual of a wider dtype": (
        {"residual": values("residual", 3, 96, dtype=DOUBLE)},
        "residual is torch.float64, must be one of",
    ),
    "weight of a narrower dtype": (
        {"weight": values("weight", 96, dtype=torch.float16)},
        "weight is torch.float16, must be one of",
    ),
    "residual of another shape": (
        {"residual": values("residual", 96)},
        r"residual has shape \(96,\), must be the shape of x",
    ),
    "no weights": (
        {"weight": values("weight", 0)},
        r"weight has shape \(0,\), must be the last dimension of x, \(96,\)",
    ),
    "a list": ({"weight": [1.0] * 96}, "weight is a list, must be a tensor"),
    "a boolean eps": ({"eps": True}, "eps=True, must be a number"),
    "a boolean offset": ({"weight_offset": True}, "weight_offset=True, must be a number"),
}

FP8_OTHER: dict[str, Arguments] = {
    "eps": {"eps": 1.0},
    "rounding": {"rounding": "hf"},
    "quant groups": {"quant_group": 32},
    "one quant group": {"quant_group": None},
    "layout": {"scale_layout": "column"},
    "type": {"fp8_dtype": torch.float8_e4m3fnuz},
    "unquantised": {"also_unquantised": True},
    "path": {"path": "native"},
    "strided": {"x": strided(values("x", 3, 96))},
}
FP8_REFUSED: dict[str, tuple[Arguments, str]] = {
    "weight of a narrower dtype": (
        {"weight": values("weight", 96, dtype=torch.float16)},
        "weight is torch.float16, must be one of",
    ),
    "weight with a gradient": (
        {"weight": values("weight", 96).requires_grad_()},
        "weight needs a gradient, must not",
    ),
    "a boolean eps": ({"eps": True}, "eps=True, must be a number"),
    "a boolean group": ({"quant_group": True}, "quant_group=True, must be None or a number of columns"),
    "a fractional group": ({"quant_group": 64.0}, "quant_group=64.0, must be None or a number of columns"),
    "an integer for y": ({"also_unquantised": 0}, "also_unquantised=0, must be one of True, False"),
    "a type by its name": ({"fp8_dtype": "float8_e4m3fn"}, "fp8_dtype='float8_e4m3fn', must be one of"),
}

MROPE_OTHER: dict[str, Arguments] = {
    "sections": {"sections": (4, 9, 3)},
    "sectioned": {"interleaved": False},
    "one axis": {"positions": positions(5)[1]},
    "narrower positions": {"positions": positions(5).int()},
    "another k": {"k": values("k", 5, 3, 64)},
    "a narrower k": {"k": values("k", 5, 2, 64, dtype=LOW)},
    "path": {"path": "native"},
    "a gradient": {"cos": values("cos", 51, 16).requires_grad_()},
    "a longer cache": {"cos": values("cos", 60, 16), "sin": values("sin", 60, 16)},
    "a short cache": {"cos": values("cos", 50, 16), "sin": values("sin", 50, 16)},
}
MROPE_REFUSED: dict[str, tuple[Arguments, str]] = {
    "float positions": ({"positions": positions(5).float()}, "positions is torch.float32, must be one of"),
    "positions of other tokens": (
        {"positions": positions(6)},
        r"positions has shape \(3, 6\), must be \(3, 5\) or \(5,\)",
    ),
    "two axes": ({"positions": positions(5)[:2]}, r"positions has shape \(2, 5\), must be \(3, 5\) or \(5,\)"),
    "k of other tokens": ({"k": values("k", 6, 2, 64)}, r"k has shape \(6, 2, 64\), must be as q"),
    "k of other columns": ({"k": values("k", 5, 2, 32)}, r"k has shape \(5, 2, 32\), must be as q"),
    "flat k": ({"k": values("k", 5, 128)}, r"k has shape \(5, 128\), must be as q"),
    "sin of other columns": (
        {"sin": values("sin", 51, 15)},
        r"sin has shape \(51, 15\), must be the shape of cos",
    ),
    "sin of other rows": ({"sin": values("sin", 50, 16)}, r"sin has shape \(50, 16\), must be the shape of cos"),
    "a narrower sin": (
        {"sin": values("sin", 51, 16, dtype=LOW)},
        "sin is torch.bfloat16, must be one of torch.float32",
    ),
    "head_dim": ({"head_dim": 32}, "head_dim=32, must be None or the 64 columns of q"),
    "a boolean flag": ({"interleaved": 1}, "interleaved=1, must be one of True, False"),
    "a boolean section": ({"sections": (15, True, 0)}, r"sections=\(15, True, 0\), must be three integers"),
}
# The CPU refuses positions outside the cache, a GPU makes NaN of what they rotate.
OUTSIDE: dict[str, tuple[Arguments, str]] = {
    "a position outside": (
        {"positions": torch.full_like(positions(5), 51)},
        "positions has 51, must be at least 0",
    ),
    "a position below": ({"positions": torch.full_like(positions(5), -1)}, "positions has -1, must be at least 0"),
}
if DEVICE == "cpu":
    MROPE_REFUSED |= OUTSIDE
else:
    MROPE_OTHER |= {name: changes for name, (changes, _) in OUTSIDE.items()}


@dataclass(frozen=True, slots=True)
class Caller:
    """An operation's common call with changes, its run, its decision and its comparison, and the calls beside it.

    ``before`` changes the common call so that one that is refused differs from it in a type alone; ``alike`` names
    the calls beside it that may have its results, if all others must not.
    """

    call: Callable[..., Arguments]
    run: Callable[[Arguments], Any]
    explain: Callable[[Arguments], Decision]
    right: Callable[[Arguments, Any], None]
    other: Mapping[str, Arguments]
    refused: Mapping[str, tuple[Arguments, str]]
    before: Mapping[str, Arguments] = field(default_factory=dict)
    alike: frozenset[str] | None = None
    path: str = "rows"


def _norm(operation: str) -> Caller:
    return Caller(
        rms_norm.added,
        partial(run, operation),
        partial(explain, operation),
        partial(rms_norm.assert_right, operation),
        NORM_OTHER if operation == "rms_norm" else {},
        NORM_REFUSED if operation == "rms_norm" else {},
        {"a boolean eps": {"eps": 1.0}, "a boolean offset": {"weight_offset": 1.0}},
    )


def _quantised(operation: str) -> Caller:
    return Caller(
        partial(fp8.call, operation),
        partial(run, operation),
        partial(explain, operation),
        partial(fp8.assert_right, operation),
        FP8_OTHER,
        FP8_REFUSED,
        {"a boolean eps": {"eps": 1.0}, "a boolean group": {"quant_group": 1}},
    )


def _rotation(operation: str) -> Caller:
    return Caller(
        mrope.call,
        partial(mrope.run, operation=operation),
        partial(mrope.explain, operation=operation),
        mrope.assert_right,
        MROPE_OTHER if operation == "mrope" else {},
        MROPE_REFUSED if operation == "mrope" else {},
        {"a boolean section": {"sections": (15, 1, 0)}},
        path="heads",
    )


CALLERS = {
    "rms_norm_gated": Caller(
        rms_norm_gated.call,
        rms_norm_gated.run,
        rms_norm_gated.explain,
        rms_norm_gated.assert_right,
        GATED_OTHER,
        GATED_REFUSED,
        {"a boolean eps": {"eps": 1.0}},
        frozenset({"rounding", "path", "weight with a gradient"}),
    ),
    **{operation: _norm(operation) for operation in rms_norm.OPERATIONS},
    **{operation: _quantised(operation) for operation in fp8.OPERATIONS},
    **{operation: _rotation(operation) for operation in ("mrope", "mrope_")},
}
OTHER = [(operation, name) for operation, caller in CALLERS.items() for name in caller.other]
REFUSED = [(operation, name) for operation, caller in CALLERS.items() for name in caller.refused]


@pytest.mark.parametrize(("operation", "name"), OTHER)
def test_a_key_serves_no_other_call(operation: str, name: str, launched: list[plans.Plan]) -> None:
    """After a common call, one that differs in an argument is decided on its own."""
    caller = CALLERS[operation]
    first = caller.run(caller.call())
    arguments = caller.call(**caller.other[name])
    decision = caller.explain(arguments)
    results = caller.run(arguments)

    assert ([decision.plan] if decision.plan else []) == launched[1:]
    assert caller.alike is None or name in caller.alike or not torch.equal(first, results)
    caller.right(arguments, results)


@pytest.mark.parametrize(("operation", "name"), REFUSED)
def test_a_key_serves_no_call_that_is_refused(operation: str, name: str, launched: list[plans.Plan]) -> None:
    """After a common call, one without a meaning is refused by ``explain`` and by the call; nothing runs."""
    caller = CALLERS[operation]
    changes, message = caller.refused[name]
    caller.run(caller.call(**caller.before.get(name, {})))
    arguments = caller.call(**changes)

    with pytest.raises(InvalidCall, match=f"^{operation}: {message}"):
        caller.explain(arguments)
    with pytest.raises(InvalidCall, match=f"^{operation}: {message}"):
        caller.run(arguments)
    assert 1 == len(launched)


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("operation", CALLERS)
def test_a_failing_launch_raises(
    operation: str,
    forced: bool,  # noqa: FBT001 - a parameter of the test
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A launch that fails is a bug to be seen, not a reason to try the next path."""
    caller = CALLERS[operation]

    def fail(*_args: object) -> None:
        message = "out of registers"
        raise RuntimeError(message)

    monkeypatch.setattr("normkernels.launch.launch", fail)

    with pytest.raises(RuntimeError, match="out of registers"):
        caller.run(caller.call(path=caller.path if forced else None))
