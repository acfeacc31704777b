"""The in-place forms: which adapters and calls are judged, and what the form may return."""

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from conformance.adapter import Declined
from conformance.calls.call import Subject
from conformance.calls.materialize import materialize, values_of
from conformance.calls.memory import POISONS
from conformance.calls.verdict import Status
from conformance.cases.case import Case
from conformance.cases.factors import DTYPES, Scope
from conformance.operations import OPERATIONS
from conformance.properties import PROPERTIES
from conformance.runs.item import Item, cases_of
from conformance.runs.judge import unjudged
from conformance.selftest.fakes.correct import Correct
from conformance.selftest.fakes.correct_fp8 import CorrectFp8
from conformance.selftest.fakes.correct_norm import CorrectNorm, Result
from conformance.selftest.fakes.in_place import InPlaceSaysNothing, InPlaceSumsInAnotherOrder

JUDGE = PROPERTIES["in_place"].judge
IN_PLACE = [name for name, operation in OPERATIONS.items() if operation.in_place]


class ReturnsNothing(CorrectNorm):
    """An implementation that writes correctly and returns None."""

    def overwrite(self, result: Result, x: torch.Tensor, residual: torch.Tensor | None) -> Result | None:
        """Return nothing."""
        super().overwrite(result, x, residual)
        return None


class ReturnsViews(CorrectNorm):
    """An implementation that returns new tensor objects of the same memory, as a registered op does."""

    def write(self, over: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        """Return a view of the whole."""
        return (
            super().write(over, result).view(over.shape) if over.is_contiguous() else super().write(over, result)
        )


class Declines(CorrectNorm):
    """An implementation that has the form for some calls only."""

    def overwrite(self, result: Result, x: torch.Tensor, residual: torch.Tensor | None) -> Result | None:
        """Decline."""
        raise Declined("not in place")


class NoPromiseOfBits(InPlaceSumsInAnotherOrder):
    """An implementation with two kernels and no promise that their bits agree."""

    deterministic = False


class NoPromiseButNumbers(InPlaceSaysNothing):
    """An implementation that does not write the sum, and promises no bits that would show it."""

    deterministic = False


def _case(name: str, dtype: str = "float32") -> Case:
    operation = OPERATIONS[name]
    plain = {factor: levels[0] for factor, levels in operation.factors.items()}
    return operation.complete({**plain, "rows": "many"}, random.Random(1), Scope(dtype))  # noqa: S311


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (CorrectNorm, Status.PASSED),
        (ReturnsNothing, Status.PASSED),
        (ReturnsViews, Status.PASSED),
        (NoPromiseOfBits, Status.PASSED),
        (InPlaceSumsInAnotherOrder, Status.FAILED),
        (NoPromiseButNumbers, Status.FAILED),
        (Declines, Status.DECLINED),
    ],
)
def test_a_form_is_held_to_what_is_promised(kind: Callable[[], CorrectNorm], status: Status) -> None:
    """The form may return None, the arguments or views; bits count only if an adapter is deterministic."""
    assert [status] == [verdict.status for verdict in JUDGE(Subject(kind()), _case("rms_norm"))]


class ScalesInFloat64(CorrectFp8):
    """An implementation whose in-place form returns wider scales with the same numbers."""

    def overwrite(self, results: tuple[torch.Tensor, ...], residual: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Convert the scales."""
        values, scales, *rest = super().overwrite(results, residual)
        return (values, scales.double(), *rest)


class NothingReturned(CorrectFp8):
    """An implementation whose in-place form returns None, as allowed if arguments hold every output."""

    def overwrite(self, results: tuple[torch.Tensor, ...], residual: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Write the sum."""
        return super().overwrite(results, residual)[:0]


class ScalesHalved(CorrectFp8):
    """An implementation whose in-place form returns other scales."""

    def overwrite(self, results: tuple[torch.Tensor, ...], residual: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Halve the scales."""
        values, scales, *rest = super().overwrite(results, residual)
        return (values, scales / 2, *rest)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (CorrectFp8, ""),
        (ScalesInFloat64, "scales is torch.float64, must be torch.float32"),
        (ScalesHalved, "elements outside"),
        (NothingReturned, "returned 0 tensors, must be values, scales, residual"),
    ],
)
def test_what_lies_over_no_argument_is_judged_as_returned(kind: Callable[[], CorrectFp8], reason: str) -> None:
    """Besides a sum in the residual, fresh values and scales are checked for shape, dtype and contract."""
    (verdict,) = JUDGE(Subject(kind()), _case("rms_norm_fp8"))

    assert (Status.FAILED if reason else Status.PASSED) is verdict.status
    assert reason in verdict.reason


def test_only_a_form_that_is_there_is_judged() -> None:
    """An adapter without the method is not judged, and the reason names it."""
    subject, item = Subject(CorrectNorm()), Item("rms_norm", "in_place", "float32")
    without = type("Without", (CorrectNorm,), {"__getattribute__": _hidden("rms_norm_")})

    assert unjudged(item, subject) is None
    assert (Status.NOT_JUDGED, "the adapter has no rms_norm_") == unjudged(
        item, replace(subject, adapter=without())
    )


def _hidden(name: str) -> Callable[[object, str], object]:
    def get(self: object, asked: str) -> object:
        if asked == name:
            raise AttributeError(name)
        return object.__getattribute__(self, asked)

    return get


def test_an_operation_without_the_form_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite would not know where such a form writes, under any name."""
    monkeypatch.setitem(OPERATIONS, "rms_norm", replace(OPERATIONS["rms_norm"], in_place={}))
    item = Item("rms_norm", "in_place", "bfloat16")

    assert (Status.NOT_JUDGED, "the operation has no in-place form") == unjudged(item, Subject(CorrectNorm()))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", IN_PLACE)
def test_what_is_written_over_can_hold_the_result(name: str, dtype: str) -> None:
    """The argument has the output's dtype and separate memory for every element, and some cases have gaps."""
    subject = Subject(Correct() if name == "rms_norm_gated" else CorrectNorm())
    gaps = 0
    for case in cases_of(Item(name, "in_place", dtype), subject):
        given = materialize(case, values_of(case), "cpu", POISONS[0]).arguments
        places = OPERATIONS[name].in_place
        outputs = [output for output in OPERATIONS[name].outputs(case) if output.name in places]
        over = [given[places[output.name]] for output in outputs]

        assert over
        assert [output.dtype for output in outputs] == [tensor.dtype for tensor in over]
        assert not any(0 in tensor.stride() and tensor.numel() > 1 for tensor in over)
        assert len(over) == len({tensor.data_ptr() for tensor in over})
        gaps += sum(not tensor.is_contiguous() for tensor in over)
    assert gaps
