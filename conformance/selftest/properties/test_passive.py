"""An element is called unwritten only where nothing was written to it."""

from __future__ import annotations

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
