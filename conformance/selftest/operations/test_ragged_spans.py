"""Quantised gated norms are drawn with ragged spans: whole norm groups in each quant group, fewer in the last."""

from __future__ import annotations

from collections import Counter

from conformance.calls.call import Subject
from conformance.runs.item import cases_of, items
from conformance.selftest.fakes.correct_fp8 import CorrectFp8

OPERATION = "rms_norm_gated_fp8"


def test_quick_draws_ragged_spans() -> None:
    """Every passive property has a case with them, in some dtype, and the values have several."""
    subject = Subject(CorrectFp8())
    found = Counter[str]()
    for item in items(subject, operations=(OPERATION,), properties=("values", "layout", "specials")):
        for case in cases_of(item, subject):
            n, group, span = case.tensors[0][1].shape[-1:], case.flag("group_size"), case.flag("quant_group")
            if n and group and span and group < span < n[0] and span % group == 0:
                found[item.property] += n[0] % span != 0

    assert {"values", "layout", "specials"} <= {name for name, count in found.items() if count}
    assert found["values"] >= 2
