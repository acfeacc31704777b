"""Value profiles: the numbers in a tensor. A profile and a generator give the same numbers on every machine.

Numbers are drawn in float32 on the CPU, row by row of a ``(rows, n)`` view, and rounded to the tensor's dtype.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

# a large tensor repeats rows: drawing hundreds of millions of numbers would take minutes
DISTINCT_ELEMENTS = 2**17
DISTINCT_ROWS = 64

# one row has one scale: ordinary, small, large, dominated by eps, zero
ROW_SCALES = (1.0, 1e-3, 30.0, 1e-5, 0.0)

# one block of columns has one scale: one scale for the whole row would lose the small blocks
BLOCK_SCALES = (1.0, 30.0, 1e-3, 0.0)


def draw(
    profile: str, shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator, device: str = "cpu"
) -> torch.Tensor:
    """Return a contiguous tensor of ``shape`` on a device, with values of ``profile`` that the CPU draws.

    A profile of integers names their exclusive upper bound: ``positions<1000``. Bools are False for the lowest
    number and for minus infinity, as in masks.
    """
    profile, _, bound = profile.partition("<")
    n = shape[-1] if shape else 1
    rows = 1
    for size in shape[:-1]:
        rows *= size
    if rows * n == 0:
        return torch.empty(shape, dtype=dtype, device=device)
    if bound:
        return _positions(POSITIONS[profile], rows, n, int(bound), generator).to(device, dtype).reshape(shape)
    distinct = min(rows, distinct_rows(n))
    kind = torch.float32 if dtype == torch.bool else dtype
    values = PROFILES[profile](distinct, n, kind, generator)
    limit = torch.finfo(kind).max
    # a finite number is within float32's limit as it is drawn
    if kind != torch.float32 and not _within(values, limit):
        values = torch.where(values.isfinite(), values.clamp(-limit, limit), values)
    # rows are repeated on the device: all of them would take longer to bring there than to judge
    stored = (values > -limit if dtype == torch.bool else values.to(dtype)).to(device)
    if distinct < rows:
        stored = stored.repeat(-(-rows // distinct), 1)[:rows]
    return stored.reshape(shape)


def _within(values: torch.Tensor, limit: float) -> bool:
    """Return whether all values are numbers up to a limit, of either sign."""
    least, most = values.aminmax()
    return -limit <= least.item() and most.item() <= limit


def distinct_rows(n: int) -> int:
    """Return the number of different rows of ``n`` before they repeat: odd, so that no tile is a period."""
    return max(DISTINCT_ELEMENTS // n, DISTINCT_ROWS) | 1


def independent(rows: int, n: int) -> float:
    """Return how many different rows have a mean as uncertain as that of ``rows`` of which some repeat.

    It is the square of the sum of the repetitions over the sum of their squares (Kish, Survey Sampling, 1965).
    """
    different = min(rows, distinct_rows(n))
    times, more = divmod(rows, different)
    return rows**2 / (more * (times + 1) ** 2 + (different - more) * times**2)


def _normal(rows: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Draw ordinary numbers; the last column of every second row is large, so that no mask can lose it unseen."""
    values = torch.randn((rows, n), generator=generator)
    if n > 1:
        values[::2, -1] *= 8.0
    return values


