"""One row of more than 2**32 columns: no offset within a row has 32 bits. A GPU has the memory, and the time."""

from __future__ import annotations

import pytest
import torch

from conformance.package.calls.operations import call, run
from conformance.package.calls.tensors import DEVICE, values

# no multiple of it is a power of two: an offset without its high bits finds other columns
GROUP, PERIOD = 128, 384
TIMES = 2**32 // PERIOD + 2
NEEDED = 40 * 2**30  # bytes


@pytest.mark.parametrize("operation", ["rms_norm_gated", "rms_norm_gated_fp8"])
def test_the_last_groups_of_a_row_have_their_own_weights(operation: str) -> None:
    """Columns repeat, and so do the results."""
    if DEVICE == "cpu" or torch.cuda.mem_get_info()[0] < NEEDED:
        pytest.skip(f"needs a GPU with {NEEDED >> 30} GiB free")
    x, weight = (values(name, PERIOD, dtype=torch.bfloat16) for name in ("x", "weight"))
    fp8 = {"quant_group": GROUP} if operation.endswith("fp8") else {}
    few = call(operation, x=x[None], weight=weight, gate=None, group_size=GROUP, **fp8)
    many = few | {"x": x.repeat(TIMES)[None], "weight": weight.repeat(TIMES)}

    for got, want in zip(run(operation, many), run(operation, few), strict=True):
        tiles, tile = (each.view(torch.uint8).view(-1, each.element_size() * want.numel()) for each in (got, want))
        assert len(tiles) == TIMES
        assert all(bool((part == tile).all()) for part in torch.split(tiles, 2**20))
