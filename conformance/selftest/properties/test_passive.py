"""An element is called unwritten only where nothing was written to it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import pytest
import torch

from conformance.calls.call import Subject
from conformance.calls.verdict import Status
from conformance.cases.case import Case, Layout, TensorSpec
from conformance.properties.passive import judge_call
from conformance.selftest.fakes.correct_norm import CorrectNorm

GAP = Layout("row_gap", 1)


def _case(dtype: str) -> Case:
    tensors = (("x", TensorSpec((3, 8), dtype, GAP)), ("weight", TensorSpec((8,), dtype, values="weight")))
    return Case("rms_norm", tensors, (("eps", 1e-6), ("weight_offset", 0.0)))


class _ReadsTheGap(CorrectNorm):
    """A norm that writes the value after each row into its last column: with poison there, poison's bits."""

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Read one element too many."""
        out = super().store(y, x)
        wider = x.as_strided((*x.shape[:-1], x.shape[-1] + 1), x.stride())
        out[..., -1] = wider[..., -1]
        return out


class _SkipsTheLastColumn(CorrectNorm):
    """A norm that never writes the last column."""

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Stop before the last column."""
        out = torch.empty(x.shape, dtype=x.dtype)
        out[..., :-1] = y[..., :-1].to(x.dtype)
        return out


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize(
    ("kind", "written"),
    [
        (_ReadsTheGap, ""),
        (_SkipsTheLastColumn, "3 of 24 elements were never written, the first at (0, 7)"),
    ],
)
def test_poison_that_was_read_is_not_memory_that_was_not_written(
    kind: type[CorrectNorm], written: str, dtype: str
) -> None:
    """Both fakes return poison; the first one's fault is an invalid read only."""
    verdicts = {verdict.property: verdict for verdict in judge_call(Subject(kind()), _case(dtype))}

    assert written == verdicts["written"].reason
    assert (Status.FAILED if written else Status.PASSED) is verdicts["written"].status
    assert Status.FAILED is verdicts["memory"].status


class _Plain(CorrectNorm):
    """A norm in plain PyTorch, of which calls in one dtype are declared to run in a kernel."""

    launches = MappingProxyType({"rms_norm": {"dtype": "bfloat16"}})
    said: str | None = None

    def path(self, operation: str, arguments: Mapping[str, object]) -> str | None:
        return self.said


@pytest.mark.parametrize(
    ("said", "dtype", "status", "reason"),
    [
        (None, "bfloat16", Status.FAILED, "nothing was launched for a call that is declared to run in a kernel"),
        (
            "native",
            "bfloat16",
            Status.FAILED,
            "path 'native' was chosen for a call that is declared to run in a kernel",
        ),
        ("rows", "bfloat16", Status.FAILED, "nothing was launched for a call that is declared to run in a kernel"),
        (None, "float16", Status.NOT_JUDGED, "the adapter does not say which path ran"),
        ("native", "float16", Status.PASSED, ""),
        ("rows", "float16", Status.FAILED, "path 'rows' launched nothing"),
    ],
)
def test_a_call_that_is_declared_to_run_in_a_kernel_does(
    said: str | None, dtype: str, status: Status, reason: str
) -> None:
    """Plain PyTorch is right as well, and fails there, whether or not the adapter names a path."""
    adapter = _Plain()
    adapter.said = said
    (verdict,) = (each for each in judge_call(Subject(adapter), _case(dtype)) if each.property == "path")

    assert (status, reason) == (verdict.status, verdict.reason)
