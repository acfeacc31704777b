"""The suite notices every fake, which runs like any implementation until its first failed verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache

import pytest

from conformance.calls.call import Subject
from conformance.calls.declared import Declared, check
from conformance.calls.verdict import BAD, Status, Verdict
from conformance.operations import OPERATIONS
from conformance.properties import PASSIVE, PROPERTIES
from conformance.runs.host import faithful_interpreter
from conformance.runs.item import Item, items
from conformance.runs.judge import judge_item
from conformance.selftest.contained import judging, survey_of
from conformance.selftest.fakes import CLASSES, FAKES, RIGHT, Fake, launches, right
from conformance.selftest.fakes.kernels import Kernel
from conformance.selftest.fakes.kernels_layers import KernelLayer
from conformance.selftest.fakes.kernels_rows import KernelNorm


@pytest.fixture(name="kernel_device", scope="module")
def _kernel_device(request: pytest.FixtureRequest) -> str:
    """Return where Triton runs in this process: a GPU, or the CPU in a faithful interpreter."""
    device: str = request.config.getoption("device")
    if device == "cpu":
        unfaithful = faithful_interpreter()
        assert not unfaithful
    return device


# How many fakes of an operation name each property first. Whoever adds or removes a fake changes its number.
NUMBER = 737
COUNTS = {
    "rms_norm_gated": {
        "compile": 10,
        "determinism": 2,
        "empty": 2,
        "errors": 5,
        "gradient": 2,
        "in_place": 4,
        "kept_choices": 1,
        "kept_results": 1,
        "large_index": 3,
        "layout": 9,
        "memory": 8,
        "metadata": 3,
        "parity": 1,
        "path": 5,
        "row_independence": 2,
        "scale": 1,
        "specials": 7,
        "state": 3,
        "state_left_behind": 1,
        "threads": 1,
        "values": 53,
        "variants": 2,
        "written": 4,
    },
    "rms_norm_fp8": {
        "determinism": 3,
        "empty": 2,
        "errors": 2,
        "in_place": 4,
        "large_index": 1,
        "layout": 1,
        "memory": 3,
        "metadata": 9,
        "row_independence": 2,
        "specials": 3,
        "values": 41,
        "written": 2,
    },
    "rms_norm_gated_fp8": {
        "determinism": 3,
        "empty": 1,
        "errors": 2,
        "memory": 2,
        "metadata": 9,
        "row_independence": 2,
        "specials": 3,
        "values": 38,
        "written": 2,
    },
    "rms_norm": {
        "chain": 2,
        "claim": 2,
        "determinism": 1,
        "device": 3,
        "empty": 3,
        "errors": 2,
        "given_outputs": 12,
        "gradient": 9,
        "in_place": 13,
        "kept_choices": 1,
        "kept_results": 2,
        "large_call": 1,
        "large_index": 6,
        "layout": 11,
        "memory": 7,
        "metadata": 8,
        "path": 3,
        "row_independence": 2,
        "scale": 1,
        "specials": 3,
        "state": 1,
        "stream": 1,
        "values": 60,
        "variants": 3,
        "written": 3,
    },
    "gemma_rms_norm": {
        "chain": 2,
        "claim": 2,
        "determinism": 1,
        "device": 3,
        "empty": 3,
        "errors": 2,
        "gradient": 9,
        "in_place": 13,
        "kept_choices": 1,
        "kept_results": 2,
        "large_call": 1,
        "large_index": 6,
        "layout": 11,
        "memory": 7,
        "metadata": 8,
        "path": 3,
        "row_independence": 2,
        "scale": 1,
        "specials": 3,
        "state": 1,
        "stream": 1,
        "values": 54,
        "variants": 3,
        "written": 3,
    },
    "mrope": {
        "copied": 3,
        "determinism": 1,
        "empty": 1,
        "errors": 4,
        "kept_choices": 1,
        "kept_results": 1,
        "large_index": 4,
        "layout": 7,
        "memory": 3,
        "metadata": 4,
        "row_independence": 2,
        "values": 41,
        "written": 3,
    },
    "layer_norm": {
        "batch_invariance": 1,
        "claim": 1,
        "empty": 1,
        "errors": 1,
        "in_place": 1,
        "large_index": 1,
        "layout": 4,
        "memory": 2,
        "metadata": 1,
        "specials": 1,
        "values": 28,
        "written": 2,
    },
    "silu_and_mul": {
        "errors": 1,
        "in_place": 1,
        "large_index": 1,
        "layout": 2,
        "memory": 1,
        "metadata": 2,
        "specials": 1,
        "values": 13,
    },
    "l2_norm": {
        "errors": 1,
        "in_place": 1,
        "large_index": 1,
        "layout": 1,
        "memory": 1,
        "metadata": 2,
        "specials": 1,
        "values": 18,
        "variants": 1,
    },
    "softmax": {
        "errors": 2,
        "in_place": 1,
        "large_index": 1,
        "layout": 1,
        "memory": 2,
        "metadata": 2,
        "specials": 4,
        "values": 36,
    },
    "rope": {
        "copied": 1,
        "empty": 1,
        "errors": 3,
        "in_place": 2,
        "layout": 6,
        "memory": 2,
        "metadata": 3,
        "state": 1,
        "values": 28,
        "written": 1,
    },
    "rms_norm_int8": {
        "errors": 1,
        "in_place": 1,
        "layout": 1,
        "metadata": 2,
        "row_independence": 1,
        "specials": 1,
        "values": 19,
    },
    "quantise_fp8": {
        "empty": 1,
        "errors": 1,
        "layout": 1,
        "memory": 1,
        "metadata": 2,
        "row_independence": 1,
        "specials": 2,
        "values": 13,
        "written": 1,
    },
    "gelu_and_mul": {
        "errors": 2,
        "in_place": 1,
        "layout": 2,
        "memory": 1,
        "metadata": 2,
        "specials": 1,
        "values": 18,
    },
    "qk_norm_rope": {
        "empty": 1,
        "errors": 4,
        "in_place": 2,
        "layout": 7,
        "memory": 3,
        "metadata": 2,
        "state": 2,
        "values": 54,
        "written": 1,
    },
}

# Classes that name nothing that catches them: bases of the fakes, and implementations that must pass.
OTHERS: dict[str, set[str]] = {
    "correct": {"Correct"},
    "correct_fp8": {"CorrectFp8", "Quantisation", "_GatedNorm", "_Norm"},
    "correct_gelu_and_mul": {
        "CorrectGeluAndMul",
        "GeluByAPolynomial",
        "GeluByASigmoid",
        "GeluInFloat64",
        "GeluWithoutCancelling",
    },
    "correct_int8_norm": {
        "CorrectInt8Norm",
        "Int8ByReciprocals",
        "Int8InFloat64",
        "Int8PastNan",
        "NormInRegisters",
    },
    "correct_l2_norm": {"CorrectL2Norm"},
    "correct_layer_norm": {"CorrectLayerNorm", "FusedLayerNorm", "RunningLayerNorm"},
    "correct_norm": {"CorrectNorm"},
    "correct_quantise_fp8": {
        "CorrectQuantiseFp8",
        "QuantisesByReciprocals",
        "QuantisesInFloat64",
        "QuantisesPastNan",
    },
    "correct_rope": {
        "CorrectRope",
        "EagerRope",
        "FusedRope",
        "GatheredRope",
        "LowRope",
        "ModelsRope",
        "Norm",
        "RopeInFloat64",
    },
    "correct_rotation": {"CorrectRotation", "EagerRotation", "FusedRotation", "LowRotation", "RotationInFloat64"},
    "correct_silu_and_mul": {"CorrectSiluAndMul"},
    "correct_softmax": {"CorrectSoftmax"},
    "dispatch": {"KernelOrNot"},
    "given_outputs": {"CorrectOutputs"},
    "gradients": {"CorrectGradients", "_Confused"},
    "kernels": {"Kernel"},
    "kernels_layers": {"KernelLayer"},
    "kernels_rows": {"KernelNorm", "TunedNorm"},
    "partial": {"Everything", "Half", "OneInFifty", "Pairs"},
    "quantisation": {
        "ExponentsIncremented",
        "IgnoresNan",
        "PowersOfTwo",
        "QuotientsInFloat64",
        "Reciprocals",
        "Unrounded",
    },
    "summation": {"Blocked", "InFloat64", "Pairwise", "Serial"},
    "refusals": {"_Refuses"},
}

# every fake as every operation that it names
RUNS = [pytest.param(fake, name, id=f"{fake.__name__}-{name}") for fake in FAKES for name in fake.operations]
IN_KERNELS = (Kernel, KernelNorm, KernelLayer)
BASES = [*((base, name) for name, base in RIGHT.items()), *((kind, kind.operations[0]) for kind in IN_KERNELS)]


def _subject(kind: Fake, kernel_device: str) -> Subject:
    fake = kind()
    return Subject(fake, kernel_device if launches(kind) else "cpu", known=Declared.of(fake))


@cache
def _items(operation: str) -> tuple[Item, ...]:
    """Return the quick profile's items, of every fake of an operation the same."""
    return items(Subject(right(operation)()), operations=(operation,))


