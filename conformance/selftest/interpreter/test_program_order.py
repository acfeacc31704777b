"""Programs of an interpreted launch run in either order, as a GPU promises none."""

# Triton compiles the kernel; its arguments have no Python types.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import pytest
import torch
import triton
import triton.language as tl

from conformance.calls.watch import watched
from conformance.selftest.every import every


@triton.jit
def last_program_kernel(out_ptr, n_programs):
    """Write the number of the program where all programs write, and where this one alone does."""
    program = tl.program_id(0) + tl.num_programs(0) * tl.program_id(1)
    tl.store(out_ptr, program)
    tl.store(out_ptr + 1 + program, program)


@every(("backwards", "last"), [(False, 5), (True, 0)])
def test_the_last_program_to_run(request: pytest.FixtureRequest, backwards: bool, last: int) -> None:  # noqa: FBT001
    """Backwards the first program writes last; every program runs once in both orders."""
    if request.config.getoption("device") != "cpu":
        pytest.skip("a GPU chooses its own order")
    out = torch.full((7,), -1, dtype=torch.int32)
    with watched("cpu", 0, backwards=backwards):
        last_program_kernel[(3, 2)](out, 6)

    assert [last, 0, 1, 2, 3, 4, 5] == out.tolist()
