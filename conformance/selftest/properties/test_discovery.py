"""Discovery names the contract that outputs follow if they break the declared one, from all failing cases."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from conformance.adapter import Adapter
from conformance.calls.call import Subject
from conformance.calls.verdict import Status
from conformance.cases.case import Case, TensorSpec
from conformance.cases.factors import Scope
from conformance.operations import OPERATIONS
from conformance.oracle.contract import Contract, in_braces
from conformance.properties import contract
from conformance.properties.discovery import Evidence, follow
from conformance.selftest.fakes import right
from conformance.selftest.fakes.correct_norm import CorrectNorm
from conformance.selftest.fakes.summation import serial


def _case(operation: str, dtype: str) -> Case:
    """Return ordinary rows, on which rounding points show in many elements."""
    given = OPERATIONS[operation]
    plain = {factor: levels[0] for factor, levels in given.factors.items()}
    wanted = {"rows": "few", "width": "tile", "dims": "whole", "dtypes": "cos_float32", "heads": "grouped"}
    levels = {**plain, **{factor: level for factor, level in wanted.items() if factor in plain}}
    case = given.complete(levels, random.Random(1), Scope(dtype).sized(rows=16))  # noqa: S311 - reproducible
    return case.with_flag("eps", 1e-6) if "eps" in dict(case.flags) else case


def _contract(operation: str) -> Contract:
    """Return the contract that the right implementation follows."""
    return right(operation)().contract(operation)


def _showing(case: Case) -> list[str]:
    """Return the rounding points of plain PyTorch that show in a case, in the order of the formula."""
    given = OPERATIONS[case.operation]
    return [point.name for point in given.rounds if point.eager and point.name in given.points(case)]


def _declaring(operation: str, rounds: frozenset[str], adapter: Adapter | None = None) -> Subject:
    """Return an implementation, by default the right one, with another declared contract."""
    made = adapter or right(operation)()
    made.contracts = {**made.contracts, operation: Contract(rounds, "lanes")}  # type: ignore[misc]  # of this one alone
    return Subject(made)


# a quantisation alone rounds nowhere else
ROUNDING = [name for name, operation in OPERATIONS.items() if any(point.eager for point in operation.rounds)]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("operation", ROUNDING)
def test_a_contract_that_is_not_followed_is_told_from_the_one_that_is(operation: str, dtype: str) -> None:
    """The case fails, and its sentence has both sets and the share that the declared one explains."""
    case = _case(operation, dtype)
    honest = _contract(operation)
    # the last two points added, or taken away
    subject = _declaring(operation, honest.rounds ^ set(_showing(case)[-2:]))
    followed = in_braces(honest, _showing(case))
    (verdict,) = contract.judge(subject, case)
    said = follow(subject, Evidence((case,)))
    share = re.search(r"explains ([\d.]+)% of the elements; ", said)

    assert Status.FAILED is verdict.status
    assert share is not None, said
    assert 1.0 < float(share[1]) < 99.9
    assert said.startswith("the declared contract ")
    assert f"; {followed} explains all" in said


def _lossy(operation: str) -> Adapter:
    """Return an implementation that loses the last bit of every fourth column, as no rounding does."""
    adapter = right(operation)()
    whole = getattr(adapter, operation)

    def lost(*given: Any, **flags: Any) -> Any:
        results = whole(*given, **flags)
        first = (results if isinstance(results, torch.Tensor) else results[0]).clone()
        bits = first.view(torch.int16 if first.element_size() == 2 else torch.int8)
        bits[..., ::4] ^= 1
        return first if isinstance(results, torch.Tensor) else (first, *results[1:])

    setattr(adapter, operation, lost)
    return adapter


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_no_contract_explains_is_said_to_be_that(operation: str) -> None:
    """The sentence has the best set and its share, which the damage bounds."""
    subject = _declaring(operation, _contract(operation).rounds, _lossy(operation))
    said = follow(subject, Evidence((_case(operation, "bfloat16"),)))
    best = re.search(r"no set of rounding points explains all \(best: .*, ([\d.]+)%\)", said)

    assert best is not None, said
    assert 50.0 < float(best[1]) < 95.0


def test_float32_outputs_show_no_rounding() -> None:
    """Discovery says nothing about float32 outputs."""
    case = _case("rms_norm", "float32")

    assert "" == follow(_declaring("rms_norm", frozenset({"sum", "normalised"})), Evidence((case,)))


class _Norm(CorrectNorm):
    """A norm with one step replaced by a test, under a contract of the test's choice."""

    def __init__(self, contract: str | Contract) -> None:
        self.contracts = {"rms_norm": contract}  # type: ignore[misc]  # of this one alone


def _row(n: int, dtype: str, *, weight: bool = True, residual: bool = True, seed: int = 1) -> Case:
    tensors = [("x", TensorSpec((16, n), dtype))]
    tensors += [("residual", TensorSpec((16, n), dtype))] * residual
    tensors += [("weight", TensorSpec((n,), dtype, values="weight"))] * weight
    return Case("rms_norm", tuple(tensors), (("eps", 1e-6), ("weight_offset", 0.0)), seed=seed)


class _Serial(_Norm):
    """A norm with one running sum of squares along the row."""

    def mean_square(self, stream: torch.Tensor) -> torch.Tensor:
        """Add one column after another in fp32."""
        return serial(stream.pow(2).contiguous()) / stream.shape[-1]