def _cheapest_first(operation: str, claimed: tuple[str, ...]) -> list[Item]:
    """Return the quick profile's items, first those that the fake says catch it."""
    passive = set(claimed) & set(PASSIVE)
    order = [*claimed, *(("layout",) if passive else ()), *PROPERTIES]
    return sorted(_items(operation), key=lambda item: order.index(item.property))


def _failed(subject: Subject, chosen: list[Item]) -> Iterator[Verdict]:
    operation = chosen[0].operation
    found = survey_of(subject, operation, right(operation)())
    with judging(subject) as ask:
        for item in chosen:
            verdicts = judge_item(item, subject, ask, found=found)
            yield from (verdict for verdict in verdicts if verdict.status in BAD)


@pytest.mark.parametrize(("fake", "operation"), RUNS)
def test_fake_is_caught(fake: Fake, operation: str, kernel_device: str) -> None:
    """The quick profile, with its own seeds and counts, catches the fake in a property that the fake names."""
    subject = _subject(fake, kernel_device)
    only_there = getattr(fake, "gpu", "")
    if only_there and subject.device == "cpu":
        pytest.skip(f"not judged: {only_there}")
    if getattr(fake, "ends_its_process", False) and kernel_device != "cpu":
        pytest.skip(
            "not judged: a fault would end this process, which holds the GPU; with --device cpu it is judged"
        )
    first = next(_failed(subject, _cheapest_first(operation, fake.caught_by)), None)

    assert first is not None, f"nothing fails: {fake.__doc__}"
    assert first.property in fake.caught_by, str(first)


