"""Right implementations keep the promises that need several calls, so failures are a fake's own mistake."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from conformance.calls.call import Subject
from conformance.calls.verdict import BAD, Status
from conformance.cases.factors import DTYPES
from conformance.operations import OPERATIONS
from conformance.properties import PROPERTIES
from conformance.properties.state import CHANGES, with_new_parameters
from conformance.runs.host import faithful_interpreter
from conformance.runs.item import Item, cases_of, items, void_reason
from conformance.runs.judge import judge, judge_item, plainest, unjudged
from conformance.selftest.every import every
from conformance.selftest.fakes import right
from conformance.selftest.fakes.correct_rotation import CorrectRotation
from conformance.selftest.fakes.kernels import Kernel
from conformance.selftest.fakes.kernels_rows import TunedNorm

SEVERAL_CALLS = ("scale", "bias", "chain", "large_index", "state", "kept_results", "kept_choices", "threads")
CHOSEN = [(op, name) for op in OPERATIONS for name in SEVERAL_CALLS if not void_reason(op, name)]


@pytest.mark.parametrize(("operation", "name"), CHOSEN)
def test_a_right_implementation_passes(operation: str, name: str) -> None:
    """The quick profile finds no fault, and judges something wherever there is something to judge."""
    subject = Subject(right(operation)())
    chosen = items(subject, operations=(operation,), properties=(name,))
    (item,) = (item for item in chosen if item.dtype == "float16")
    statuses = [verdict.status for verdict in judge_item(item, subject)]

    assert set() == BAD & set(statuses)
    assert (Status.PASSED in statuses) != (unjudged(item, subject) is not None)


def test_a_kernel_without_constants_of_the_traffic_passes(request: pytest.FixtureRequest) -> None:
    """With row counts and eps at run time there are no more kernels than kinds of numbers."""
    device = request.config.getoption("device")
    assert device != "cpu" or not faithful_interpreter()
    subject = Subject(Kernel(), device)
    (item,) = items(subject, operations=Kernel.operations, properties=("variants",))[:1]

    assert {Status.PASSED} == {verdict.status for verdict in judge_item(item, subject)}


def test_kernels_that_are_tried_once_are_not_counted(request: pytest.FixtureRequest) -> None:
    """An autotuner tries all of its kernels in the first call of a width: no batch needs them later."""
    device = request.config.getoption("device")
    assert device != "cpu" or not faithful_interpreter()
    (item,) = items(Subject(TunedNorm(), device), operations=TunedNorm.operations, properties=("variants",))[:1]
    case = plainest(item, Subject(TunedNorm(), device))

    assert [Status.PASSED] == [verdict.status for verdict in judge(Subject(TunedNorm(), device), "variants", case)]


# a factor of the arguments of softmax changes all results, by no power of it; one of what is quantised is one of
# the scales, but for the floor under them
UNSCALED = {"softmax", "quantise_fp8"}


@every("operation", [name for name in OPERATIONS if name not in UNSCALED])
def test_every_operation_states_what_a_factor_makes_of_it(operation: str) -> None:
    """An operation without a relation of scales would never be judged by it."""
    scaling = OPERATIONS[operation].scaling

    assert scaling is not None
    assert scaling.arguments
    assert scaling.outputs


@every("operation", OPERATIONS)
@every("name", PROPERTIES)
def test_what_a_property_fixes_are_levels_of_the_operation(name: str, operation: str) -> None:
    """A factor without any of its fixed levels would have every level drawn."""
    factors = OPERATIONS[operation].factors
    wrong = {
        factor: levels
        for factor, levels in PROPERTIES[name].fixed(OPERATIONS[operation])
        if factor in factors and not set(levels) & set(factors[factor])
    }

    assert {} == wrong


@every("dtype", DTYPES)
def test_tables_are_cast_to_what_a_rotation_takes(dtype: str) -> None:
    """The tables have the dtype of q and of k, or float32."""
    (cast,) = (change for change in CHANGES if change.casts)
    for case in cases_of(Item("mrope", "state", dtype, "ci"), Subject(CorrectRotation())):
        dtypes = {name: spec.dtype for name, spec in with_new_parameters(case, cast).tensors}

        assert dtypes["cos"] == dtypes["sin"]
        assert dtypes["cos"] in {"float32", *({dtypes["q"]} & {dtypes["k"]})}


def test_a_call_that_no_change_leaves_inside_the_claim_is_not_judged() -> None:
    """A case from elsewhere need not be taken itself; then no second call is made."""

    class Narrow(CorrectRotation):
        """A rotation that claims three axes alone."""

        takes = MappingProxyType({"mrope": {"positions": "axes"}})

    subject = Subject(Narrow())
    text = next(
        case
        for case in cases_of(Item("mrope", "values", "bfloat16", "ci"), Subject(CorrectRotation()))
        if len(dict(case.tensors)["positions"].shape) == 1
    )
    (verdict,) = PROPERTIES["state"].judge(subject, text)

    assert (Status.NOT_JUDGED, "the call would not be taken after any change") == (verdict.status, verdict.reason)
