"""Offsets that lose their high bits are seen, also if they point outside all memory."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from conformance.adapter import Crashed
from conformance.calls import budget
from conformance.calls.budget import FULL, GIB
from conformance.calls.call import Subject
from conformance.calls.child import Child, Prepared
from conformance.calls.materialize import materialize, spread, values_of
from conformance.calls.memory import PAGE, POISONS, Owner
from conformance.calls.verdict import Status, Verdict
from conformance.cases.case import Case, Layout, TensorSpec
from conformance.cases.factors import Scope
from conformance.operations import OPERATIONS
from conformance.properties import PROPERTIES, large_index
from conformance.properties.large_index import FEWEST
from conformance.runs.host import faithful_interpreter
from conformance.runs.judge import judge
from conformance.runs.worker import starved
from conformance.selftest.fakes.correct import Correct
from conformance.selftest.fakes.offsets import OffsetsOf31Bits

LARGE_INDEX = PROPERTIES["large_index"]


def _cases(operation: str) -> tuple[Case, ...]:
    assert LARGE_INDEX.given is not None
    return LARGE_INDEX.given(OPERATIONS[operation], Scope("bfloat16"))


def _reach(spec: TensorSpec) -> int:
    return spec.layout.place(spec.shape).extent


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_tensor_reaches_past_32_bits(operation: str) -> None:
    """Each tensor of a call has a case with many rows (strides fit 31 bits) and one with far elements.

    A stride that is itself past 32 bits has fewer rows.
    """
    cases = _cases(operation)
    far = {(name, spec.layout.kind) for case in cases for name, spec in case.tensors if _reach(spec) > 2**32}
    names = {name for case in cases for name, _ in case.tensors}

    assert all(sum(_reach(spec) > 2**32 for _, spec in case.tensors) == 1 for case in cases)
    assert names == {name for name, _ in far}
    assert {"row_gap", "step"} == {kind for _, kind in far}
    strides = {
        (spec.shape[0], spec.layout.place(spec.shape).strides[0]) for case in cases for _, spec in case.tensors
    }
    assert all(stride < 2**31 for rows, stride in strides if rows >= FEWEST)
    # rows of a rotation are heads, of which two tokens have more than two
    assert OPERATIONS[operation].token_axes or any(stride > 2**32 for _, stride in strides)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_rows_are_far_apart_on_every_path(operation: str) -> None:
    """Behind each declared threshold some rows cross the limit; numbers that would take too long are left out."""
    assert LARGE_INDEX.given is not None
    cases = LARGE_INDEX.given(OPERATIONS[operation], Scope("bfloat16", row_edges=(1, 32, 10**6)))
    far = [spec.shape[0] for case in cases for _, spec in case.tensors if _reach(spec) > 2**32]

    assert 33 in far
    assert 2 in far
    assert max(far) < 10**6


def test_offsets_of_31_bits_leave_all_memory(request: pytest.FixtureRequest) -> None:
    """A kernel that multiplies in 32 bits crashes in the child; the right one passes."""
    if request.config.getoption("device") != "cpu":
        pytest.skip(
            "this process compiles its kernels: none runs between unreadable pages, with --device cpu they do"
        )
    assert not faithful_interpreter()
    case = next(case for case in _cases("rms_norm_gated") if _reach(dict(case.tensors)["gate"]) > 2**32)
    work = partial(LARGE_INDEX.judge, Subject(OffsetsOf31Bits()))
    child: Child[None, Case, tuple[Verdict, ...]] = Child(lambda: Prepared(None, work), limit=60.0)
    died = child.ask(case)
    child.close()
    (right,) = LARGE_INDEX.judge(Subject(Correct()), case)

    assert isinstance(died, Crashed)
    assert died.how.startswith("killed by SIGSEGV at conformance/selftest/fakes/")
    assert Status.PASSED is right.status


def test_what_lies_beside_far_elements_is_watched() -> None:
    """The rest of a page with an element is poisoned, and a change to it is seen."""
    case = _cases("rms_norm")[0]
    made = materialize(case, values_of(case), "cpu", POISONS[0])
    x = made.arguments["x"]

    assert () == made.touched()
    x.as_strided((1,), (1,), x.storage_offset() + x.stride(0) + x.shape[-1]).zero_()
    assert ("x",) == made.touched()


def test_a_spread_room_holds_its_pages_only() -> None:
    """Elements close together share a page; the space between pages in use has no memory."""
    owner = Owner.spread(torch.tensor([0, 8, PAGE, 2**34]), 2**34 + 8, "cpu", POISONS[1])

    assert owner.pages is not None
    assert [0, 1, 2**34 // PAGE] == owner.pages.tolist()
    assert 3 * PAGE == owner.content().numel()
    assert bool((owner.content() == POISONS[1]).all())


@pytest.mark.parametrize(
    ("spec", "is_spread"),
    [
        (TensorSpec((5, 128), "float32", Layout("row_gap", 2**30)), True),
        # much memory, but of elements
        (TensorSpec((2**20, 2048), "float32"), False),
        (TensorSpec((2**20, 2048), "float32", Layout("step", 3)), False),
        (TensorSpec((0, 128), "float32", Layout("row_gap", 2**30)), False),
    ],
)
def test_only_next_to_empty_buffers_are_spread(spec: TensorSpec, is_spread: bool) -> None:  # noqa: FBT001
    """A tensor that fills its buffer gets real memory at any size."""
    assert is_spread == spread(spec, spec.layout.place(spec.shape))


def test_addresses_that_cannot_be_had_are_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without such address space cannot judge, and the reason says so."""

    def refused(*_: object) -> Owner:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(Owner, "spread", refused)
    verdicts: tuple[Verdict, ...] = LARGE_INDEX.judge(Subject(Correct()), _cases("rms_norm_gated")[0])

    assert [Status.NOT_JUDGED] == [verdict.status for verdict in verdicts]
    assert "cannot be had" in verdicts[0].reason


