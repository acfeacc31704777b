"""The one way our kernels sum a row: a tree of neighbours."""

import triton
import triton.language as tl


@triton.jit
def pairwise_sum(tile, LEVELS: tl.constexpr):  # tile [rows, 2**LEVELS] -> [rows, 1]
    """Sum the rows of ``tile`` by adding neighbours, then neighbours of those, ``LEVELS`` times.

    ``tl.sum`` over a whole row adds in an order that follows the layout, so its bits change with
    warps and rows per program. A sum of two has no order, so the bits of this tree depend on the
    row alone. Low neighbours lie in one thread: the first levels need no exchange.
    """
    for _level in tl.static_range(LEVELS):
        tile = tl.sum(tl.reshape(tile, [tile.shape[0], tile.shape[1] // 2, 2]), axis=2)
    return tile
