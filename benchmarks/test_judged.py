"""Implementations that fail are not timed: judgement before timing, and batch invariance."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks import measure as measuring
from benchmarks.judged import Judgement, form_of, judge, picked
from benchmarks.measure import SMOKE, Implementations, measure, set_count
from benchmarks.peers import OURS
from benchmarks.results import CONTROL, PASSED
from benchmarks.shapes import IN_PLACE, Workload, with_tokens, workloads
from benchmarks.timing import Timing
from conformance.adapter import Adapter, Declined
from conformance.adapters import formulas
from conformance.adapters.eager import Eager
from conformance.calls.call import Subject
from conformance.calls.materialize import values_of
from conformance.calls.verdict import Status

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BY_NAME = {workload.name: workload for workload in workloads()}


def _small(name: str, tokens: int = 3) -> Workload:
    workload = BY_NAME[name]
    return replace(workload, case=with_tokens(workload.case, tokens))


GATED, NORM = _small("gated 64x24x128"), _small("gemma+res 64x2048")
ROTATION = _small("mrope in place 64x(24+4)x256")


class Slip(Eager):
    """An implementation that is right except in the last row of a batch of several."""

    name = "slip"

    def rms_norm_gated(self, *given: torch.Tensor, **flags: Any) -> torch.Tensor:
        """Call the formula, and spoil one number."""
        y = formulas.rms_norm_gated(*given, **flags)
        if len(y) > 1:
            y[-1, -1, -1] += 1
        return y


class Greedy(Eager):
    """An implementation that writes over x without being asked to."""

    name = "greedy"

    def rms_norm_gated(self, *given: torch.Tensor, **flags: Any) -> torch.Tensor:
        """Call the formula, and then use x for itself."""
        y = formulas.rms_norm_gated(*given, **flags)
        given[0].zero_()
        return y


class Refusing(Adapter):
    """An implementation that has an operation, and declines this call."""

    name = "refusing"
    contracts = {"rms_norm_gated": "fp32"}  # noqa: RUF012 - as adapters are written

    def rms_norm_gated(self, *given: torch.Tensor, **flags: Any) -> torch.Tensor:
        """Decline."""
        raise Declined("not today")


class Breaking(Refusing):
    """An implementation that raises in every call."""

    name = "breaking"

    def rms_norm_gated(self, *given: torch.Tensor, **flags: Any) -> torch.Tensor:
        """Raise."""
        raise RuntimeError("no kernel image\nfor this device")


def _judged(adapter: Adapter, workload: Workload) -> Judgement:
    return judge(Subject(adapter, DEVICE), workload, values_of(workload.case), crowd=5)


@pytest.mark.parametrize("workload", [GATED, NORM, ROTATION], ids=lambda w: w.case.operation)
def test_a_right_implementation_passes(workload: Workload) -> None:
    """PyTorch's formulas are judged right, alone and in a batch."""
    assert Status.PASSED is _judged(Eager(), workload).status


