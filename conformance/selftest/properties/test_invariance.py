"""Violations of bit invariance are seen. Only a GPU judges it; here the judges themselves are tried."""

import random
from itertools import islice
from typing import Any

import pytest
import torch

from conformance.calls.call import Subject
from conformance.calls.verdict import Status
from conformance.cases.case import Case
from conformance.cases.factors import Scope
from conformance.operations import OPERATIONS
from conformance.properties import PROPERTIES
from conformance.runs.item import Item, cases_of
from conformance.selftest.fakes import right
from conformance.selftest.fakes.correct import Correct
from conformance.selftest.fakes.state import NanSpreadsToOtherRows


class DependsOnTheBatch(Correct):
    """A norm whose rows are one unit in the last place larger in a large batch."""

    def rms_norm_gated(self, *tensors: Any, **flags: Any) -> torch.Tensor:
        """Return the right result, moved in a large batch."""
        y = super().rms_norm_gated(*tensors, **flags)
        return y * (1 + 2**-22) if y.shape[0] > 4 else y


class DependsOnThePlace(Correct):
    """A norm whose first row is one unit in the last place larger."""

    def rms_norm_gated(self, *tensors: Any, **flags: Any) -> torch.Tensor:
        """Return the right result with its first row moved."""
        y = super().rms_norm_gated(*tensors, **flags)
        y[0] *= 1 + 2**-22
        return y


class DependsOnThePadding(Correct):
    """A norm whose kernel for whole tiles is one unit in the last place off."""

    def rms_norm_gated(self, *tensors: Any, **flags: Any) -> torch.Tensor:
        """Return the right result, moved if no tile is partial."""
        y = super().rms_norm_gated(*tensors, **flags)
        return y * (1 + 2**-22) if y.shape[0] % 16 == 0 else y


def _case() -> Case:
    operation = OPERATIONS["rms_norm_gated"]
    plain = {name: levels[0] for name, levels in operation.factors.items()}
    return operation.complete({**plain, "rows": "many"}, random.Random(1), Scope("float32"))  # noqa: S311


@pytest.mark.parametrize(
    ("fake", "prop"),
    [
        (DependsOnTheBatch, "batch_invariance"),
        (DependsOnThePlace, "position_invariance"),
        (DependsOnThePadding, "padding_invariance"),
        (NanSpreadsToOtherRows, "padding_invariance"),
    ],
)
def test_a_dependence_on_the_batch_is_seen(fake: type[Correct], prop: str) -> None:
    """The right implementation passes, and the wrong one fails."""
    judge = PROPERTIES[prop].judge

    assert [Status.PASSED] == [verdict.status for verdict in judge(Subject(Correct()), _case())]
    assert [Status.FAILED] == [verdict.status for verdict in judge(Subject(fake()), _case())]


@pytest.mark.parametrize("prop", ["position_invariance", "padding_invariance"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_rows_are_those_of_the_operation(operation: str, prop: str) -> None:
    """A row, a token of a rotation or a vector is moved and padded in all arguments together."""
    subject = Subject(right(operation)())
    cases = list(islice(cases_of(Item(operation, prop, "bfloat16"), subject), 4))
    verdicts = [verdict for case in cases for verdict in PROPERTIES[prop].judge(subject, case)]

    assert {Status.PASSED} == {verdict.status for verdict in verdicts}
