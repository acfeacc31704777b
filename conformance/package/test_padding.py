"""Padding of a row, a group or a block is not read, and shows in no result."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import normkernels
from conformance.calls.memory import POISONS, Owner
from conformance.cases.case import Placement
from conformance.package.calls import fp8, rms_norm
from conformance.package.calls.operations import run
from conformance.package.calls.tensors import DEVICE, Arguments, values
from conformance.selftest.every import every

NORM, GATED = fp8.OPERATIONS
# Columns of a row and of a quant group: all small ones, and groups that are padded in a row of several.
GROUPS = [*((n, group) for n in range(1, 7) for group in range(1, n + 1)), (12, 6), (12, 5)]
# Those, and the columns of a norm group.
SIZES = [
    *((NORM, n, n, group) for n, group in GROUPS),
    *((GATED, n, width, group) for n, group in GROUPS for width in range(1, n + 1) if n % width == 0),
]


def exact(operation: str, n: int, width: int, group: int) -> Arguments:
    """Return a call of exact results: rows of x are ones of both signs, or so small that 1 / rms is infinite.

    Beyond the row and its weights there are larger ones.
    """
    x = torch.tensor([1.0, -1.0] * 8, device=DEVICE).repeat(4, 1)
    x[1:3] *= 1e-30
    x[:, n:] *= 4.0
    weight = torch.arange(1.0, 17.0, device=DEVICE)
    given: Arguments = {"x": x[:, :n], "weight": weight[:n], "eps": 0.0, "quant_group": group}
    given |= {"fp8_dtype": fp8.TYPES[0], "also_unquantised": True}
    return given | ({"gate": None, "group_size": width} if operation == GATED else {})


@every(("operation", "n", "width", "group"), SIZES)
def test_groups_of_all_sizes_are_quantised_alone(operation: str, n: int, width: int, group: int) -> None:
    """If 1 / rms is infinite, the padding of a block would be 0 * inf, and no scale is NaN."""
    arguments = exact(operation, n, width, group)
    got, scales, y = run(operation, arguments)
    wanted = run(operation, arguments | {"path": "native"})[2]

    # on a GPU a division of ones may be off by one
    assert torch.allclose(wanted, y, rtol=1e-6, atol=0.0)
    assert y[1:3].isinf().all()
    for want, have in zip(fp8.quantised(y, group, arguments["fp8_dtype"]), (got, scales), strict=True):
        assert np.array_equal(want, fp8.numbers(have), equal_nan=True)


@pytest.mark.parametrize(
    ("rows", "columns", "reads"), [(3, 6160, "as needed"), (8, 1008, "together"), (4, 6160, "twice")]
)
def test_weights_are_read_to_their_end(rows: int, columns: int, reads: str) -> None:
    """On a CPU what is beyond cannot be read. However rows are read, so are weights."""
    room = Owner.of(4 * columns, DEVICE, POISONS[0])
    weight = room.view((columns,), torch.float32, Placement((1,), 0, columns))
    arguments = rms_norm.added(rows, columns) | {"weight": weight.copy_(values("weight", columns))}
    plan = normkernels.explain("rms_norm", **arguments).plan

    assert plan is not None
    assert DEVICE != "cpu" or reads == plan.reads
    rms_norm.assert_right("rms_norm", arguments, run("rms_norm", arguments))