def test_memory_is_that_of_whole_gibibytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU really has the memory between rows, each tensor's as a part of whole gibibytes."""
    asked: list[int] = []
    monkeypatch.setattr(large_index, "take", asked.append)
    x, gate, weight = (dict(_cases("rms_norm_gated")[0].tensors)[name] for name in ("x", "gate", "weight"))
    # five rows, each of a bit more than two gibibytes
    far = replace(x, shape=(5, 128), layout=Layout("row_gap", 2**30 - 100))
    case = replace(
        _cases("rms_norm_gated")[0],
        tensors=(("x", far), ("gate", replace(far, values="gate")), ("weight", weight)),
    )
    large_index._lacking(Subject(Correct(), "cuda"), case)

    assert gate.dtype == far.dtype == "bfloat16"
    assert 2 * 11 * GIB <= asked[0] < 2 * 11 * GIB + 2**20


def test_memory_that_other_workers_hold_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call may take the whole GPU, of which others have a half: it is not judged if it lacks memory twice."""

    class Starves(Correct):
        """A norm that gets no memory the first times."""

        def __init__(self, times: int) -> None:
            super().__init__()
            self.times = times

        def load(self, x: torch.Tensor) -> torch.Tensor:
            self.times -= 1
            if self.times >= 0:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8 GiB. GPU 0 has 8 GiB")
            return super().load(x)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(budget, "reserved", lambda: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (40 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *_: None)
    monkeypatch.setattr(budget, "_total", lambda _: 80 * GIB)
    case = _cases("rms_norm_gated")[0]
    verdicts = judge(Subject(Starves(2), memory=8 * GIB), "large_index", case)

    assert (Status.PASSED,) == tuple(
        each.status for each in judge(Subject(Starves(1), memory=8 * GIB), "large_index", case)
    )
    assert Status.NOT_JUDGED is verdicts[0].status
    assert verdicts[0].reason.startswith(FULL)
    # no third time, in a new process
    assert not starved(verdicts)
