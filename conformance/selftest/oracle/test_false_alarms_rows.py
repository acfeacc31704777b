"""No element of a right implementation of the suite's own operations on rows is judged wrong.

Each is computed by the correct base of its fakes, by the native adapter, and in float64 with one rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch

from conformance.adapter import load
from conformance.calls.call import Subject
from conformance.calls.materialize import values_of
from conformance.cases.case import Case, TensorSpec
from conformance.cases.factors import DTYPES
from conformance.operations import OPERATIONS
from conformance.oracle.comparison import Comparison
from conformance.oracle.contract import Contract, round_once
from conformance.properties.measure import measure
from conformance.selftest.fakes import right
from conformance.selftest.nightly import soaked

COLUMNS = 512
# of each operation, over dtypes, profiles and implementations: 10**7 in a nightly run
ELEMENTS = soaked(10**7)

Given = Mapping[str, torch.Tensor]
# tensors beside the rows with the profiles of their values (and a dtype), flags, and the formula in float64
Described = tuple[Mapping[str, str], Mapping[str, float], Callable[..., torch.Tensor]]


def _layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred * (centred.square().mean(-1, keepdim=True) + eps).rsqrt() * weight + bias


def _silu_and_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return gate / (1 + torch.exp(-gate)) * up


def _l2_norm(x: torch.Tensor, eps: float) -> torch.Tensor:
    return x * (x.square().sum(-1, keepdim=True) + eps).rsqrt()


def _softmax(x: torch.Tensor, mask: torch.Tensor | None = None, scale: float = 1.0) -> torch.Tensor:
    # the bools of a mask are numbers here: zero, whose logarithm is minus infinity, and one
    added = 0.0 if mask is None else mask.log() if bool((mask >= 0).all()) else mask
    return (x * scale + added).softmax(-1)


SCALE = 0.088388346135616302490234375
DESCRIBED: Mapping[str, Described] = {
    "layer_norm": ({"weight": "weight", "bias": "weight"}, {"eps": 1e-5}, _layer_norm),
    "silu_and_mul": ({"up": "normal"}, {}, _silu_and_mul),
    "l2_norm": ({}, {"eps": 1e-6}, _l2_norm),
    "softmax": ({}, {}, _softmax),
    "softmax scaled": ({}, {"scale": SCALE}, _softmax),
    "softmax masked": ({"mask": "padding"}, {}, _softmax),
    "softmax biased": ({"mask": "normal float32"}, {"scale": SCALE}, _softmax),
    "softmax of bools": ({"mask": "padding bool"}, {"scale": SCALE}, _softmax),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("described", DESCRIBED)
def test_no_element_of_a_right_implementation_is_outside(described: str, dtype: str) -> None:
    """Over the ordinary profiles of the rows' values."""
    name, (others, flags, formula) = described.split(maxsplit=1)[0], DESCRIBED[described]
    operation = OPERATIONS[name]
    rows = "gate" if name == "silu_and_mul" else "x"
    profiles, total = operation.ordinary, Comparison()
    count = -(-ELEMENTS // (len(DTYPES) * len(profiles) * 3 * COLUMNS))
    for profile in profiles:
        specs = {rows: TensorSpec((count, COLUMNS), dtype, values=profile)}
        for other, kind in others.items():
            drawn, _, own = kind.partition(" ")
            shape = (COLUMNS,) if drawn == "weight" else (count, COLUMNS)
            specs[other] = TensorSpec(shape, own or dtype, values=drawn)
        case = Case(name, tuple(specs.items()), tuple(flags.items()))
        values = values_of(case)
        wide = formula(*(values[each].double() for each in specs), **flags)
        arguments = {**dict.fromkeys(operation.keywords), **values, **flags}
        for adapter in (right(name)(), load("native")):
            y = getattr(adapter, name)(**arguments)
            total += measure(Subject(adapter), adapter.contract(name), case, values, (y,))
        once = round_once(wide, values[rows].dtype).to(values[rows].dtype)
        total += measure(Subject(adapter), Contract(), case, values, (once,))

    assert total.outside == 0, total.first
    assert total.elements * len(DTYPES) >= ELEMENTS
