"""The suite notices every fake, which runs like any implementation until its first failed verdict."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from conformance.calls.call import Subject
from conformance.calls.verdict import BAD, Status, Verdict
from conformance.operations import OPERATIONS
from conformance.properties import PASSIVE, PROPERTIES
from conformance.runs.host import faithful_interpreter
from conformance.runs.item import Item, items
from conformance.runs.judge import judge_item
from conformance.selftest.fakes import FAKES, kernels
from conformance.selftest.fakes.correct import Correct
from conformance.selftest.fakes.correct_fp8 import CorrectFp8
from conformance.selftest.fakes.correct_norm import CorrectNorm
from conformance.selftest.fakes.correct_rotation import CorrectRotation
from conformance.selftest.fakes.kernels import Kernel


@pytest.fixture(name="kernel_device", scope="module")
def _kernel_device(request: pytest.FixtureRequest) -> str:
    """Return where Triton runs in this process: a GPU, or the CPU in a faithful interpreter."""
    device: str = request.config.getoption("device")
    if device == "cpu":
        unfaithful = faithful_interpreter()
        assert not unfaithful
    return device


Fake = type[Correct | CorrectNorm | CorrectRotation | CorrectFp8]
# every fake as every operation that it names
RUNS = [pytest.param(fake, name, id=f"{fake.__name__}-{name}") for fake in FAKES for name in fake.operations]
BASES = (Correct, Kernel, CorrectNorm, CorrectRotation, CorrectFp8)
RIGHT = [(base, name) for base in BASES for name in base.operations]


def _subject(kind: Fake, kernel_device: str) -> Subject:
    return Subject(kind(), kernel_device if kind.__module__ == kernels.__name__ else "cpu")


def _cheapest_first(subject: Subject, operation: str, claimed: tuple[str, ...]) -> list[Item]:
    """Return the quick profile's items, first those that the fake says catch it."""
    passive = set(claimed) & set(PASSIVE)
    order = [*claimed, *(("layout",) if passive else ()), *PROPERTIES]
    return sorted(items(subject, operations=(operation,)), key=lambda item: order.index(item.property))


def _failed(subject: Subject, chosen: list[Item]) -> Iterator[Verdict]:
    for item in chosen:
        yield from (verdict for verdict in judge_item(item, subject) if verdict.status in BAD)


@pytest.mark.parametrize(("fake", "operation"), RUNS)
def test_fake_is_caught(fake: Fake, operation: str, kernel_device: str) -> None:
    """The quick profile, with its own seeds and counts, catches the fake in a property that the fake names."""
    subject = _subject(fake, kernel_device)
    first = next(_failed(subject, _cheapest_first(subject, operation, fake.caught_by)), None)

    assert first is not None, f"nothing fails: {fake.__doc__}"
    assert first.property in fake.caught_by, str(first)


@pytest.mark.parametrize(("base", "operation"), RIGHT)
def test_base_of_the_fakes_is_right(base: Fake, operation: str, kernel_device: str) -> None:
    """Without its one mistake a fake passes, so every failure above is the mistake's."""
    subject = _subject(base, kernel_device)
    values = items(subject, operations=(operation,), properties=("values", "in_place"))
    cheap = [item for item in values if item.dtype == "float16"]
    verdicts = [verdict for item in cheap for verdict in judge_item(item, subject)]

    assert [] == [str(verdict) for verdict in verdicts if verdict.status in BAD]
    assert any(verdict.status is Status.PASSED for verdict in verdicts)


def test_fakes_make_one_mistake_each() -> None:
    """No fake is listed twice; each describes its mistake and names existing properties."""
    assert len(FAKES) == len(set(FAKES))
    assert len(FAKES) == len({fake.__doc__ for fake in FAKES})
    assert all(fake.caught_by and set(fake.caught_by) <= {*PROPERTIES, *PASSIVE} for fake in FAKES)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_has_fakes(operation: str) -> None:
    """At least fifteen mistakes are tried on every operation."""
    assert sum(operation in fake.operations for fake in FAKES) >= 15
