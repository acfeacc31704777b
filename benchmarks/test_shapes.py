"""Workloads: enough of every operation, real cases, and bytes that follow from them."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.shapes import AUTOTUNED, IN_PLACE, Workload, moved, tokens_of, with_tokens, workloads
from conformance.cases.case import Case
from conformance.operations import OPERATIONS
from conformance.selftest.every import every
from normkernels.operations.operation import OPERATIONS as OURS

EVERY = {workload.name: workload for workload in workloads()}


def test_every_operation_is_timed_at_several_sizes() -> None:
    """The table has at least 44 rows, over all operations of the package, with unique names."""
    counts = Counter(workload.case.operation for workload in workloads())

    assert len(EVERY) == len(workloads()) >= 44
    assert {name.removesuffix("_") for name in OURS} == set(counts)
    assert min(counts.values()) >= 2


def test_a_case_survives_json() -> None:
    """A result's data of a workload gives its case again."""
    for workload in workloads():
        assert workload.case == Case.from_data(workload.case.to_data())


# counted by hand: x, gate and out with 2 bytes each; the weights add a few bytes
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("gated 60381x24x128", 60381 * 24 * 128 * 6 + 256),
        ("gemma+res 8192x5120", 8192 * 5120 * 8 + 10240),
        ("gemma 8192x5120", 8192 * 5120 * 4 + 10240),
        # 7168 values of one byte and 56 scales of four, plus x, residual and sum
        ("rms fp8+res 64x7168", 64 * (7168 * 7 + 56 * 4) + 7168 * 2),
        ("rms fp8+res columns 64x7168", 64 * (7168 * 7 + 56 * 4) + 7168 * 2),
        # three positions of eight bytes and 32 frequencies of cos and sin a token
        ("mrope 64x(24+4)x256", 64 * (28 * 256 * 4 + 24 + 128)),
        ("mrope in place 64x(24+4)x256", 64 * (28 * 64 * 4 + 24 + 128)),
        ("gated fp32 weight 64x32x128", 64 * 32 * 128 * 6 + 512),
    ],
)
def test_bytes_are_each_input_once_and_each_output_once(name: str, size: int) -> None:
    """The lower bound of a workload's time counts no byte twice, and none that need not move."""
    assert size == EVERY[name].bytes


def test_a_residual_that_is_x_itself_is_read_once() -> None:
    """Memory that is given twice counts once."""
    case = EVERY["gemma+res 16x5120"].case
    spec = case.tensor("residual")
    assert spec is not None
    twice = Case.from_data(case.to_data() | {"tensors": _same(case)})

    assert moved(case) - moved(twice) == 16 * 5120 * 2


def _same(case: Case) -> dict[str, dict[str, object]]:
    tensors: dict[str, dict[str, object]] = case.to_data()["tensors"]
    return tensors | {"residual": tensors["residual"] | {"layout": ["same", 0]}}


@every("name", EVERY)
def test_a_workload_has_fewer_tokens_too(name: str) -> None:
    """Every tensor with a row per token shrinks alike, and no other does."""
    case = EVERY[name].case
    small = with_tokens(case, 3)
    operation = OPERATIONS[case.operation]

    assert 3 == tokens_of(small)
    assert case == with_tokens(small, tokens_of(case))
    assert {n for n, s in case.tensors if s != small.tensor(n)} <= operation.row_tensors


def test_general_calls_stand_beside_the_same_bytes() -> None:
    """General calls are compared with calls of the plans for rows of 128, with the same bytes or nearly."""
    general = [workload for workload in workloads() if workload.beside]

    assert len(general) >= 10
    assert all(abs(workload.bytes / EVERY[workload.beside].bytes - 1) < 0.01 for workload in general)


def test_names_that_choose_workloads_are_names() -> None:
    """A renamed workload would lose its place at the front, or its autotuned peer."""
    from benchmarks import shapes

    assert set(EVERY) >= {*shapes._FIRST, *AUTOTUNED}
    assert list(shapes._FIRST) == list(EVERY)[: len(shapes._FIRST)]


def test_the_ceiling_is_the_pattern_of_the_formula() -> None:
    """A gate reads two tensors and writes one; a norm reads as much as it writes."""
    gated, norm = EVERY["gated 64x32x128"], EVERY["gemma+res 128x2560"]

    assert ("triad", "copy") == (gated.ceiling, norm.ceiling)


def test_in_place_moves_the_rotated_part_alone() -> None:
    """A quarter of each head is rotated, and the rest is not touched."""
    case = EVERY["mrope 8192x(24+4)x256"].case
    apart, in_place = Workload("", case).bytes, Workload("", case, IN_PLACE).bytes

    assert 3.8 < apart / in_place < 4.0