def _rows(rows: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Draw every row at a scale of its own, with outlier channels and an all-zero row now and then."""
    values = torch.randn((rows, n), generator=generator)
    pick = torch.randint(len(ROW_SCALES), (rows,), generator=generator)
    pick[0] = 0
    values *= torch.tensor(ROW_SCALES)[pick][:, None]
    outliers = torch.randint(n, (rows,), generator=generator)
    values[torch.arange(rows), outliers] *= 40.0
    return values


def _small(rows: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Draw numbers whose squares are small compared with the eps of most models."""
    return 1e-3 * torch.randn((rows, n), generator=generator)


def _vanishing(rows: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Draw ordinary rows, and every second one so small that its squares vanish in float32 (float16: zeros)."""
    values = _normal(rows, n, dtype, generator)
    values[1::2] *= 1e-30
    return values


def _constant(rows: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Draw one number per row: sums whose rounding errors all point the same way."""
    return torch.randn((rows, 1), generator=generator).expand(rows, n).contiguous()


def _blocks(rows: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Draw every 64 columns at a scale of their own, some all zero; every second row so small that eps shows."""
    pick = torch.randint(len(BLOCK_SCALES), (rows, -(-n // 64)), generator=generator)
    scale = torch.tensor(BLOCK_SCALES)[pick].repeat_interleave(64, 1)[:, :n]
    values = torch.randn((rows, n), generator=generator) * scale
    values[::2] *= 1e-3
    return values


def _subnormal(rows: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Draw numbers around and below the smallest normal number of the dtype."""
    return torch.randn((rows, n), generator=generator) * (4.0 * torch.finfo(dtype).smallest_normal)


def _large(rows: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Draw numbers whose squares overflow float16, and whose sums of squares overflow it by far."""
    values = torch.randn((rows, n), generator=generator) * 300.0
    values[::2] *= 40.0
    return values


def _huge(rows: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Draw numbers whose squares are near and past the largest float32 (float16: its largest numbers)."""
    exponent = torch.rand((rows, 1), generator=generator)
    scale = torch.pow(10.0, 15.0 + 22.0 * exponent) if torch.finfo(dtype).max > 1e5 else 6e4 * exponent
    return torch.randn((rows, n), generator=generator) * scale


def _specials(rows: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Draw ordinary rows, some with NaN, an infinity, or a zero, in turns; the first row stays ordinary."""
    values = torch.randn((rows, n), generator=generator)
    kinds = torch.tensor([float("nan"), float("inf"), float("-inf"), 0.0, -0.0])
    chosen = 1 + (torch.rand(rows - 1, generator=generator) < 0.6).nonzero()
    if rows > 1 and not len(chosen):
        chosen = torch.tensor([[rows - 1]])
    places = torch.randint(n, (len(chosen), min(n, 2)), generator=generator)
    turns = torch.randint(len(kinds), (), generator=generator) + torch.arange(len(chosen))
    values[chosen, places] = kinds[turns % len(kinds)][:, None]
    return values


def _weight(rows: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Draw weights: 1 ± 0.5, a few negative, 2**-8 and 15.8125 planted (``1 + w`` in bfloat16 loses bits)."""
    values = 1.0 + 0.5 * (2.0 * torch.rand((rows, n), generator=generator) - 1.0)
    values[:, 2::7] *= -1.0
    if n > 4:
        values[:, n // 2] = 2.0**-8
        values[:, n // 3] = 15.8125
    return values


def _special_weight(rows: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Draw a weight with one NaN, one infinity and one zero."""
    values = _weight(rows, n, dtype, generator)
    for number in (float("nan"), float("inf"), 0.0):
        values[:, torch.randint(n, (), generator=generator)] = number
    return values


def _gate(rows: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Draw gates of both signs, within ±16."""
    return (3.0 * torch.randn((rows, n), generator=generator)).clamp(-16.0, 16.0)


def _wide_gate(rows: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Draw gates to ±150: a sigmoid that saturates, underflows, and is lost in float32."""
    return 300.0 * torch.rand((rows, n), generator=generator) - 150.0


def _cos(rows: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Draw cosines within ±1, different in every element; the first row has angle zero, as tables begin."""
    values = 2.0 * torch.rand((rows, n), generator=generator) - 1.0
    values[0] = 1.0
    return values


def _sin(rows: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Draw sines, of other angles than the cosines: an implementation may not compute one from the other."""
    values = _cos(rows, n, dtype, generator)
    values[0] = 0.0
    return values


# steps of each of three axes from the first, token after token: axes with the same number are equal. A prompt has
# text first, then images, whose tokens have each pair of axes equal, or none
ALIKE_TIME_HEIGHT, ALIKE_TIME_WIDTH, ALIKE_HEIGHT_WIDTH, UNLIKE = (0, 0, 1), (0, 1, 0), (0, 1, 1), (0, 1, 2)
POSITIONS = {
    "positions": (UNLIKE,),
    "time_is_height": (ALIKE_TIME_HEIGHT,),
    "time_is_width": (ALIKE_TIME_WIDTH,),
    "height_is_width": (ALIKE_HEIGHT_WIDTH,),
    "prompt": ((0, 0, 0), ALIKE_TIME_HEIGHT, ALIKE_TIME_WIDTH, ALIKE_HEIGHT_WIDTH, UNLIKE),
}


def _positions(
    axes: tuple[tuple[int, ...], ...], rows: int, n: int, bound: int, generator: torch.Generator
) -> torch.Tensor:
    """Draw row numbers of a cache, one row per axis, as far apart as ``axes`` say in turns; both ends occur."""
    first = torch.randint(bound, (n,), generator=generator)
    first[0] = bound - 1
    first[-1] = 0 if n > 1 else bound - 1
    steps = torch.randint(1, max((bound - 1) // 2, 1) + 1, (n,), generator=generator)
    apart = torch.tensor(axes)[torch.arange(n) % len(axes), :rows].t()
    return (first + apart * steps) % bound


Profile = Callable[
    [int, int, torch.dtype, torch.Generator], torch.Tensor
]  # rows, columns, dtype -> float32 values
PROFILES: dict[str, Profile] = {
    "normal": _normal,
    "rows": _rows,
    "small": _small,
    "vanishing": _vanishing,
    "constant": _constant,
    "blocks": _blocks,
    "subnormal": _subnormal,
    "large": _large,
    "huge": _huge,
    "specials": _specials,
    "weight": _weight,
    "special_weight": _special_weight,
    "gate": _gate,
    "wide_gate": _wide_gate,
    "cos": _cos,
    "sin": _sin,
}

SPECIAL = frozenset({"specials", "special_weight", "huge", "subnormal"})
