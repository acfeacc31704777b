"""The oracle in tensors and the oracle in digits allow the same numbers."""

from __future__ import annotations

import random
from typing import Any

import mpmath
import pytest
import torch

from conformance.cases.case import Case, TensorSpec
from conformance.operations import OPERATIONS
from conformance.operations.softmax import SCALES
from conformance.oracle.arithmetic import Machine
from conformance.oracle.contract import Contract, contracts
from conformance.selftest.nightly import NIGHTLY
from conformance.selftest.oracle.digits import DIGITS, FORMATS, FORMULAS, TINY

CASES = 200 if NIGHTLY else 20  # of each operation and contract
# the machine's own steps in float64 take a part of each bound, and each bound is at least one U
MARGIN = 2.0**-13
# the tensors of each operation: those in the rows' shape, and those that may have a dtype of their own
TENSORS = {
    "rms_norm": ("x", "residual", "weight"),
    "gemma_rms_norm": ("x", "residual", "weight"),
    "rms_norm_gated": ("x", "gate", "weight"),
    "layer_norm": ("x", "weight", "bias"),
    "l2_norm": ("x",),
    "softmax": ("x", "mask"),
    "silu_and_mul": ("gate", "up"),
}
VECTORS, OPTIONAL = {"weight", "bias"}, {"residual", "mask"}
FLAGS: dict[str, dict[str, tuple[Any, ...]]] = {
    "rms_norm": {"eps": (1e-6, 0.0, 1e-3), "weight_offset": (0.0, 1.0, -0.1)},
    "gemma_rms_norm": {"eps": (1e-6, 1e-3)},
    "rms_norm_gated": {
        "eps": (1e-6, 1e-3),
        "activation": ("silu", "sigmoid"),
        "norm_before_gate": (True, False),
        "group_size": (None,),
    },
    "layer_norm": {"eps": (1e-6, 1e-3)},
    "l2_norm": {"eps": (1e-6, 1e-3)},
    "softmax": {"scale": (None, 0.125, 0.75, SCALES["root"])},
}


def drawn(name: str, rng: random.Random) -> tuple[Case, dict[str, torch.Tensor]]:
    """Return a small call with one row, and its values."""
    n, kind = rng.randint(1, 6), rng.choice(tuple(FORMATS))
    scale = rng.choice((1.0, 30.0, 2.0**-10))
    specs, values = {}, {}
    for tensor in TENSORS[name]:
        dtype = rng.choice((kind, "float32")) if tensor in {*VECTORS, "mask"} else kind
        if tensor in OPTIONAL and rng.random() < 0.5:
            continue
        numbers = [rng.gauss(0, 1) * (1.0 if tensor in VECTORS or tensor == "gate" else scale) for _ in range(n)]
        shape = (n,) if tensor in VECTORS else (1, n)
        specs[tensor] = TensorSpec(shape, dtype)
        values[tensor] = torch.tensor(numbers).to(getattr(torch, dtype)).reshape(shape)
    flags = [(flag, rng.choice(levels)) for flag, levels in sorted(FLAGS.get(name, {}).items())]
    # a case leaves out a scale that is None, but no group
    said = tuple((flag, value) for flag, value in flags if flag != "scale" or value is not None)
    return Case(name, tuple(specs.items()), said), values


def as_float32(flag: Any) -> Any:
    """Return a number as kernels take it, and all else as it is."""
    return float(torch.tensor(flag, dtype=torch.float32)) if isinstance(flag, float) else flag


@pytest.mark.parametrize("rounds", ["fp32", "hf", "two_step", "low", "eager", "random"])
@pytest.mark.parametrize("name", FORMULAS)
def test_both_oracles_allow_the_same(name: str, rounds: str) -> None:
    """Tensors allow what the digits allow, and next to nothing more."""
    rng = random.Random(f"{name} {rounds}")  # noqa: S311 - test data
    operation = OPERATIONS[name]
    points = [point.name for point in operation.rounds]
    with mpmath.workdps(DIGITS):
        for _ in range(CASES):
            case, values = drawn(name, rng)
            chosen = frozenset(point for point in points if rng.random() < 0.5)
            contract = Contract(
                contracts(operation.rounds).get(rounds, chosen), rng.choice(("tile", "lanes", "serial"))
            )
            got = operation.formula(Machine(), contract, values, case)
            given = {tensor: value.flatten().tolist() for tensor, value in values.items()}
            flags = {flag: as_float32(value) for flag, value in case.flags}
            kinds = {tensor: spec.dtype for tensor, spec in case.tensors}
            expected = FORMULAS[name](given, kinds, flags, contract)
            assert set(expected) == set(got)
            for output, row in expected.items():
                ends = zip(got[output].lo.flatten().tolist(), row, got[output].hi.flatten().tolist(), strict=True)
                for lo, true, hi in ends:
                    slack = (true.hi - true.lo) * MARGIN + TINY
                    assert true.lo - slack <= lo <= true.lo, (case, contract, output, lo, true)
                    assert true.hi <= hi <= true.hi + slack, (case, contract, output, true, hi)