class _Inexact(_Norm):
    """A norm whose variance is off, in every row, by as much as a serial sum of a wide row may be."""

    def mean_square(self, stream: torch.Tensor) -> torch.Tensor:
        """Return a slightly wrong mean."""
        return super().mean_square(stream) * (1 + 5e-5)


def _constant(n: int, dtype: str) -> Case:
    """Return rows of one repeated number, in which the rounding errors of a serial sum accumulate."""
    case = _row(n, dtype)
    for name in ("x", "residual"):
        case = case.with_tensor(name, replace(dict(case.tensors)[name], values="constant"))
    return case


@pytest.mark.parametrize(
    ("kind", "said"),
    [(_Serial, "with a serial sum it explains all: declare depth='serial'"), (_Inexact, "")],
)
def test_an_error_of_narrow_rows_is_no_serial_sum(kind: type[_Norm], said: str) -> None:
    """Both are within a serial sum's bound for 4,096 columns; only one is within it in narrow rows too."""
    subject, case = Subject(kind(Contract(frozenset({"sum"}), "tile"))), _constant(4096, "float32")
    (verdict,) = contract.judge(subject, case)
    found = follow(subject, Evidence((case,)))

    assert Status.FAILED is verdict.status
    assert found.endswith(said) if said else "" == found


class _SometimesTwoStep(_Norm):
    """A norm that rounds the normalised value before the weight only in narrow rows."""

    def normalise(self, stream: torch.Tensor, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Round if the row is narrow."""
        y = super().normalise(stream, eps, x)
        return y.to(x.dtype).float() if x.shape[-1] < 200 else y


def test_a_contract_that_some_failing_case_contradicts_is_not_advised() -> None:
    """Rounding points that explain one failing case are not advised for all."""
    subject = Subject(_SometimesTwoStep(Contract(frozenset({"normalised"}), "tile")))
    narrow, wide = _row(128, "bfloat16"), _row(512, "bfloat16")
    alone, together = (follow(subject, Evidence(cases)) for cases in ((narrow,), (narrow, wide)))

    assert "; {sum, normalised} explains all: declare it" in alone
    assert "; no set of rounding points explains all (best: " in together


def test_passing_cases_are_explained_as_well() -> None:
    """A contract is not advised if it fails a case that follows the declared one."""
    subject = Subject(_SometimesTwoStep(Contract(frozenset({"sum"}), "tile")))
    narrow, wide = _row(128, "bfloat16"), _row(512, "bfloat16")

    assert "; {sum, normalised} explains all" in follow(subject, Evidence((narrow,)))
    assert "no set of rounding points explains all" in follow(subject, Evidence((narrow,), (wide,)))


class _Eager(_Norm):
    """A norm that rounds only the normalised value."""

    def normalise(self, stream: torch.Tensor, eps: float, x: torch.Tensor) -> torch.Tensor:
        """Round once more."""
        return super().normalise(stream, eps, x).to(x.dtype).float()


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        # without a weight the normalised value is the result, which the store rounds
        (False, "; {} explains all: declare it"),
        (True, "; {normalised} explains all (named: hf): declare it"),
    ],
)
def test_a_contract_is_shown_with_the_points_that_the_calls_have(weight: bool, said: str) -> None:  # noqa: FBT001
    """Points of other operations are not named, nor contracts that the calls cannot distinguish."""
    cases = tuple(_row(n, "bfloat16", weight=weight, residual=False) for n in (128, 512))
    found = follow(Subject(_Eager("eager")), Evidence(cases))

    assert found.startswith("the declared contract eager {square, variance, rstd, normalised} explains ")
    assert said in found


class _Strided(_Eager):
    """A norm that returns outputs with strides of its own."""

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Store column by column."""
        return super().store(y, x).t().contiguous().t()


def test_outputs_in_other_strides_are_compared_all_the_same() -> None:
    """A fault of the strides does not hide which contract the values follow."""
    subject = Subject(_Strided(Contract(frozenset({"sum"}), "tile")))

    assert "; {sum, normalised} explains all" in follow(subject, Evidence((_row(128, "bfloat16"),)))


class _OverwritesX(_Norm):
    """A norm that leaves its result in x, so that both have equal values."""

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Write over the argument as well."""
        out = super().store(y, x)
        x.copy_(out)
        return out


def test_an_argument_that_was_overwritten_is_not_returned_as_it_came() -> None:
    """Outputs are compared with the values before the call."""
    subject = Subject(_OverwritesX(Contract(frozenset({"sum", "normalised"}), "tile")))
    said = follow(subject, Evidence((_row(128, "bfloat16", residual=False),)))

    assert "as it came" not in said
    assert "explains all" in said


class _Returns(_Norm):
    """A norm that returns x if there are few columns, and the right result otherwise."""

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return x for few columns."""
        return x.clone() if x.shape[-1] < 200 else super().store(y * 2, x)


def test_what_only_some_cases_return_is_not_said_of_the_item() -> None:
    """A returned argument is the explanation only if every failing case returns it."""
    subject = Subject(_Returns(Contract(frozenset({"sum"}), "tile")))
    narrow, wide = (_row(n, "bfloat16", residual=False) for n in (128, 512))

    assert "an output is x as it came" == follow(subject, Evidence((narrow,)))
    assert "as it came" not in follow(subject, Evidence((narrow, wide)))


def test_where_nothing_is_wrong_nothing_is_said() -> None:
    """Cases that follow the declared contract are not evidence against it."""
    assert "" == follow(Subject(_Norm(Contract(frozenset({"sum"})))), Evidence((_row(128, "bfloat16"),)))
