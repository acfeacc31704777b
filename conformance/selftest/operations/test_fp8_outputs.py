"""The suite's handling of fp8 outputs outside the oracle: bits, poison, parity, cases."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import torch

from conformance.calls.call import Subject
from conformance.calls.materialize import materialize, values_of
from conformance.calls.memory import POISONS
from conformance.calls.verdict import BAD
from conformance.cases.case import Case, TensorSpec
from conformance.cases.factors import Scope
from conformance.operations import OPERATIONS
from conformance.operations.fp8_outputs import FACTORS
from conformance.oracle.bits import same_bits
from conformance.properties.parity import assert_alike
from conformance.properties.passive import judge_call
from conformance.selftest.fakes.correct_fp8 import FP8, CorrectFp8

NAN = float("nan")
NAMES = CorrectFp8.operations


def _case(**flags: Any) -> Case:
    tensors = (
        ("x", TensorSpec((3, 40), "bfloat16")),
        ("weight", TensorSpec((40,), "bfloat16", values="weight")),
    )
    plain: dict[str, Any] = {"eps": 1e-6, "weight_offset": 0.0, "quant_group": 16, "scale_layout": "column"}
    plain |= {"fp8_dtype": "float8_e4m3fnuz", "also_unquantised": True, **flags}
    return Case("rms_norm_fp8", tensors, tuple(plain.items()), seed=5)


# --- bits and poison ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FP8, ids=str)
def test_bits_of_fp8_are_compared(dtype: torch.dtype) -> None:
    """Signs of zero and neighbouring numbers differ, and every NaN equals every other."""
    numbers = torch.tensor([0.0, 1.0, NAN, 448.0 if dtype == torch.float8_e4m3fn else 240.0], dtype=dtype)
    below = (numbers.view(torch.uint8) - torch.tensor([0, 0, 0, 1], dtype=torch.uint8)).view(dtype)

    assert same_bits(numbers, numbers.clone())
    assert not same_bits(numbers, below)
    if dtype == torch.float8_e4m3fn:
        assert not same_bits(numbers, torch.tensor([0x80, 0x38, 0x7F, 0x7E], dtype=torch.uint8).view(dtype))
        assert same_bits(numbers, torch.tensor([0x00, 0x38, 0xFF, 0x7E], dtype=torch.uint8).view(dtype))


class _Unwritten(CorrectFp8):
    """An implementation that leaves one number of one output as allocated."""

    def __init__(self, output: int) -> None:
        self.output = output

    def together(
        self, values: torch.Tensor, scales: torch.Tensor, beside: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, ...]:
        """Restore the number that memory had."""
        made = [values, scales, *beside]
        fresh = torch.empty(1, dtype=made[self.output].dtype)
        made[self.output][1, 2] = fresh[0]
        return tuple(made)


@pytest.mark.parametrize("output", [0, 1, 2], ids=["values", "scales", "y"])
@pytest.mark.parametrize("fp8", FACTORS["fp8"])
def test_an_element_that_is_not_written_is_seen(fp8: str, output: int) -> None:
    """One poison is a number in e4m3fnuz: only both calls together distinguish it from a result."""
    (written,) = [
        verdict
        for verdict in judge_call(Subject(_Unwritten(output)), _case(fp8_dtype=fp8))
        if verdict.property == "written"
    ]

    assert written.status in BAD
    assert "the first at (1, 2)" in written.reason


@pytest.mark.parametrize("fp8", FACTORS["fp8"])
def test_numbers_that_look_like_poison_are_written(fp8: str) -> None:
    """0xFF and 0x7B may be results: an element counts as unwritten only if each call left its own poison."""
    verdicts = judge_call(Subject(CorrectFp8()), _case(fp8_dtype=fp8))
    codes = CorrectFp8().rms_norm_fp8(**_arguments(fp8))[0].view(torch.uint8)

    assert [] == [str(verdict) for verdict in verdicts if verdict.status in BAD]
    if fp8 == "float8_e4m3fnuz":
        assert POISONS[0] in codes


def _arguments(fp8: str) -> dict[str, Any]:
    case = _case(fp8_dtype=fp8)
    return {"residual": None, **materialize(case, values_of(case), "cpu", POISONS[0]).arguments}


# --- parity -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FP8, ids=str)
@pytest.mark.parametrize(("steps", "alike"), [(0, True), (1, True), (2, False)])
def test_fp8_numbers_agree_within_one_step(dtype: torch.dtype, steps: int, alike: bool) -> None:  # noqa: FBT001
    """One step up or down is close and two are not, at both ends of the range and around zero."""
    codes = torch.tensor([2, 16, 100, 130, 200], dtype=torch.uint8)
    other = codes + steps

    if alike:
        assert_alike((codes.view(dtype),), (other.view(dtype),), torch.bfloat16)
    else:
        with pytest.raises(AssertionError):
            assert_alike((codes.view(dtype),), (other.view(dtype),), torch.bfloat16)


def test_zero_has_a_neighbour_on_either_side() -> None:
    """The smallest number and its negative are two steps apart, zero and its negative none."""
    zeros = torch.tensor([0x00, 0x80], dtype=torch.uint8).view(torch.float8_e4m3fn)
    smallest = torch.tensor([0x01, 0x81], dtype=torch.uint8).view(torch.float8_e4m3fn)

    for close in (zeros, zeros.roll(1), smallest):
        assert_alike((zeros,), (close,), torch.bfloat16)
    with pytest.raises(AssertionError):
        assert_alike((smallest,), (smallest.roll(1),), torch.bfloat16)


def test_nan_is_like_nan_alone() -> None:
    """In fp8 the code of NaN is next to the largest numbers, and is not close to them."""
    numbers = torch.tensor([NAN, 448.0]).to(torch.float8_e4m3fn)

    assert_alike((numbers,), (numbers.clone(),), torch.bfloat16)
    with pytest.raises(AssertionError):
        assert_alike((numbers,), (numbers.roll(1),), torch.bfloat16)


def test_scales_are_as_close_as_what_they_are_of() -> None:
    """A difference of one bfloat16 step is close if x is bfloat16, and not if x is float32."""
    scales = torch.tensor([0.5, 0.25])

    assert_alike((scales,), (scales * (1 + 2.0**-8),), torch.bfloat16)
    with pytest.raises(AssertionError):
        assert_alike((scales,), (scales * (1 + 2.0**-8),), torch.float32)
    with pytest.raises(AssertionError, match="the reference returns 1"):
        assert_alike((scales, scales), (scales,), torch.float32)


# --- cases --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_levels_mean_what_they_say(name: str) -> None:
    """Ragged groups leave a shorter one, larger groups contain the whole row, and None is the row."""
    operation, scope = OPERATIONS[name], Scope("bfloat16")
    plain = {factor: levels[0] for factor, levels in operation.factors.items()}
    for width in operation.factors["width"]:
        groups = {}
        for level in FACTORS["quant_group"]:
            case = operation.complete({**plain, "width": width, "quant_group": level}, random.Random(1), scope)  # noqa: S311
            n = case.tensors[0][1].shape[-1]
            groups[level] = case.flag("quant_group")
        assert groups["row"] is None
        assert (128, 64) == (groups["128"], groups["64"])
        assert groups["larger"] > n
        if n > 2:
            assert n % groups["ragged"]
            assert groups["ragged"] < n


@pytest.mark.parametrize("name", NAMES)
def test_the_norm_within_is_the_norm_alone(name: str) -> None:
    """Apart from quantisation an operation has the arguments, mistakes, terms and flags of its norm."""
    fp8, norm = OPERATIONS[name], OPERATIONS[name.removesuffix("_fp8")]
    plain = {factor: levels[0] for factor, levels in fp8.factors.items()}
    case = fp8.complete(plain, random.Random(2), Scope("float16"))  # noqa: S311
    alone = norm.complete({f: plain[f] for f in norm.factors}, random.Random(2), Scope("float16"))  # noqa: S311

    assert alone.tensors == case.tensors
    assert set(dict(alone.flags)) < set(dict(case.flags))
    assert (norm.positional, norm.keywords, norm.row_tensors) == (fp8.positional, fp8.keywords, fp8.row_tensors)
    assert set(norm.invalid) < set(fp8.invalid)
    assert {term.name for term in norm.terms} < {term.name for term in fp8.terms}


def test_a_call_is_passed_a_dtype_where_the_case_names_one() -> None:
    """Cases are JSON; implementations get torch's objects."""
    case = _case()

    assert Case.from_json(json.dumps(case.to_data())) == case
    assert torch.float8_e4m3fnuz is materialize(case, values_of(case), "cpu", POISONS[0]).arguments["fp8_dtype"]


def test_blocks_of_columns_have_scales_of_their_own() -> None:
    """Some groups of a non-zero row are zero, which one scale for the row would never show."""
    case = _case().with_tensor("x", TensorSpec((16, 640), "bfloat16", values="blocks"))
    blocks = values_of(case)["x"].float().reshape(16, 10, 64).abs().amax(-1)

    assert (blocks == 0).any()
    assert (blocks.amax(-1) > 0).all()
    assert (blocks.amax(-1) > 1000 * blocks.amin(-1)).any()
