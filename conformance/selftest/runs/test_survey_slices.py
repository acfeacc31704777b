"""A survey goes outward from calls of models too, whose layouts no factor has."""

from __future__ import annotations

import pytest
import torch

from conformance.adapter import Declined
from conformance.calls.call import Subject
from conformance.runs.judge import tried
from conformance.runs.survey import budget_of, survey
from conformance.selftest.fakes.correct_gelu_and_mul import CorrectGeluAndMul
from conformance.selftest.fakes.correct_silu_and_mul import CorrectSiluAndMul


class SiluOfBfloat16(CorrectSiluAndMul):
    """One dtype is taken, that of models."""

    def check(self, gate: torch.Tensor, up: torch.Tensor) -> None:
        """Decline all others."""
        if {gate.dtype, up.dtype} != {torch.bfloat16}:
            raise Declined("bfloat16 alone")


class GeluByTanh(CorrectGeluAndMul):
    """One formula is taken, that of most models."""

    def check(self, gate: torch.Tensor, up: torch.Tensor, approximate: str) -> None:
        """Decline the other one."""
        if approximate != "tanh":
            raise Declined("tanh alone")


@pytest.mark.parametrize("kind", [SiluOfBfloat16, GeluByTanh])
def test_a_survey_goes_outward_from_slices_of_a_projection(kind: type[SiluOfBfloat16 | GeluByTanh]) -> None:
    """It finds what is refused, and makes no call that cannot be made."""
    subject = Subject(kind())
    (operation,) = kind.operations
    found = survey(operation, lambda case: tried(subject, case), device="cpu", seed=0, budget=budget_of("quick"))
    levels = dict(found.taken.levels)

    assert levels.get("approximate", levels.get("dtype")) in {("tanh",), ("bfloat16",)}
    assert "slice" not in {level for chosen in levels.values() for level in chosen}
