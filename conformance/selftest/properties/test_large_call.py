"""Calls of very many rows, here of few: a limit of a few thousand elements in place of 2**31."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from conformance.adapters.native import Native
from conformance.calls import budget
from conformance.calls.budget import GIB
from conformance.calls.call import Subject
from conformance.calls.verdict import Status, Verdict
from conformance.cases.case import Case
from conformance.cases.factors import DTYPES, Scope, Taken
from conformance.operations import OPERATIONS, rows
from conformance.properties import PROPERTIES, large_call
from conformance.properties.large_call import judged
from conformance.selftest.every import every
from conformance.selftest.fakes.correct_norm import CorrectNorm

LIMIT = 2**13
LARGE_CALL = PROPERTIES["large_call"]


def _cases(operation: str, dtype: str = "bfloat16") -> tuple[Case, ...]:
    """Return the cases of a dtype that is the only one taken, of five rows."""
    assert LARGE_CALL.given is not None
    scope = Scope(dtype, taken=Taken((("dtype", (dtype,)),)))
    return tuple(rows.with_rows(case, 5) for case in LARGE_CALL.given(OPERATIONS[operation], scope))


def _judged(adapter: Any, case: Case) -> Verdict:
    return judged(Subject(adapter), case, (LIMIT,))


@every("operation", OPERATIONS)
def test_right_calls_pass(operation: str) -> None:
    """Every form of every operation, with its rows repeated."""
    for case in _cases(operation):
        verdict = _judged(Native(), case)
        assert Status.PASSED is verdict.status, str(verdict)


@every("operation", OPERATIONS)
def test_repeated_rows_are_an_odd_number(operation: str) -> None:
    """An offset that loses a multiple of a power of two then finds another row. Dtypes share the calls out."""
    assert LARGE_CALL.given is not None
    of_dtypes = [LARGE_CALL.given(OPERATIONS[operation], Scope(dtype, device="cuda")) for dtype in DTYPES]
    cases = [case for some in of_dtypes for case in some]

    assert all(of_dtypes)
    assert all(rows.count(case) % 2 and rows.count(case) > 1 for case in cases)
    assert max(3, len(_cases(operation))) == len(cases)
    assert all(case == rows.flat(case) for case in cases)


class _Wrong(CorrectNorm):
    """A norm with one mistake, from the element on at which offsets would need another bit."""

    def spoil(self, y: torch.Tensor, x: torch.Tensor) -> None:
        """Make the mistake."""

    def norm(self, x: torch.Tensor, *rest: Any) -> Any:
        y = super().norm(x, *rest)
        if x.numel() > LIMIT:
            self.spoil(y if isinstance(y, torch.Tensor) else y[0], x)
        return y


class _Wraps(_Wrong):
    """Elements from the limit on have the results of the first ones."""

    def spoil(self, y: torch.Tensor, x: torch.Tensor) -> None:
        flat = y.view(-1)
        flat[LIMIT:] = flat[: len(flat) - LIMIT].clone()


class _Overwrites(_Wrong):
    """The last row of x is written."""

    def spoil(self, y: torch.Tensor, x: torch.Tensor) -> None:
        x[-1] = 0


class _RoundsOtherwise(_Wrong):
    """The last row has other bits, which the contract allows."""

    def spoil(self, y: torch.Tensor, x: torch.Tensor) -> None:
        y[-1] = torch.nextafter(y[-1], y.new_full((), torch.inf))


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (_Wraps, r"in a call of \d+ rows, from row \d+ on: y\["),
        (_Overwrites, r"in a call of \d+ rows: x was changed"),
    ],
)
def test_what_goes_wrong_behind_the_limit_fails(wrong: type[_Wrong], reason: str) -> None:
    """In every case, and the reason names the rows."""
    for case in _cases("rms_norm"):
        verdict = _judged(wrong(), case)
        assert Status.FAILED is verdict.status
        assert re.match(reason, verdict.reason), verdict.reason


def test_other_bits_are_judged_by_the_contract() -> None:
    """In float32 a neighbouring number is allowed; rows need not be the same to the last bit."""
    for case in _cases("rms_norm", "float32"):
        assert Status.PASSED is _judged(_RoundsOtherwise(), case).status


def test_a_call_that_does_not_fit_is_tried_with_fewer_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where memory suffices for the smaller limit alone, that one is judged; else the reason says so."""
    seen = []
    case = _cases("rms_norm")[0]

    def lacking(_subject: Subject, whole: Case) -> str:
        seen.append(rows.count(whole))
        return "too large" if len(seen) == 1 or seen[-1] > 10**6 else ""

    monkeypatch.setattr(large_call, "_lacking", lacking)
    verdict = judged(Subject(_Wraps()), case, (2 * LIMIT, LIMIT))
    assert Status.FAILED is verdict.status
    assert seen == [2 * LIMIT // (5 * 128) * 5 + 5, LIMIT // (5 * 128) * 5 + 5]

    verdict = judged(Subject(_Wraps()), case, (2**50, 2**49))
    assert (Status.NOT_JUDGED, "too large") == (verdict.status, verdict.reason)


class _Refuses(CorrectNorm):
    """A norm that does not take so many rows."""

    def norm(self, x: torch.Tensor, *rest: Any) -> Any:
        if x.numel() > LIMIT:
            raise ValueError("too many rows")
        return super().norm(x, *rest)


class _ClaimsNothing(_Refuses):
    takes: ClassVar[Mapping[str, Mapping[str, object]]] = {}


class _ClaimsFew(_Refuses):
    takes: ClassVar[Mapping[str, Mapping[str, object]]] = {"rms_norm": {"rows": range(1, 9)}}


@pytest.mark.parametrize(
    ("kind", "status", "reason"),
    [
        (_Refuses, Status.CRASHED, "ValueError: too many rows"),
        (_ClaimsNothing, Status.NOT_JUDGED, "refused: ValueError: too many rows"),
        (_ClaimsFew, Status.NOT_JUDGED, "rows is "),
    ],
)
def test_so_many_rows_may_be_refused_by_who_does_not_claim_them(
    kind: type[_Refuses], status: Status, reason: str
) -> None:
    """An exception inside of a claim is a failure; outside of it no call is made."""
    verdict = _judged(kind(), _cases("rms_norm")[0])

    assert status is verdict.status
    assert verdict.reason.startswith(reason)


def test_processes_take_turns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Those of one GPU; one that waits in vain says so. Float32 has the smaller limit alone."""
    case, seen = _cases("rms_norm")[0], []

    def _seen(_subject: Subject, _case: Case, limit: int) -> Verdict:
        seen.append(limit)
        return Verdict("large_call", case, Status.NOT_JUDGED, "too large")

    monkeypatch.setattr(large_call, "_judge", _seen)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(budget, "PATIENCE", 0.0)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    gpu = SimpleNamespace(uuid="one")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    with budget.turn() as others:
        (waits,) = LARGE_CALL.judge(Subject(CorrectNorm()), case)
        assert (others, waits.status) == ("", Status.NOT_JUDGED)
        assert waits.reason.startswith("other processes use the GPU")
        gpu.uuid = "other"
        LARGE_CALL.judge(Subject(CorrectNorm()), case)
    gpu.uuid = "one"
    LARGE_CALL.judge(Subject(CorrectNorm()), _cases("rms_norm", "float32")[0])

    assert [2**32, 2**31, 2**31] == seen


def test_memory_is_that_of_arguments_and_results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Memory allocated in the call is taken twice for a moment, and smaller tensors have a gibibyte.

    A quarter of the GPU stays free.
    """
    case = rows.with_rows(_cases("rms_norm")[0], 2**24)
    size = 2**24 * 128 * 2
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(budget, "PATIENCE", 0.0)
    monkeypatch.setattr(budget, "_total", lambda _: 80 * GIB)
    monkeypatch.setattr(budget, "_taken", lambda _: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="one"))
    least = (3 * size + GIB) * 4 // 3
    for free, reason in ((least + 2**20, ""), (least - 2**20, "needs 13 GiB of a GPU with few others")):
        monkeypatch.setattr(budget, "_available", lambda free=free: free)
        assert reason == large_call._lacking(Subject(CorrectNorm(), "cuda"), case)
    assert 12 * GIB == 3 * size
    # a row more: an argument is part of whole gibibytes
    assert "needs 14 GiB" in large_call._lacking(Subject(CorrectNorm(), "cuda"), rows.with_rows(case, 2**24 + 1))


def test_a_cpu_does_not_judge_it() -> None:
    """Triton's interpreter would take days."""
    assert "needs a GPU" == LARGE_CALL.cannot(Subject(CorrectNorm()), "rms_norm", "bfloat16")
