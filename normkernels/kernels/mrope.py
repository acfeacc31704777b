"""MRoPE, forward: the first ``2 * HALF`` columns of every head of q and k rotated, the rest copied or left alone.

Each frequency takes its angle from the position on one of three axes. Arithmetic is fp32.
"""

from collections import namedtuple

import triton
import triton.language as tl

from normkernels.kernels.row_norm import widened
from normkernels.kernels.tiles import column_pointers, kernel

# A tensor [n_tokens, n_heads, HEAD_DIM] of any strides.
Heads = namedtuple("Heads", ("ptr", "token_stride", "head_stride", "col_stride", "n_heads"))
# A table [max_positions, HALF] of any strides: cos or sin.
Table = namedtuple("Table", ("ptr", "row_stride", "col_stride"))
# The rows of a tile, each one head of one token: token, int64, one or [rows, 1]; head and exists [rows, 1].
Rows = namedtuple("Rows", ("token", "head", "exists"))
# The constexprs of a tile: HALF columns of each half, then COPIED columns, both padded to blocks.
HeadTile = namedtuple("HeadTile", ("ACCESS", "HALF", "HALF_BLOCK", "COPIED", "COPIED_BLOCK", "TOKENS", "HEADS"))


@triton.jit
def table_rows(table, position, cols, mask, ACCESS: tl.constexpr):
    """Return the table's row at the position of each row of the tile, in the table's dtype; NaN where masked.

    ``position`` is int64, one or [rows, 1]; ``cols`` is [1, columns] int64.
    """
    pointers = column_pointers(table.ptr + position * table.row_stride, cols, table.col_stride, ACCESS)
    return tl.load(tl.broadcast_to(pointers, mask.shape), mask=mask, other=float("nan"))