@pytest.mark.parametrize(("base", "operation"), BASES)
def test_base_of_the_fakes_is_right(base: Fake, operation: str, kernel_device: str) -> None:
    """Without its one mistake a fake passes, so every failure above is the mistake's."""
    subject = _subject(base, kernel_device)
    values = items(subject, operations=(operation,), properties=("values", "in_place"))
    cheap = [item for item in values if item.dtype == "float16"]
    verdicts = [verdict for item in cheap for verdict in judge_item(item, subject)]

    assert [] == [str(verdict) for verdict in verdicts if verdict.status in BAD]
    assert any(verdict.status is Status.PASSED for verdict in verdicts)


def test_fakes_make_one_mistake_each() -> None:
    """No fake stands twice in its module; each describes its mistake and names existing properties."""
    assert len(FAKES) == len(set(FAKES))
    assert len(FAKES) == len({fake.__doc__ for fake in FAKES})
    assert all(fake.caught_by and set(fake.caught_by) <= {*PROPERTIES, *PASSIVE} for fake in FAKES)


def test_a_run_would_take_every_fake() -> None:
    """Contracts and claims are words that a run knows: otherwise it would end before the first call."""
    for fake in FAKES:
        check(fake(), fake.operations)


def test_no_fake_is_lost_unnoticed() -> None:
    """There are as many fakes, of each operation and for each property, as the table says."""
    found = {
        operation: Counter(f.caught_by[0] for f in FAKES if operation in f.operations) for operation in COUNTS
    }

    assert found == COUNTS
    assert len(FAKES) == NUMBER


def test_every_class_is_a_fake_or_right_on_purpose() -> None:
    """A class that forgets to name what catches it would otherwise be tried by nothing."""
    silent: dict[str, set[str]] = {}
    for kind in set(CLASSES) - set(FAKES):
        silent.setdefault(kind.__module__.rpartition(".")[2], set()).add(kind.__name__)

    assert silent == OTHERS


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_has_fakes(operation: str) -> None:
    """At least fifteen mistakes are tried on every operation."""
    count = sum(operation in fake.operations for fake in FAKES)

    assert count >= 15, (
        f"{operation} has {count} fakes, must have 15: write more classes with caught_by in a module of "
        f"conformance/selftest/fakes"
    )
