"""MRoPE, forward: the first ``2 * HALF`` columns of every head of q and k rotated, the rest copied or left alone.

A frequency takes its angle from the position on one of three axes. Arithmetic is fp32.
"""

import triton
import triton.language as tl

from normkernels.kernels.row_norm import widened
from normkernels.kernels.tiles import column_pointers, kernel

# bytes of q, and of k, that a thread loads before anything that waits: a quarter of its registers
AHEAD_BYTES = 256
_WARP = 32  # threads, or more


@triton.jit
def table_rows(
    table_ptr,  # [max_positions, HALF], any strides: cos or sin
    row_stride,
    col_stride,
    at,  # positions, int64: one, or [rows, 1]
    cols,  # [1, columns] int64
    mask,  # [rows, columns]
    ACCESS: tl.constexpr,
):
    """Return the rows of positions as they are, one for each row of the tile; NaN where masked."""
    pointers = column_pointers(table_ptr + at * row_stride, cols, col_stride, ACCESS)
    return tl.load(tl.broadcast_to(pointers, mask.shape), mask=mask, other=float("nan"))


@triton.jit
def angles(
    cos_ptr,  # [max_positions, HALF], any strides; sin likewise
    sin_ptr,
    cos_row_stride,
    cos_col_stride,
    sin_row_stride,
    sin_col_stride,
    t,  # positions, int64: one, or [rows, 1]; h and w likewise
    h,
    w,
    inside,  # whether all three are in the cache; one token's are, or this is not asked for
    t_section,
    h_section,
    w_section,
    AXES: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    ACCESS: tl.constexpr,
    HALF: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """Return cos and sin in fp32, column by column at the position on its axis; NaN where a position is outside.

    Each axis is loaded whole, for that is a few wide loads, and picking elements would be many narrow ones.
    """
    frequency = tl.arange(0, HALF_BLOCK)[None, :]
    exists = frequency < HALF
    if TOKENS > 1:
        exists = inside & exists
    mask = tl.broadcast_to(exists, (ROWS, HALF_BLOCK))
    cols = frequency.to(tl.int64)
    cos = table_rows(cos_ptr, cos_row_stride, cos_col_stride, t, cols, mask, ACCESS)
    sin = table_rows(sin_ptr, sin_row_stride, sin_col_stride, t, cols, mask, ACCESS)
    if AXES == 3:
        # of text all axes are one, and one is loaded
        apart = (t != h) | (t != w)
        if TOKENS > 1:
            apart = tl.max(apart.to(tl.int32)) != 0
        if apart:
            if INTERLEAVED:
                of_h = (frequency % 3 == 1) & (frequency < 3 * h_section)
                of_w = (frequency % 3 == 2) & (frequency < 3 * w_section)
            else:
                of_h = (frequency >= t_section) & (frequency < t_section + h_section)
                of_w = frequency >= t_section + h_section
            cos_h = table_rows(cos_ptr, cos_row_stride, cos_col_stride, h, cols, mask, ACCESS)
            cos_w = table_rows(cos_ptr, cos_row_stride, cos_col_stride, w, cols, mask, ACCESS)
            sin_h = table_rows(sin_ptr, sin_row_stride, sin_col_stride, h, cols, mask, ACCESS)
            sin_w = table_rows(sin_ptr, sin_row_stride, sin_col_stride, w, cols, mask, ACCESS)
            cos = tl.where(of_h, cos_h, tl.where(of_w, cos_w, cos))
            sin = tl.where(of_h, sin_h, tl.where(of_w, sin_w, sin))
    return widened(cos), widened(sin)


@triton.jit
def block_pointers(
    x_ptr,  # [n_tokens, n_heads, HEAD_DIM], any strides
    token_stride,
    head_stride,
    token,  # int64: one, or [rows, 1]
    head,  # [rows, 1] int64
):
    """Return pointers to the first column of heads."""
    # int64: token * stride and head * stride pass 2**31 on tensors that fit in memory
    return x_ptr + token * token_stride + head * head_stride


@triton.jit
def halves(
    x_ptr,  # [n_tokens, n_heads, HEAD_DIM], any strides
    x_token_stride,
    x_head_stride,
    x_col_stride,
    token,  # int64: one, or [rows, 1]
    head,  # [rows, 1] int64
    exists,  # [rows, 1]
    ACCESS: tl.constexpr,
    HALF: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
):
    """Return both halves of what is rotated of a block of heads, as they are."""
    cols = tl.arange(0, HALF_BLOCK)[None, :].to(tl.int64)
    mask = exists & (cols < HALF)
    x = block_pointers(x_ptr, x_token_stride, x_head_stride, token, head)
    x1 = tl.load(column_pointers(x, cols, x_col_stride, ACCESS), mask=mask, other=0.0)
    x2 = tl.load(column_pointers(x, HALF + cols, x_col_stride, ACCESS), mask=mask, other=0.0)
    return x1, x2


@triton.jit
def heads_of(block, token_exists, n_heads, TOKENS: tl.constexpr, HEADS: tl.constexpr):
    """Return the heads of a block, ``[rows, 1]`` int64, and whether they exist; there may be none that does."""
    head = block * HEADS + (tl.arange(0, TOKENS * HEADS) % HEADS)[:, None]
    return head, token_exists & (head < n_heads)


@triton.jit
def ahead(
    x_ptr,  # [n_tokens, n_heads, HEAD_DIM], any strides
    x_token_stride,
    x_head_stride,
    x_col_stride,
    token,  # int64: one, or [rows, 1]
    token_exists,
    n_heads,
    first,  # block; every ``num_programs(1)``-th from it on
    ACCESS: tl.constexpr,
    HALF: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    TOKENS: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """Return the halves of the first blocks of a program, of which some may have nothing that is loaded."""
    loaded = ()
    for place in tl.static_range(BLOCKS):
        block = first + place * tl.num_programs(1)
        head, exists = heads_of(block, token_exists, n_heads, TOKENS, HEADS)
        of_block = halves(
            x_ptr,
            x_token_stride,
            x_head_stride,
            x_col_stride,
            token,
            head,
            exists,
            ACCESS,
            HALF,
            HALF_BLOCK,
        )
        loaded += (of_block,)  # type: ignore[assignment]  # one that is a block longer
    return loaded


@triton.jit
def rotate_block(
    x_ptr,  # [n_tokens, n_heads, HEAD_DIM], any strides; out likewise, and may be x
    out_ptr,
    x_token_stride,
    x_head_stride,
    x_col_stride,
    out_token_stride,
    out_head_stride,
    out_col_stride,
    token,  # int64: one, or [rows, 1]
    head,  # [rows, 1] int64
    exists,  # [rows, 1]
    x1,  # [rows, columns]: the halves
    x2,
    cos,  # [rows, columns] fp32
    sin,
    IN_PLACE: tl.constexpr,
    ACCESS: tl.constexpr,
    HALF: tl.constexpr,
    REST: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    REST_BLOCK: tl.constexpr,
):
    """Rotate a block of heads whose halves are loaded, and copy the rest of them unless it is in place."""
    cols = tl.arange(0, HALF_BLOCK)[None, :].to(tl.int64)
    mask = exists & (cols < HALF)
    out = block_pointers(out_ptr, out_token_stride, out_head_stride, token, head)
    y1 = (widened(x1) * cos - widened(x2) * sin).to(out_ptr.dtype.element_ty)
    y2 = (widened(x2) * cos + widened(x1) * sin).to(out_ptr.dtype.element_ty)
    tl.store(column_pointers(out, cols, out_col_stride, ACCESS), y1, mask=mask)
    tl.store(column_pointers(out, HALF + cols, out_col_stride, ACCESS), y2, mask=mask)
    if REST > 0 and not IN_PLACE:
        rest = tl.arange(0, REST_BLOCK)[None, :].to(tl.int64)
        kept = exists & (rest < REST)
        x = block_pointers(x_ptr, x_token_stride, x_head_stride, token, head)
        x_rest = column_pointers(x, 2 * HALF + rest, x_col_stride, ACCESS)
        out_rest = column_pointers(out, 2 * HALF + rest, out_col_stride, ACCESS)
        # as it is: a conversion would change the bits of a NaN
        tl.store(out_rest, tl.load(x_rest, mask=kept, other=0.0), mask=kept)


@triton.jit
def rotate(
    x_ptr,  # [n_tokens, n_heads, HEAD_DIM], any strides; out likewise, and may be x
    out_ptr,
    x_token_stride,
    x_head_stride,
    x_col_stride,
    out_token_stride,
    out_head_stride,
    out_col_stride,
    token,  # int64: one, or [rows, 1]
    token_exists,
    loaded,  # the halves of the first blocks
    cos,  # [rows, columns] fp32
    sin,
    n_heads,
    first,  # the turn of this program among those that share a token
    IN_PLACE: tl.constexpr,
    ACCESS: tl.constexpr,
    HALF: tl.constexpr,
    REST: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    REST_BLOCK: tl.constexpr,
    TOKENS: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCKS: tl.constexpr,
    AHEAD: tl.constexpr,
):
    """Rotate every head whose turn it is. Both halves are loaded before either is stored: out may be x."""
    programs = tl.num_programs(1)
    for place in tl.static_range(min(BLOCKS, AHEAD)):
        block = first + place * programs
        # of programs that share a token some have a block less
        if block * HEADS < n_heads:
            head, exists = heads_of(block, token_exists, n_heads, TOKENS, HEADS)
            x1, x2 = loaded[place]
            rotate_block(
                x_ptr,
                out_ptr,
                x_token_stride,
                x_head_stride,
                x_col_stride,
                out_token_stride,
                out_head_stride,
                out_col_stride,
                token,
                head,
                exists,
                x1,
                x2,
                cos,
                sin,
                IN_PLACE,
                ACCESS,
                HALF,
                REST,
                HALF_BLOCK,
                REST_BLOCK,
            )
    if BLOCKS > AHEAD:
        for block in range(first + AHEAD * programs, tl.cdiv(n_heads, HEADS), programs):
            head, exists = heads_of(block, token_exists, n_heads, TOKENS, HEADS)
            x1, x2 = halves(
                x_ptr,
                x_token_stride,
                x_head_stride,
                x_col_stride,
                token,
                head,
                exists,
                ACCESS,
                HALF,
                HALF_BLOCK,
            )
            rotate_block(
                x_ptr,
                out_ptr,
                x_token_stride,
                x_head_stride,
                x_col_stride,
                out_token_stride,
                out_head_stride,
                out_col_stride,
                token,
                head,
                exists,
                x1,
                x2,
                cos,
                sin,
                IN_PLACE,
                ACCESS,
                HALF,
                REST,
                HALF_BLOCK,
                REST_BLOCK,
            )


@kernel
def mrope_kernel(
    q_ptr,  # [n_tokens, q_heads, HEAD_DIM], any strides; q_out likewise
    k_ptr,  # [n_tokens, k_heads, HEAD_DIM], any strides; k_out likewise
    positions_ptr,  # [AXES, n_tokens], any strides
    cos_ptr,  # [max_positions, HALF], any strides; sin likewise
    sin_ptr,
    q_out_ptr,
    k_out_ptr,
    q_token_stride,
    q_head_stride,
    q_col_stride,
    k_token_stride,
    k_head_stride,
    k_col_stride,
    axis_stride,
    position_stride,
    cos_row_stride,
    cos_col_stride,
    sin_row_stride,
    sin_col_stride,
    q_out_token_stride,
    q_out_head_stride,
    q_out_col_stride,
    k_out_token_stride,
    k_out_head_stride,
    k_out_col_stride,
    n_tokens,
    q_heads,
    k_heads,
    max_positions,
    t_section,
    h_section,
    w_section,
    AXES: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    IN_PLACE: tl.constexpr,
    ACCESS: tl.constexpr,
    HALF: tl.constexpr,
    REST: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    REST_BLOCK: tl.constexpr,
    TOKENS: tl.constexpr,
    HEADS: tl.constexpr,
    Q_BLOCKS: tl.constexpr,
    K_BLOCKS: tl.constexpr,
    AHEAD: tl.constexpr,
):
    """Rotate q and k of ``TOKENS`` tokens a program, ``HEADS`` heads at a time; cos and sin are loaded once.

    A row of a tile is one head of one token. Positions outside the cache make NaN, and nothing is loaded there.
    A program has at most ``Q_BLOCKS`` blocks of heads of q and ``K_BLOCKS`` of k, and loads the first ``AHEAD`` of
    each before anything that waits.
    """
    # int64: token * stride and position * stride pass 2**31 on tensors that fit in memory
    token = tl.program_id(0).to(tl.int64) * TOKENS
    token_exists = True
    if TOKENS > 1:
        token += (tl.arange(0, TOKENS * HEADS) // HEADS)[:, None]
        token_exists = token < n_tokens
    turn = tl.program_id(1).to(tl.int64)
    # from the other end: whoever has the fewest heads of q begins with those of k
    k_turn = tl.num_programs(1) - 1 - turn
    q_loaded = ahead(
        q_ptr,
        q_token_stride,
        q_head_stride,
        q_col_stride,
        token,
        token_exists,
        q_heads,
        turn,
        ACCESS,
        HALF,
        HALF_BLOCK,
        TOKENS,
        HEADS,
        min(Q_BLOCKS, AHEAD),
    )
    k_loaded = ahead(
        k_ptr,
        k_token_stride,
        k_head_stride,
        k_col_stride,
        token,
        token_exists,
        k_heads,
        k_turn,
        ACCESS,
        HALF,
        HALF_BLOCK,
        TOKENS,
        HEADS,
        min(K_BLOCKS, AHEAD),
    )

    at = positions_ptr + token * position_stride
    t = tl.load(at, mask=token_exists, other=0).to(tl.int64)
    h = t
    w = t
    if AXES == 3:
        h = tl.load(at + axis_stride, mask=token_exists, other=0).to(tl.int64)
        w = tl.load(at + axis_stride + axis_stride, mask=token_exists, other=0).to(tl.int64)
    # negative ones are large
    rows = max_positions.to(tl.uint64)
    inside = (t.to(tl.uint64) < rows) & (h.to(tl.uint64) < rows) & (w.to(tl.uint64) < rows)
    cos = tl.full((TOKENS * HEADS, HALF_BLOCK), float("nan"), tl.float32)
    sin = cos
    # for one token a branch, behind which the compiler does not move what heads load
    if TOKENS > 1 or inside:
        cos, sin = angles(
            cos_ptr,
            sin_ptr,
            cos_row_stride,
            cos_col_stride,
            sin_row_stride,
            sin_col_stride,
            t,
            h,
            w,
            inside,
            t_section,
            h_section,
            w_section,
            AXES,
            INTERLEAVED,
            ACCESS,
            HALF,
            HALF_BLOCK,
            TOKENS * HEADS,
            TOKENS,
        )

    if IN_PLACE:
        q_out_ptr, q_out_token_stride, q_out_head_stride, q_out_col_stride = (
            q_ptr,
            q_token_stride,
            q_head_stride,
            q_col_stride,
        )
        k_out_ptr, k_out_token_stride, k_out_head_stride, k_out_col_stride = (
            k_ptr,
            k_token_stride,
            k_head_stride,
            k_col_stride,
        )
    rotate(
        q_ptr,
        q_out_ptr,
        q_token_stride,
        q_head_stride,
        q_col_stride,
        q_out_token_stride,
        q_out_head_stride,
        q_out_col_stride,
        token,
        token_exists,
        q_loaded,
        cos,
        sin,
        q_heads,
        turn,
        IN_PLACE,
        ACCESS,
        HALF,
        REST,
        HALF_BLOCK,
        REST_BLOCK,
        TOKENS,
        HEADS,
        Q_BLOCKS,
        AHEAD,
    )
    rotate(
        k_ptr,
        k_out_ptr,
        k_token_stride,
        k_head_stride,
        k_col_stride,
        k_out_token_stride,
        k_out_head_stride,
        k_out_col_stride,
        token,
        token_exists,
        k_loaded,
        cos,
        sin,
        k_heads,
        k_turn,
        IN_PLACE,
        ACCESS,
        HALF,
        REST,
        HALF_BLOCK,
        REST_BLOCK,
        TOKENS,
        HEADS,
        K_BLOCKS,
        AHEAD,
    )
