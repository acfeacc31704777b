"""Calls of MRoPE for the package's own tests, their expected results, and one comparison."""

from __future__ import annotations

import torch

import normkernels
from conformance.package.calls.tensors import DEVICE, Arguments, values

# Rows of the cache: three classes of 17, so that no token has one position on two axes.
MAX_POSITIONS = 51
SECTIONS = {16: (6, 5, 5), 32: (11, 11, 10), 64: (24, 20, 20)}

Rotated = tuple[torch.Tensor, torch.Tensor]


def positions(tokens: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    """Return positions whose three axes differ for every token."""
    token = torch.arange(tokens)
    axes = ((a * token + b) % 17 * 3 + c for a, b, c in ((5, 1, 0), (7, 2, 1), (11, 3, 2)))
    return torch.stack(tuple(axes)).to(dtype).to(DEVICE)


def call(
    tokens: int = 5,
    heads: tuple[int, int] = (6, 2),
    head_dim: int = 64,
    half: int = 16,
    /,
    dtype: torch.dtype = torch.float32,
    **changes: object,
) -> Arguments:
    """Return the arguments of a call that the kernel takes, with ``changes``."""
    plain: Arguments = {
        "q": values("q", tokens, heads[0], head_dim, dtype=dtype),
        "k": values("k", tokens, heads[1], head_dim, dtype=dtype),
        "positions": positions(tokens),
        "cos": values("cos", MAX_POSITIONS, half, dtype=dtype),
        "sin": values("sin", MAX_POSITIONS, half, dtype=dtype),
        "sections": SECTIONS.get(half, (half, 0, 0)),
    }
    return plain | changes


def flat(arguments: Arguments) -> Arguments:
    """Return the same call with two-dimensional q and k."""
    q, k = arguments["q"], arguments["k"]
    return arguments | {"q": q.flatten(1), "k": k.flatten(1), "head_dim": q.shape[-1]}


def views_of_one_buffer(arguments: Arguments) -> Arguments:
    """Return the same call with q and k as views of one projection, whose values v are NaN."""
    q, k = arguments["q"], arguments["k"]
    nan = torch.full((q.shape[0], 2 * q.shape[-1]), torch.nan, dtype=q.dtype, device=DEVICE)
    buffer = torch.cat([q.flatten(1), k.flatten(1), nan], 1)
    q_width, k_width = q[0].numel(), k[0].numel()
    views = buffer[:, :q_width], buffer[:, q_width : q_width + k_width]
    q, k = (view.view(like.shape) for view, like in zip(views, (q, k), strict=True))
    return arguments | {"q": q, "k": k}


def run(arguments: Arguments, operation: str = "mrope") -> Rotated:
    """Make the call."""
    rotated: Rotated = getattr(normkernels, operation)(**arguments)
    return rotated


def explain(arguments: Arguments, operation: str = "mrope") -> normkernels.Decision:
    """Return the decision on the call."""
    return normkernels.explain(operation, **arguments)


def axis(frequency: int, sections: tuple[int, int, int], *, interleaved: bool) -> int:
    """Return which of the axes t, h and w a frequency reads."""
    t, h, w = sections
    if not interleaved:
        return 0 if frequency < t else 1 if frequency < t + h else 2
    if frequency % 3 == 1 and frequency < 3 * h:
        return 1
    if frequency % 3 == 2 and frequency < 3 * w:
        return 2
    return 0


def products(arguments: Arguments, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the two products, in float64, whose sum is each rotated element: (tokens, heads, rotary_dim)."""
    x, at, tables = arguments[name], arguments["positions"], (arguments["cos"], arguments["sin"])
    x = x.detach().double()
    if x.dim() == 2:
        x = x.view(x.shape[0], x.shape[1] // arguments["head_dim"], arguments["head_dim"])
    half = tables[0].shape[1]
    interleaved = arguments.get("interleaved", True)
    axes = [axis(i, arguments["sections"], interleaved=interleaved) for i in range(half)]
    # outside the cache there is nothing to read: assert_right checks the NaN that must be there instead
    at = (at if at.dim() == 2 else torch.stack([at] * 3)).clamp(0, len(tables[0]) - 1)
    frequency = torch.arange(half, device=DEVICE)
    rows = at.long()[torch.tensor(axes, dtype=torch.long, device=DEVICE)].t()
    cos, sin = (table.detach().double()[rows, frequency][:, None] for table in tables)
    x1, x2 = x[..., :half], x[..., half : 2 * half]
    return torch.cat([x1 * cos, x2 * cos], -1), torch.cat([-x2 * sin, x1 * sin], -1)


def assert_right(arguments: Arguments, results: Rotated, *, in_place: bool = False) -> None:
    """Check results against the contract: fp32, rounded once where rotated; the same bits elsewhere.

    Each product is rounded, and their sum; the store rounds that result, and rounding keeps order. What is
    rotated of a token with a position outside the cache, which only a GPU lets through, is NaN.
    """
    at, rows = arguments["positions"], len(arguments["cos"])
    inside = ((at >= 0) & (at < rows)).reshape(-1, at.shape[-1]).all(0)
    for name, result in zip(("q", "k"), results, strict=True):
        x, half = arguments[name], arguments["cos"].shape[1]
        assert (x.shape, x.dtype) == (result.shape, result.dtype)
        assert in_place or result.is_contiguous()
        width = arguments.get("head_dim") or x.shape[-1]
        by_head, was = (each.detach().reshape(x.shape[0], -1, width) for each in (result, x))
        assert torch.equal(*(bits(each[..., 2 * half :]) for each in (by_head, was)))

        left, right = products(arguments, name)
        unit = 2**-53 if x.dtype == torch.float64 else 2**-24
        exact = left + right
        # three roundings, and one of an underflow each; the last factor is for the float64 of this formula
        error = (unit * (left.abs() + right.abs() + exact.abs()) + 2**-149) * (1 + 2**-20)
        if x.dtype == torch.float64:
            error = 4 * error
        lowest, highest = ((exact + sign * error).to(x.dtype) for sign in (-1, 1))
        rotated = by_head[..., : 2 * half]
        assert ((lowest <= rotated) & (rotated <= highest))[inside].all()
        assert rotated[~inside].isnan().all()


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """Return the bytes of a tensor, which tell one NaN from another."""
    return tensor.reshape(tensor.shape or 1).contiguous().view(torch.uint8)