@pytest.mark.parametrize(
    ("adapter", "status", "reason"),
    [
        (Slip(), Status.FAILED, "1 of"),
        (Greedy(), Status.FAILED, "the buffer of x was changed"),
        (Refusing(), Status.DECLINED, "not today"),
        (Breaking(), Status.CRASHED, "RuntimeError: no kernel image"),
        (Adapter(), Status.DECLINED, "not implemented"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_what_is_wrong_is_said(adapter: Adapter, status: Status, reason: str) -> None:
    """A wrong number, a wrong write, a refusal and an error each have their status and a reason of one line."""
    found = _judged(adapter, GATED)

    assert status is found.status
    assert reason in found.reason
    assert "\n" not in found.reason


def test_only_who_passes_is_timed() -> None:
    """A wrong implementation has a verdict and no times, even if it is fast; the others have both."""
    adapters = {OURS: Eager(), "right": Eager(), "slip": Slip(), "refusing": Refusing()}
    row = measure(GATED, Implementations(adapters, {"absent": "no such package"}), DEVICE, SMOKE)

    timed = {entry.name for entry in row.entries if entry.cold or entry.warm or entry.host}
    assert {OURS, "right", CONTROL} == timed
    statuses = {entry.name: entry.status for entry in row.entries}
    assert (PASSED, "failed", "declined", "not installed") == tuple(
        statuses[name] for name in ("right", "slip", "refusing", "absent")
    )


def test_a_wrong_implementation_is_never_called_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong implementation's calls do not reach the clocks."""
    reached: list[str] = []

    def note(calls: dict[str, Any], **kinds: Any) -> dict[str, Any]:
        reached.extend(calls)
        return dict.fromkeys(calls, Timing(1.0, 1.0, 1.0, 1))

    monkeypatch.setattr(measuring, "device_times", note)
    monkeypatch.setattr(measuring, "host_times", note)
    measure(GATED, Implementations({"slip": Slip()}, {}), DEVICE, SMOKE)

    assert "slip" not in reached


def test_a_batch_of_another_size_has_the_same_tokens() -> None:
    """Every tensor with a row per token is picked alike, along its own dimension of tokens."""
    values = values_of(ROTATION.case)
    one, five = (picked(ROTATION.case, values, tokens) for tokens in ([1], [0, 1, 2, 0, 1]))

    assert torch.equal(values["q"][1:2], one["q"])
    assert torch.equal(values["positions"][:, :2], five["positions"][:, 3:])
    assert values["cos"] is one["cos"]


class Turning(Eager):
    """An implementation that sums a lone row from its other end: right, with other bits."""

    name = "turning"

    def rms_norm(self, *given: torch.Tensor | None, **flags: Any) -> Any:
        """Call the formula on the row as it is, or turned around."""
        x, weight = given
        assert x is not None
        assert weight is not None
        if len(x) > 1:
            return super().rms_norm(x, weight, **flags)
        y = super().rms_norm(x.flip(-1), weight.flip(-1), **flags)
        assert isinstance(y, torch.Tensor)
        return y.flip(-1)


def test_bits_that_depend_on_the_batch_are_seen() -> None:
    """A row that sums in another order when alone is right but not batch-invariant: float32 shows it."""
    case = _small("rms+res 64x2304", tokens=16).case
    alone = Workload("alone", replace(case, tensors=tuple(t for t in case.tensors if t[0] != "residual")))

    assert (Status.PASSED, False) == _seen(_judged(Turning(), alone))
    assert (Status.PASSED, True) == _seen(_judged(_RowByRow(), alone))


class _RowByRow(Eager):
    """An implementation that computes one row at a time in any batch."""

    def rms_norm(self, *given: torch.Tensor | None, **flags: Any) -> Any:
        """Call the formula for each row."""
        x, weight = given
        assert x is not None
        rows = [super(_RowByRow, self).rms_norm(row[None], weight, **flags) for row in x]
        return torch.cat([row for row in rows if isinstance(row, torch.Tensor)])


def _seen(found: Judgement) -> tuple[Status, bool | None]:
    return found.status, found.invariant


def test_the_other_form_stands_in_for_one_that_is_missing() -> None:
    """An in-place implementation is timed in place, one without an in-place form out of place."""

    class InPlace(Adapter):
        def mrope_(self, *given: Any, **flags: Any) -> None:
            """Do nothing."""

    apart = replace(ROTATION, form="")

    assert (IN_PLACE, IN_PLACE) == (form_of(InPlace(), apart), form_of(InPlace(), ROTATION))
    assert ("", "") == (form_of(Eager(), apart), form_of(Eager(), ROTATION))
    assert form_of(Adapter(), apart) is None


def test_as_many_sets_as_are_cold_together() -> None:
    """Small calls get many sets, large ones two, the largest one set, which is cold by itself."""
    assert (256, 16, 2, 1) == tuple(map(set_count, (20_000, 10**7, 10**8, 2 * 10**9)))
    assert 2 == set_count(20_000, most=2)
