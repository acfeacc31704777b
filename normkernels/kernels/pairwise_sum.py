"""The one way our kernels sum a row: a tree of neighbours."""

import triton
import triton.language as tl

# Levels that need nothing from another warp: 32 threads have four elements each of the widest type, or more.
WARP_LEVELS = tl.constexpr(7)


@triton.jit
def pairwise_sum(tile, LEVELS: tl.constexpr):  # tile [rows, 2**LEVELS] -> [rows, 1]
    """Sum the rows of ``tile`` by adding neighbours, then neighbours of those, ``LEVELS`` times.

    ``tl.sum`` over a whole row adds in an order that follows the layout, so its bits change with
    warps and rows per program. A sum of two has no order, so the bits of this tree depend on the
    row alone. Low neighbours lie in one thread: the first levels need no exchange.
    """
    # one row, wider than the 256 elements of a warp that loads 16 bytes a thread
    ACROSS: tl.constexpr = tile.shape[0] == 1 and LEVELS > WARP_LEVELS + 1
    for level in tl.static_range(LEVELS):
        if ACROSS and level == WARP_LEVELS:
            tile = held_by_each_warp(tile)
        tile = tl.sum(tl.reshape(tile, [tile.shape[0], tile.shape[1] // 2, 2]), axis=2)
    if ACROSS:
        # through a scalar: Triton would lay out the row's elements like its parts
        tile = tl.full([1, 1], tl.sum(tile), tl.float32)
    return tile


@triton.jit
def held_by_each_warp(tile):  # [1, columns] -> the same
    """Return ``tile`` as it is, laid out anew: with a few columns, each warp has all of them.

    Warps that then add for themselves wait once for each other, and not at every level. A gather of every column
    is the one copy that Triton does not lay out like what it copies.
    """
    cols = tl.arange(0, tile.shape[1])[None, :]
    return tl.gather(tile, cols, axis=1)