@triton.jit
def angles(
    cos_table, sin_table, positions, inside, sections,
    AXES: tl.constexpr, INTERLEAVED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Return cos and sin in fp32, each column at the position on its axis; NaN where a position is outside.

    ``positions`` and ``sections`` are (t, h, w): int64, one each, or [rows, 1]. ``inside`` says whether all three
    are in the cache; it is unused for one token, whose positions are. Each axis is loaded whole, because that
    takes a few wide loads. To load only the elements used would take many narrow loads.
    """
    t, h, w = positions
    t_section, h_section, w_section = sections
    frequency = tl.arange(0, TILE.HALF_BLOCK)[None, :]
    exists = frequency < TILE.HALF
    if TILE.TOKENS > 1:
        exists = inside & exists
    mask = tl.broadcast_to(exists, (TILE.TOKENS * TILE.HEADS, TILE.HALF_BLOCK))
    cols = frequency.to(tl.int64)
    cos = table_rows(cos_table, t, cols, mask, TILE.ACCESS)
    sin = table_rows(sin_table, t, cols, mask, TILE.ACCESS)
    if AXES == 3:
        # the three positions of text are equal, and one is loaded
        apart = (t != h) | (t != w)
        if TILE.TOKENS > 1:
            apart = tl.max(apart.to(tl.int32)) != 0
        if apart:
            if INTERLEAVED:
                on_h = (frequency % 3 == 1) & (frequency < 3 * h_section)
                on_w = (frequency % 3 == 2) & (frequency < 3 * w_section)
            else:
                on_h = (frequency >= t_section) & (frequency < t_section + h_section)
                on_w = frequency >= t_section + h_section
            cos_h = table_rows(cos_table, h, cols, mask, TILE.ACCESS)
            cos_w = table_rows(cos_table, w, cols, mask, TILE.ACCESS)
            sin_h = table_rows(sin_table, h, cols, mask, TILE.ACCESS)
            sin_w = table_rows(sin_table, w, cols, mask, TILE.ACCESS)
            cos = tl.where(on_h, cos_h, tl.where(on_w, cos_w, cos))
            sin = tl.where(on_h, sin_h, tl.where(on_w, sin_w, sin))
    return widened(cos), widened(sin)


@triton.jit
def block_rows(x, token, token_exists, block, TILE: tl.constexpr):
    """Return the rows of a block of heads; possibly none of its heads exists."""
    head = block * TILE.HEADS + (tl.arange(0, TILE.TOKENS * TILE.HEADS) % TILE.HEADS)[:, None]
    return Rows(token, head, token_exists & (head < x.n_heads))


@triton.jit
def row_pointers(x, rows):
    """Return pointers to the first column of heads."""
    # int64: token * stride and head * stride pass 2**31 on tensors that fit in memory
    return x.ptr + rows.token * x.token_stride + rows.head * x.head_stride


@triton.jit
def halves(x, rows, TILE: tl.constexpr):
    """Return both halves of the rotated columns of a block of heads, in their own dtype."""
    cols = tl.arange(0, TILE.HALF_BLOCK)[None, :].to(tl.int64)
    mask = rows.exists & (cols < TILE.HALF)
    ptr = row_pointers(x, rows)
    x1 = tl.load(column_pointers(ptr, cols, x.col_stride, TILE.ACCESS), mask=mask, other=0.0)
    x2 = tl.load(column_pointers(ptr, TILE.HALF + cols, x.col_stride, TILE.ACCESS), mask=mask, other=0.0)
    return x1, x2


@triton.jit
def prefetch(x, token, token_exists, first, TILE: tl.constexpr, BLOCKS: tl.constexpr):
    """Return the halves of ``BLOCKS`` blocks of a program: ``first`` and every ``num_programs(1)``-th after it.

    Blocks without any heads load nothing.
    """
    loaded = ()
    for place in tl.static_range(BLOCKS):
        rows = block_rows(x, token, token_exists, first + place * tl.num_programs(1), TILE)
        loaded += (halves(x, rows, TILE),)  # type: ignore[assignment]  # one that is a block longer
    return loaded


@triton.jit
def rotate_block(x, out, rows, loaded, cos, sin, TILE: tl.constexpr):
    """Rotate a block of heads whose halves are loaded, and copy the ``COPIED`` columns after them."""
    x1, x2 = loaded
    cols = tl.arange(0, TILE.HALF_BLOCK)[None, :].to(tl.int64)
    mask = rows.exists & (cols < TILE.HALF)
    ptr = row_pointers(out, rows)
    y1 = (widened(x1) * cos - widened(x2) * sin).to(out.ptr.dtype.element_ty)
    y2 = (widened(x2) * cos + widened(x1) * sin).to(out.ptr.dtype.element_ty)
    tl.store(column_pointers(ptr, cols, out.col_stride, TILE.ACCESS), y1, mask=mask)
    tl.store(column_pointers(ptr, TILE.HALF + cols, out.col_stride, TILE.ACCESS), y2, mask=mask)
    if TILE.COPIED > 0:
        rest = tl.arange(0, TILE.COPIED_BLOCK)[None, :].to(tl.int64)
        kept = rows.exists & (rest < TILE.COPIED)
        x_rest = column_pointers(row_pointers(x, rows), 2 * TILE.HALF + rest, x.col_stride, TILE.ACCESS)
        out_rest = column_pointers(ptr, 2 * TILE.HALF + rest, out.col_stride, TILE.ACCESS)
        # in its own dtype: a conversion would change the bits of a NaN
        tl.store(out_rest, tl.load(x_rest, mask=kept, other=0.0), mask=kept)


@triton.jit
def rotate(x, out, token, token_exists, first, loaded, cos, sin, TILE: tl.constexpr, BLOCKS: tl.constexpr):
    """Rotate every head of this program; ``loaded`` has the halves of its first blocks, beginning with ``first``.

    Both halves are loaded before either is stored: out may be x.
    """
    programs = tl.num_programs(1)
    for place in tl.static_range(len(loaded)):
        block = first + place * programs
        # some of the programs that share a token have one block less
        if block * TILE.HEADS < x.n_heads:
            rows = block_rows(x, token, token_exists, block, TILE)
            rotate_block(x, out, rows, loaded[place], cos, sin, TILE)
    if BLOCKS > len(loaded):
        for block in range(first + len(loaded) * programs, tl.cdiv(x.n_heads, TILE.HEADS), programs):
            rows = block_rows(x, token, token_exists, block, TILE)
            rotate_block(x, out, rows, halves(x, rows, TILE), cos, sin, TILE)


@kernel
def mrope_kernel(
    q_ptr,  # [n_tokens, q_heads, HEAD_DIM], any strides; q_out likewise
    k_ptr,  # [n_tokens, k_heads, HEAD_DIM], any strides; k_out likewise
    positions_ptr,  # [AXES, n_tokens], any strides
    cos_ptr,  # [max_positions, HALF], any strides; sin likewise
    sin_ptr, q_out_ptr, k_out_ptr, n_tokens, axis_stride, position_stride, q_token_stride, q_head_stride,
    q_col_stride, k_token_stride, k_head_stride, k_col_stride, cos_row_stride, cos_col_stride, sin_row_stride,
    sin_col_stride, q_out_token_stride, q_out_head_stride, q_out_col_stride, k_out_token_stride,
    k_out_head_stride, k_out_col_stride, q_heads, k_heads, max_positions, t_section, h_section, w_section,
    AXES: tl.constexpr, INTERLEAVED: tl.constexpr, IN_PLACE: tl.constexpr, ACCESS: tl.constexpr,
    HALF: tl.constexpr, REST: tl.constexpr, HALF_BLOCK: tl.constexpr, REST_BLOCK: tl.constexpr,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, Q_BLOCKS: tl.constexpr, K_BLOCKS: tl.constexpr,
    AHEAD: tl.constexpr,
):  # fmt: skip
    """Rotate q and k of ``TOKENS`` tokens a program, ``HEADS`` heads at a time; cos and sin are loaded once.

    A row of a tile is one head of one token. Positions outside the cache give NaN, and load nothing. A program has
    at most ``Q_BLOCKS`` blocks of heads of q and ``K_BLOCKS`` of k, and loads the first ``AHEAD`` of each before
    anything that waits.
    """
    TILE: tl.constexpr = HeadTile(ACCESS, HALF, HALF_BLOCK, 0 if IN_PLACE else REST, REST_BLOCK, TOKENS, HEADS)
    q = Heads(q_ptr, q_token_stride, q_head_stride, q_col_stride, q_heads)
    k = Heads(k_ptr, k_token_stride, k_head_stride, k_col_stride, k_heads)
    q_out = Heads(q_out_ptr, q_out_token_stride, q_out_head_stride, q_out_col_stride, q_heads)
    k_out = Heads(k_out_ptr, k_out_token_stride, k_out_head_stride, k_out_col_stride, k_heads)
    if IN_PLACE:
        q_out, k_out = q, k
    # int64: token * stride and position * stride pass 2**31 on tensors that fit in memory
    token = tl.program_id(0).to(tl.int64) * TOKENS
    exists = True
    if TOKENS > 1:
        token += (tl.arange(0, TOKENS * HEADS) // HEADS)[:, None]
        exists = token < n_tokens
    turn = tl.program_id(1).to(tl.int64)
    # in reverse: the programs with the fewest heads of q begin with the heads of k
    k_turn = tl.num_programs(1) - 1 - turn
    q_loaded = prefetch(q, token, exists, turn, TILE, min(Q_BLOCKS, AHEAD))
    k_loaded = prefetch(k, token, exists, k_turn, TILE, min(K_BLOCKS, AHEAD))

    t_at = positions_ptr + token * position_stride
    t = tl.load(t_at, mask=exists, other=0).to(tl.int64)
    h = t
    w = t
    if AXES == 3:
        h = tl.load(t_at + axis_stride, mask=exists, other=0).to(tl.int64)
        w = tl.load(t_at + axis_stride + axis_stride, mask=exists, other=0).to(tl.int64)
    # unsigned: negative positions are large
    max_rows = max_positions.to(tl.uint64)
    inside = (t.to(tl.uint64) < max_rows) & (h.to(tl.uint64) < max_rows) & (w.to(tl.uint64) < max_rows)
    cos = tl.full((TOKENS * HEADS, HALF_BLOCK), float("nan"), tl.float32)
    sin = cos
    # a branch for one token: the compiler does not move the loads of heads behind it
    if TOKENS > 1 or inside:
        cos_table = Table(cos_ptr, cos_row_stride, cos_col_stride)
        sin_table = Table(sin_ptr, sin_row_stride, sin_col_stride)
        sections = (t_section, h_section, w_section)
        cos, sin = angles(cos_table, sin_table, (t, h, w), inside, sections, AXES, INTERLEAVED, TILE)

    rotate(q, q_out, token, exists, turn, q_loaded, cos, sin, TILE, Q_BLOCKS)
    rotate(k, k_out, token, exists, k_turn, k_loaded, cos, sin, TILE, K_BLOCKS)
