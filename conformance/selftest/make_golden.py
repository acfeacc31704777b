"""The generator of ``fixtures/golden``.

It is run by hand, each half in an environment with its requirements:
``python conformance/selftest/make_golden.py mpmath`` and ``... transformers``. The same versions give the
same files; afterwards ``test_tree.py`` says which checksums in ``fixtures/README.md`` to renew.
"""

from __future__ import annotations

import itertools
import json
import math
import platform
import random
import struct
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).resolve().parents[2] / "fixtures" / "golden"
DATE = "2026-11-23"
SEED = 20261123

# Gated RMSNorm at 50 digits

WIDTHS = (1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33)
GROUPED = ((4, 2), (6, 3), (15, 5), (16, 1), (32, 8), (33, 11))
EPS = (1e-6, 1e-5, 2.0**-10, 1.0)
DTYPES = ("float32", "bfloat16", "float16")


def gated_mpmath_cases() -> None:
    """Return gated RMSNorm of a few numbers, evaluated with 50 digits and written with 30."""
    import mpmath

    mpmath.mp.dps = 50
    draw = random.Random(SEED)  # noqa: S311 - test data
    widths, groups, eps = itertools.cycle(WIDTHS), itertools.cycle(GROUPED), itertools.cycle(EPS)
    cases: list[dict[str, Any]] = []
    for gated, before, activation, grouped, dtype, values in itertools.product(
        (True, False), (True, False), ("silu", "sigmoid"), (False, True), DTYPES, ("ordinary", "wide")
    ):
        # without a gate its place and its activation mean nothing
        if not gated and not (before and activation == "silu"):
            continue
        n, group_size = next(groups) if grouped else (next(widths), None)
        case = {
            "id": f"{len(cases):02d}-{dtype}-{n}-{values}",
            "dtype": dtype,
            "x": _rows(draw, n, dtype, values),
            "gate": _rows(draw, n, dtype, values) if gated else None,
            "weight": _rows(draw, n, dtype, "ordinary", rows=1)[0],
            "eps": _hex(_rounded(next(eps), "float32")),
            "group_size": group_size,
            "norm_before_gate": before,
            "activation": activation,
        }
        cases.append(case | {"out": _gated_rms_norm(mpmath, case)})
    _write(
        "rms_norm_gated_mpmath.json",
        cases,
        what="gated RMSNorm of two rows; inputs exact, outputs to 30 digits and not rounded to dtype",
        seed=SEED,
        digits=50,
        versions={"mpmath": mpmath.__version__, "python": platform.python_version()},
    )


def _gated_rms_norm(mp: Any, case: dict[str, Any]) -> list[list[str]]:
    """Return the formula's value, written as in a text."""
    weight, eps = [mp.mpf(float.fromhex(w)) for w in case["weight"]], mp.mpf(float.fromhex(case["eps"]))
    out = []
    for row, x_hex in enumerate(case["x"]):
        x = [mp.mpf(float.fromhex(v)) for v in x_hex]
        act = [mp.mpf(1)] * len(x)
        if case["gate"] is not None:
            gate = [mp.mpf(float.fromhex(v)) for v in case["gate"][row]]
            sigmoid = [1 / (1 + mp.exp(-g)) for g in gate]
            act = (
                sigmoid if case["activation"] == "sigmoid" else [g * s for g, s in zip(gate, sigmoid, strict=True)]
            )
        if not case["norm_before_gate"]:
            x, act = [v * a for v, a in zip(x, act, strict=True)], [mp.mpf(1)] * len(x)
        size = case["group_size"] or len(x)
        y = []
        for start in range(0, len(x), size):
            group = x[start : start + size]
            mean_square = mp.fsum(v * v for v in group) / size
            y += [v / mp.sqrt(mean_square + eps) for v in group]
        out.append([mp.nstr(v * w * a, 30) for v, w, a in zip(y, weight, act, strict=True)])
    return out


# RMSNorm with a residual, an offset and no weight, at 50 digits

OFFSETS = (0.0, 1.0, 0.375)
OTHER = {"float32": "bfloat16", "bfloat16": "float32", "float16": "float32"}


def norm_mpmath_cases() -> None:
    """Return RMSNorm of a few numbers, with the sum of x and residual rounded before the norm, and not rounded."""
    import mpmath

    mpmath.mp.dps = 50
    draw = random.Random(SEED)  # noqa: S311 - test data
    widths, eps, offsets = itertools.cycle(WIDTHS), itertools.cycle(EPS), itertools.cycle(OFFSETS)
    cases: list[dict[str, Any]] = []
    for residual, weight, dtype, values in itertools.product(
        (None, "same", "other"), (None, "same", "float32"), DTYPES, ("ordinary", "wide")
    ):
        # a float32 weight of a float32 x is the same weight once more
        if weight == "float32" == dtype:
            continue
        n = next(widths)
        weight_dtype = "float32" if weight == "float32" else dtype
        residual_dtype = OTHER[dtype] if residual == "other" else dtype
        case = {
            "id": f"{len(cases):02d}-{dtype}-{n}-residual-{residual}-weight-{weight}",
            "dtype": dtype,
            "residual_dtype": residual_dtype,
            "weight_dtype": weight_dtype,
            "x": _rows(draw, n, dtype, values),
            "residual": _rows(draw, n, residual_dtype, values) if residual else None,
            "weight": _rows(draw, n, weight_dtype, "ordinary", rows=1)[0] if weight else None,
            "weight_offset": next(offsets),
            "eps": _hex(_rounded(next(eps), "float32")),
        }
        cases.append(case | _rms_norm(mpmath, case))
    _write(
        "rms_norm_mpmath.json",
        cases,
        what="RMSNorm of two rows; inputs exact; sum is x + residual rounded to dtype, out the norm of sum and "
        "out_unrounded the norm of x + residual, both to 30 digits and not rounded to dtype",
        seed=SEED,
        digits=50,
        versions={"mpmath": mpmath.__version__, "python": platform.python_version()},
    )


def _rms_norm(mp: Any, case: dict[str, Any]) -> dict[str, Any]:
    """Return the formula's value, written as in a text."""
    exact, stored = [], []
    for row, x in enumerate(case["x"]):
        terms = [x] if case["residual"] is None else [x, case["residual"][row]]
        added = [
            sum((Fraction(float.fromhex(v)) for v in column), Fraction()) for column in zip(*terms, strict=True)
        ]
        exact.append([mp.mpf(v.numerator) / v.denominator for v in added])
        stored.append([_nearest(v, case["dtype"]) for v in added])
    rounded = [[mp.mpf(v) for v in row] for row in stored]
    results: dict[str, Any] = {"out": _norms(mp, rounded, case)}
    if case["residual"] is not None:
        results |= {"sum": [[_hex(v) for v in row] for row in stored], "out_unrounded": _norms(mp, exact, case)}
    return results


def _norms(mp: Any, rows: list[Any], case: dict[str, Any]) -> list[list[str]]:
    weight = case["weight"] or ["0x1p+0"] * len(rows[0])
    scale = [mp.mpf(case["weight_offset"]) + mp.mpf(float.fromhex(w)) for w in weight]
    out = []
    for s in rows:
        root = mp.sqrt(mp.fsum(v * v for v in s) / len(s) + mp.mpf(float.fromhex(case["eps"])))
        out.append([mp.nstr(v / root * w, 30) for v, w in zip(s, scale, strict=True)])
    return out


# LayerNorm at 50 digits

# mean of a row over its spread
SHIFTS = (0.0, 4.0, 64.0)


def layer_mpmath_cases() -> None:
    """Return LayerNorm of a few numbers, with a weight and a bias or without, some rows far from zero."""
    import mpmath

    mpmath.mp.dps = 50
    draw = random.Random(SEED)  # noqa: S311 - test data
    widths, eps = itertools.cycle(WIDTHS), itertools.cycle(EPS)
    cases: list[dict[str, Any]] = []
    for weight, bias, shift, dtype in itertools.product((True, False), (True, False), SHIFTS, DTYPES):
        n = next(widths)
        x = [
            [_hex(_rounded(float.fromhex(value) + shift, dtype)) for value in row]
            for row in _rows(draw, n, dtype, "ordinary")
        ]
        case: dict[str, Any] = {
            "id": f"{len(cases):02d}-{dtype}-{n}-shift-{shift:g}",
            "dtype": dtype,
            "x": x,
            "weight": _rows(draw, n, dtype, "ordinary", rows=1)[0] if weight else None,
            "bias": _rows(draw, n, dtype, "ordinary", rows=1)[0] if bias else None,
            "eps": _hex(_rounded(next(eps), "float32")),
        }
        cases.append(case | {"out": [_layer_norm(mpmath, row, case) for row in case["x"]]})
    _write(
        "layer_norm_mpmath.json",
        cases,
        what="LayerNorm of two rows, the variance over n; inputs exact, out to 30 digits and not rounded to dtype",
        seed=SEED,
        digits=mpmath.mp.dps,
        versions={"mpmath": mpmath.__version__, "python": platform.python_version()},
    )


def _layer_norm(mp: Any, row: list[str], case: dict[str, Any]) -> list[str]:
    x, weight, bias = (
        [mp.mpf(float.fromhex(value)) for value in part or ()] for part in (row, case["weight"], case["bias"])
    )
    mean = mp.fsum(x) / len(x)
    scale = 1 / mp.sqrt(mp.fsum((v - mean) ** 2 for v in x) / len(x) + mp.mpf(float.fromhex(case["eps"])))
    y = [(v - mean) * scale for v in x]
    y = y if not weight else [v * w for v, w in zip(y, weight, strict=True)]
    y = y if not bias else [v + b for v, b in zip(y, bias, strict=True)]
    return [mp.nstr(v, 30) for v in y]


# Products with a silu at 50 digits


def silu_mpmath_cases() -> None:
    """Return ``silu(gate) * up`` of a few numbers, gates of both signs up to where a sigmoid saturates."""
    import mpmath

    mpmath.mp.dps = 50
    draw = random.Random(SEED)  # noqa: S311 - test data
    cases: list[dict[str, Any]] = []
    for dtype, up_dtype, values in itertools.product(DTYPES, DTYPES, ("ordinary", "wide")):
        gate, up = _rows(draw, 33, dtype, values), _rows(draw, 33, up_dtype, "ordinary")
        case = {"id": f"{len(cases):02d}-{dtype}-{up_dtype}-{values}", "dtype": dtype, "up_dtype": up_dtype}
        exact = [
            [mpmath.nstr(z / (1 + mpmath.exp(-z)) * float.fromhex(u), 30) for z, u in zip(zs, us, strict=True)]
            for zs, us in zip([[mpmath.mpf(float.fromhex(z)) for z in row] for row in gate], up, strict=True)
        ]
        cases.append(case | {"gate": gate, "up": up, "out": exact})
    _write(
        "silu_and_mul_mpmath.json",
        cases,
        what="silu(gate) * up of two rows; inputs exact, out to 30 digits and not rounded to dtype",
        seed=SEED,
        digits=mpmath.mp.dps,
        versions={"mpmath": mpmath.__version__, "python": platform.python_version()},
    )


# Products with a gelu at 50 digits


def gelu_mpmath_cases() -> None:
    """Return ``gelu(gate) * up`` of a few numbers by both formulas, up to where erf is one."""
    import mpmath

    mpmath.mp.dps = 50
    draw = random.Random(SEED)  # noqa: S311 - test data
    cases: list[dict[str, Any]] = []
    for approximate, dtype, up_dtype, values in itertools.product(
        ("none", "tanh"), DTYPES, DTYPES, ("ordinary", "wide")
    ):
        gate, up = _rows(draw, 33, dtype, values), _rows(draw, 33, up_dtype, "ordinary")
        case = {
            "id": f"{len(cases):02d}-{approximate}-{dtype}-{up_dtype}-{values}",
            "approximate": approximate,
            "dtype": dtype,
            "up_dtype": up_dtype,
        }
        exact = [
            [mpmath.nstr(_gelu(mpmath, z, approximate) * float.fromhex(u), 30) for z, u in zip(*rows, strict=True)]
            for rows in zip(gate, up, strict=True)
        ]
        cases.append(case | {"gate": gate, "up": up, "out": exact})
    _write(
        "gelu_and_mul_mpmath.json",
        cases,
        what="gelu(gate) * up of two rows; inputs exact, out to 30 digits and not rounded to dtype",
        seed=SEED,
        digits=mpmath.mp.dps,
        versions={"mpmath": mpmath.__version__, "python": platform.python_version()},
    )


def _gelu(mp: Any, gate: str, approximate: str) -> Any:
    """Return the formula's value, written as in a text; 50 digits are lost to no sum with one."""
    x = mp.mpf(float.fromhex(gate))
    with mp.workdps(500):
        if approximate == "none":
            return x * (1 + mp.erf(x / mp.sqrt(2))) / 2
        cubic = mp.mpf("0.044715")
        return x * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + cubic * x**3))) / 2


# Rows divided by their length, at 50 digits


def l2_mpmath_cases() -> None:
    """Return ``x / sqrt(sum(x**2) + eps)`` of a few numbers, some so small that eps is most of the sum."""
    import mpmath

    mpmath.mp.dps = 50
    draw = random.Random(SEED)  # noqa: S311 - test data
    widths = itertools.cycle(WIDTHS)
    cases: list[dict[str, Any]] = []
    for eps, dtype, values in itertools.product(EPS, DTYPES, ("ordinary", "wide")):
        n = next(widths)
        case: dict[str, Any] = {
            "id": f"{len(cases):02d}-{dtype}-{n}-{values}",
            "dtype": dtype,
            "x": _rows(draw, n, dtype, values),
            "eps": _hex(_rounded(eps, "float32")),
        }
        cases.append(case | {"out": [_l2_norm(mpmath, row, case["eps"]) for row in case["x"]]})
    _write(
        "l2_norm_mpmath.json",
        cases,
        what="x / sqrt(sum(x**2) + eps) of two rows; inputs exact, out to 30 digits and not rounded to dtype",
        seed=SEED,
        digits=mpmath.mp.dps,
        versions={"mpmath": mpmath.__version__, "python": platform.python_version()},
    )


def _l2_norm(mp: Any, row: list[str], eps: str) -> list[str]:
    x = [mp.mpf(float.fromhex(value)) for value in row]
    length = mp.sqrt(mp.fsum(v * v for v in x) + mp.mpf(float.fromhex(eps)))
    return [mp.nstr(v / length, 30) for v in x]


# Softmax at 50 digits


def softmax_mpmath_cases() -> None:
    """Return ``exp(x) / sum(exp(x))`` of a few numbers, some rows far from zero; no maximum is subtracted."""
    import mpmath

    mpmath.mp.dps = 50
    draw = random.Random(SEED)  # noqa: S311 - test data
    widths = itertools.cycle(WIDTHS)
    cases: list[dict[str, Any]] = []
    for shift, dtype, values in itertools.product((-256.0, 0.0, 256.0), DTYPES, ("ordinary", "wide")):
        n = next(widths)
        x = [
            [_hex(_rounded(float.fromhex(value) + shift, dtype)) for value in row]
            for row in _rows(draw, n, dtype, values)
        ]
        case: dict[str, Any] = {"id": f"{len(cases):02d}-{dtype}-{n}-{values}-shift-{shift:g}", "dtype": dtype}
        exact = []
        for row in x:
            powers = [mpmath.exp(mpmath.mpf(float.fromhex(value))) for value in row]
            exact.append([mpmath.nstr(power / mpmath.fsum(powers), 30) for power in powers])
        cases.append(case | {"x": x, "out": exact})
    _write(
        "softmax_mpmath.json",
        cases,
        what="softmax of two rows; inputs exact, out to 30 digits and not rounded to dtype",
        seed=SEED,
        digits=mpmath.mp.dps,
        versions={"mpmath": mpmath.__version__, "python": platform.python_version()},
    )


SCALES = (0.125, 3.0, 0.088388346135616302490234375)
MASKS = ("padding", "bias", "bools")


def masked_softmax_mpmath_cases() -> None:
    """Return softmax of ``x * scale + mask``, of masks of minus infinity, of numbers, and of bools."""
    import mpmath

    mpmath.mp.dps = 50
    draw = random.Random(SEED)  # noqa: S311 - test data
    widths, scales = itertools.cycle(WIDTHS), itertools.cycle(SCALES)
    cases: list[dict[str, Any]] = []
    for mask, dtype, values in itertools.product(MASKS, DTYPES, ("ordinary", "wide")):
        n, scale = next(widths), next(scales)
        x, bias = _rows(draw, n, dtype, values), _rows(draw, n, dtype, "ordinary")
        kept = [[draw.random() < 0.5 for _ in row[:-1]] for row in x]
        # a row keeps one column at least
        kept = [[*row, not any(row)] for row in kept]
        added = bias if mask == "bias" else [["0x0.0p+0" if keeps else "-inf" for keeps in row] for row in kept]
        case: dict[str, Any] = {"id": f"{len(cases):02d}-{dtype}-{n}-{values}-{mask}", "dtype": dtype}
        exact = []
        for row, terms in zip(x, added, strict=True):
            scores = [
                mpmath.mpf(float.fromhex(value)) * mpmath.mpf(scale) + mpmath.mpf(float.fromhex(term))
                for value, term in zip(row, terms, strict=True)
            ]
            powers = [mpmath.exp(score) for score in scores]
            exact.append([mpmath.nstr(power / mpmath.fsum(powers), 30) for power in powers])
        told = kept if mask == "bools" else added
        cases.append(case | {"x": x, "mask": told, "scale": _hex(scale), "out": exact})
    _write(
        "masked_softmax_mpmath.json",
        cases,
        what="softmax of two rows, scaled and masked; inputs exact, out to 30 digits and not rounded to dtype",
        seed=SEED,
        digits=mpmath.mp.dps,
        versions={"mpmath": mpmath.__version__, "python": platform.python_version()},
    )


# Rotations at positions on three axes, at 50 digits

# the size of a head and half of what is rotated
HEADS = ((2, 1), (6, 3), (9, 3), (7, 2), (16, 8))
SECTIONS = {1: (1, 0, 0), 2: (0, 1, 1), 3: (1, 1, 1), 8: (2, 3, 3)}
CACHE = 7


def mrope_mpmath_cases() -> None:
    """Return rotations of a few heads by the cosines and sines of a small table."""
    import mpmath

    mpmath.mp.dps = 50
    draw = random.Random(SEED)  # noqa: S311 - test data
    sizes = itertools.cycle(HEADS)
    cases: list[dict[str, Any]] = []
    for interleaved, on_axes, dtype, float32_tables, values in itertools.product(
        (True, False), (True, False), DTYPES, (True, False), ("ordinary", "wide")
    ):
        head_dim, half = next(sizes)
        angle_dtype = "float32" if float32_tables else dtype
        angles = [[mpmath.mpf(p) / 100 ** (mpmath.mpf(i) / half) for i in range(half)] for p in range(CACHE)]
        case = {
            "id": f"{len(cases):02d}-{dtype}-{2 * half}-of-{head_dim}-{values}",
            "dtype": dtype,
            "angle_dtype": angle_dtype,
            "head_dim": head_dim,
            "sections": SECTIONS[half],
            "interleaved": interleaved,
            # three tokens: one and two heads
            "q": _rows(draw, head_dim, dtype, values, rows=3),
            "k": _rows(draw, 2 * head_dim, dtype, values, rows=3),
            "positions": [draw.sample(range(CACHE), 3) for _ in range(3)]
            if on_axes
            else draw.sample(range(CACHE), 3),
            "cos": [[_hex(_rounded(float(mpmath.cos(a)), angle_dtype)) for a in row] for row in angles],
            "sin": [[_hex(_rounded(float(mpmath.sin(a)), angle_dtype)) for a in row] for row in angles],
        }
        cases.append(case | {f"rotated_{name}": _mrope(mpmath, case, name) for name in ("q", "k")})
    _write(
        "mrope_mpmath.json",
        cases,
        what="rotations of three tokens; inputs exact, outputs to 30 digits and not rounded to dtype",
        seed=SEED,
        digits=50,
        versions={"mpmath": mpmath.__version__, "python": platform.python_version()},
    )


def _mrope(mp: Any, case: dict[str, Any], name: str) -> list[list[str]]:
    """Rotate every head as complex numbers, each multiplied by that of its angle."""
    size, half = case["head_dim"], len(case["cos"][0])
    axes = _axes(case["sections"], half, interleaved=case["interleaved"])
    out = []
    for token, row in enumerate(case[name]):
        numbers = [mp.mpf(float.fromhex(v)) for v in row]
        places = case["positions"]
        found = [places[axis][token] if isinstance(places[0], list) else places[token] for axis in axes]
        turns = [
            mp.mpc(float.fromhex(case["cos"][p][i]), float.fromhex(case["sin"][p][i])) for i, p in enumerate(found)
        ]
        out.append([mp.nstr(v, 30) for v in _turned(mp, numbers, size, turns)])
    return out


def _turned(mp: Any, numbers: list[Any], size: int, turns: list[Any], pairs: str = "halves") -> list[Any]:
    """Rotate every head of ``size`` numbers: each pair is a complex number, and so is each angle."""
    half, turned = len(turns), []
    for start in range(0, len(numbers), size):
        head = numbers[start : start + size]
        rotary = head[: 2 * half]
        parts = (rotary[:half], rotary[half:]) if pairs == "halves" else (rotary[::2], rotary[1::2])
        products = [mp.mpc(*pair) * turn for *pair, turn in zip(*parts, turns, strict=True)]
        ends = [z.real for z in products], [z.imag for z in products]
        in_order = itertools.chain(*ends) if pairs == "halves" else itertools.chain(*zip(*ends, strict=True))
        turned += [*in_order, *head[2 * half :]]
    return turned


def _axes(sections: tuple[int, ...], half: int, *, interleaved: bool) -> list[int]:
    """Return each frequency's axis: as Hugging Face's models write the other axes over those of time."""
    axes = [0] * half
    if interleaved:
        for axis in (1, 2):
            places = range(axis, min(3 * sections[axis], half), 3)
            for place in places:
                axes[place] = axis
        return axes
    axes[sections[0] : sections[0] + sections[1]] = [1] * sections[1]
    axes[sections[0] + sections[1] :] = [2] * sections[2]
    return axes


# Rotations at a position for every token, in halves or in neighbours


def rope_mpmath_cases() -> None:
    """Return rotations of a few heads by the cosines and sines of a table, or by those of the tokens."""
    import mpmath

    mpmath.mp.dps = 50
    draw = random.Random(SEED)  # noqa: S311 - test data
    sizes = itertools.cycle(HEADS)
    cases: list[dict[str, Any]] = []
    for pairs, indexed, dtype, float32_tables, values in itertools.product(
        ("halves", "neighbours"), (True, False), DTYPES, (True, False), ("ordinary", "wide")
    ):
        head_dim, half = next(sizes)
        angle_dtype = "float32" if float32_tables else dtype
        places = draw.sample(range(CACHE), 3)
        rows = range(CACHE) if indexed else places
        angles = [[mpmath.mpf(p) / 100 ** (mpmath.mpf(i) / half) for i in range(half)] for p in rows]
        case = {
            "id": f"{len(cases):02d}-{dtype}-{2 * half}-of-{head_dim}-{pairs}-{values}",
            "dtype": dtype,
            "angle_dtype": angle_dtype,
            "head_dim": head_dim,
            "pairs": pairs,
            # three tokens: one and two heads
            "q": _rows(draw, head_dim, dtype, values, rows=3),
            "k": _rows(draw, 2 * head_dim, dtype, values, rows=3),
            "positions": places if indexed else None,
            "cos": [[_hex(_rounded(float(mpmath.cos(a)), angle_dtype)) for a in row] for row in angles],
            "sin": [[_hex(_rounded(float(mpmath.sin(a)), angle_dtype)) for a in row] for row in angles],
        }
        cases.append(case | {f"rotated_{name}": _rope(mpmath, case, name) for name in ("q", "k")})
    _write(
        "rope_mpmath.json",
        cases,
        what="rotations of three tokens; inputs exact, outputs to 30 digits and not rounded to dtype",
        seed=SEED,
        digits=50,
        versions={"mpmath": mpmath.__version__, "python": platform.python_version()},
    )


def _rope(mp: Any, case: dict[str, Any], name: str) -> list[list[str]]:
    """Rotate the heads of every token by the row of its position, or by its own."""
    out = []
    for token, row in enumerate(case[name]):
        place = token if case["positions"] is None else case["positions"][token]
        ends = zip(case["cos"][place], case["sin"][place], strict=True)
        turns = [mp.mpc(float.fromhex(c), float.fromhex(s)) for c, s in ends]
        numbers = [mp.mpf(float.fromhex(v)) for v in row]
        out.append([mp.nstr(v, 30) for v in _turned(mp, numbers, case["head_dim"], turns, case["pairs"])])
    return out


# Rotations after norms


def qk_norm_rope_mpmath_cases() -> None:
    """Return rotations of a few heads, each after its norm."""
    import mpmath

    mpmath.mp.dps = 50
    draw = random.Random(SEED)  # noqa: S311 - test data
    sizes, eps = itertools.cycle(HEADS), itertools.cycle(EPS)
    cases: list[dict[str, Any]] = []
    for pairs, offset, dtype, weight_dtype, values in itertools.product(
        ("halves", "neighbours"), (0.0, 1.0, -0.1), DTYPES, ("same", "float32"), ("ordinary", "wide")
    ):
        head_dim, half = next(sizes)
        wide = dtype if weight_dtype == "same" else weight_dtype
        angles = [[mpmath.mpf(p) / 100 ** (mpmath.mpf(i) / half) for i in range(half)] for p in range(CACHE)]
        case = {
            "id": f"{len(cases):02d}-{dtype}-{2 * half}-of-{head_dim}-{pairs}-{offset:g}-{values}",
            "dtype": dtype,
            "parameter_dtype": wide,
            "head_dim": head_dim,
            "pairs": pairs,
            "weight_offset": _hex(_rounded(offset, "float32")),
            "eps": _hex(_rounded(next(eps), "float32")),
            # three tokens: one and two heads
            "q": _rows(draw, head_dim, dtype, values, rows=3),
            "k": _rows(draw, 2 * head_dim, dtype, values, rows=3),
            "q_weight": _rows(draw, head_dim, wide, "ordinary", rows=1)[0],
            "k_weight": _rows(draw, head_dim, wide, "ordinary", rows=1)[0],
            "positions": draw.sample(range(CACHE), 3),
            "cos": [[_hex(_rounded(float(mpmath.cos(a)), wide)) for a in row] for row in angles],
            "sin": [[_hex(_rounded(float(mpmath.sin(a)), wide)) for a in row] for row in angles],
        }
        cases.append(case | {f"rotated_{name}": _qk_norm_rope(mpmath, case, name) for name in ("q", "k")})
    _write(
        "qk_norm_rope_mpmath.json",
        cases,
        what="rotations of three tokens after norms; inputs exact, outputs to 30 digits and not rounded to dtype",
        seed=SEED,
        digits=50,
        versions={"mpmath": mpmath.__version__, "python": platform.python_version()},
    )


def _qk_norm_rope(mp: Any, case: dict[str, Any], name: str) -> list[list[str]]:
    """Normalise the heads of every token, then rotate them."""
    size, out = case["head_dim"], []
    offset, eps = (mp.mpf(float.fromhex(case[each])) for each in ("weight_offset", "eps"))
    weight = [offset + mp.mpf(float.fromhex(v)) for v in case[f"{name}_weight"]]
    for row, place in zip(case[name], case["positions"], strict=True):
        numbers = [mp.mpf(float.fromhex(v)) for v in row]
        normed = []
        for start in range(0, len(numbers), size):
            head = numbers[start : start + size]
            root = mp.sqrt(mp.fsum(v * v for v in head) / size + eps)
            normed += [v / root * w for v, w in zip(head, weight, strict=True)]
        ends = zip(case["cos"][place], case["sin"][place], strict=True)
        turns = [mp.mpc(float.fromhex(c), float.fromhex(s)) for c, s in ends]
        out.append([mp.nstr(v, 30) for v in _turned(mp, normed, size, turns, case["pairs"])])
    return out


# digits of the significand, exponent of the smallest number
FORMATS = {
    "float32": (24, -149),
    "bfloat16": (8, -133),
    "float16": (11, -24),
    "float8_e4m3fn": (4, -9),
    "float8_e4m3fnuz": (4, -10),
}


def _nearest(value: Fraction, dtype: str) -> float:
    """Round once to nearest even. Only for values that do not overflow."""
    digits, smallest = FORMATS[dtype]
    step = Fraction(2) ** max(math.frexp(float(value))[1] - digits, smallest)
    return float(round(value / step) * step)


# Either norm, quantised to fp8: fractions, from the norm at 50 digits

LARGEST = {"float8_e4m3fn": 448, "float8_e4m3fnuz": 240}
QUANT_GROUPS = ((32, 8), (33, 16), (17, None), (15, 16), (7, 3), (20, 20))
QUANTISED = ("unrounded", "rounded", "power_of_two")


def fp8_mpmath_cases() -> None:
    """Return scales and fp8 numbers of a few rows, the second of which is all zero."""
    import mpmath

    mpmath.mp.dps = 50
    draw = random.Random(SEED)  # noqa: S311 - test data
    groups, eps = itertools.cycle(QUANT_GROUPS), itertools.cycle(EPS)
    cases: list[dict[str, Any]] = []
    for gated, dtype, fp8, values in itertools.product(
        (True, False), DTYPES, LARGEST, ("ordinary", "wide", "ordinary")
    ):
        n, quant_group = next(groups)
        case: dict[str, Any] = {
            "id": f"{len(cases):02d}-{'gated' if gated else 'norm'}-{dtype}-{fp8}-{n}-by-{quant_group}",
            "dtype": dtype,
            "fp8_dtype": fp8,
            "quant_group": quant_group,
            "x": [*_rows(draw, n, dtype, values, rows=1), [_hex(0.0)] * n],
            "weight": _rows(draw, n, dtype, "ordinary", rows=1)[0],
            "eps": _hex(_rounded(next(eps), "float32")),
        }
        if gated:
            case["gate"] = _rows(draw, n, dtype, values)
            case |= {"group_size": None, "norm_before_gate": True, "activation": "silu"}
            exact = _gated_rms_norm(mpmath, case)
        else:
            x = [[mpmath.mpf(float.fromhex(v)) for v in row] for row in case["x"]]
            exact = _norms(mpmath, x, case | {"weight_offset": 0.0})
        cases.append(case | {"y": exact} | {how: _quantised(mpmath, exact, how, case) for how in QUANTISED})
    _write(
        "fp8_outputs_mpmath.json",
        cases,
        what="norms of two rows, quantised; inputs exact, y to 30 digits; scales to 30 digits and fp8 numbers: of "
        "y (unrounded), of y rounded to dtype (rounded), and of that with scales rounded up to powers of two",
        seed=SEED,
        digits=50,
        versions={"mpmath": mpmath.__version__, "python": platform.python_version()},
    )


def quantise_mpmath_cases() -> None:
    """Return scales and fp8 numbers of x itself, in fractions; the second row is all zero."""
    import mpmath

    mpmath.mp.dps = 50
    draw = random.Random(SEED)  # noqa: S311 - test data
    groups = itertools.cycle(QUANT_GROUPS)
    cases: list[dict[str, Any]] = []
    for dtype, fp8, values in itertools.product(DTYPES, LARGEST, ("ordinary", "wide")):
        n, quant_group = next(groups)
        case: dict[str, Any] = {
            "id": f"{len(cases):02d}-{dtype}-{fp8}-{n}-by-{quant_group}",
            "dtype": dtype,
            "fp8_dtype": fp8,
            "quant_group": quant_group,
            "x": [*_rows(draw, n, dtype, values, rows=1), [_hex(0.0)] * n],
        }
        exact = [[str(Fraction(float.fromhex(value))) for value in row] for row in case["x"]]
        cases.append(case | {how: _quantised(mpmath, exact, how, case) for how in ("unrounded", "power_of_two")})
    _write(
        "quantise_fp8_mpmath.json",
        cases,
        what="two rows, quantised; inputs exact, scales to 30 digits and fp8 numbers, with scales as they are "
        "(unrounded), and rounded up to powers of two",
        seed=SEED,
        digits=mpmath.mp.dps,
        versions={"mpmath": mpmath.__version__, "python": platform.python_version()},
    )


def _quantised(mp: Any, exact: list[list[str]], how: str, case: dict[str, Any]) -> dict[str, Any]:
    """Return the formula's values, written as in a text."""
    floor, scales, values = Fraction(_rounded(1e-10, "float32")), [], []
    for row in exact:
        y = [Fraction(v) if how == "unrounded" else Fraction(_nearest(Fraction(v), case["dtype"])) for v in row]
        group = case["quant_group"] or len(y)
        parts = [y[start : start + group] for start in range(0, len(y), group)]
        of = [max(floor, *(abs(v) for v in part)) / LARGEST[case["fp8_dtype"]] for part in parts]
        if how == "power_of_two":
            of = [_no_less(scale) for scale in of]
        scales.append([mp.nstr(mp.mpf(scale.numerator) / scale.denominator, 30) for scale in of])
        quotients = [v / scale for part, scale in zip(parts, of, strict=True) for v in part]
        values.append([_hex(_nearest(quotient, case["fp8_dtype"])) for quotient in quotients])
    return {"scales": scales, "values": values}


# RMSNorm with a residual, quantised to int8: fractions, from the norm at 50 digits


def int8_mpmath_cases() -> None:
    """Return scales and integers of a few rows, the second of which is all zero."""
    import mpmath

    mpmath.mp.dps = 50
    draw = random.Random(SEED)  # noqa: S311 - test data
    widths, eps = itertools.cycle(WIDTHS), itertools.cycle(EPS)
    cases: list[dict[str, Any]] = []
    for residual, weight, dtype, values in itertools.product(
        (False, True), (True, False), DTYPES, ("ordinary", "wide")
    ):
        n = next(widths)
        nothing = [_hex(0.0)] * n
        case: dict[str, Any] = {
            "id": f"{len(cases):02d}-{dtype}-{n}-{values}",
            "dtype": dtype,
            "x": [*_rows(draw, n, dtype, values, rows=1), nothing],
            "residual": [*_rows(draw, n, dtype, values, rows=1), nothing] if residual else None,
            "weight": _rows(draw, n, dtype, "ordinary", rows=1)[0] if weight else None,
            "eps": _hex(_rounded(next(eps), "float32")),
        }
        exact = _rms_norm(mpmath, case | {"weight_offset": 0.0})["out"]
        cases.append(case | {"y": exact} | _int8(mpmath, exact, dtype))
    _write(
        "rms_norm_int8_mpmath.json",
        cases,
        what="norms of two rows, quantised to int8; inputs exact, y to 30 digits, of x + residual rounded to "
        "dtype; scales to 30 digits and integers, of y rounded to dtype",
        seed=SEED,
        digits=mpmath.mp.dps,
        versions={"mpmath": mpmath.__version__, "python": platform.python_version()},
    )


def _int8(mp: Any, exact: list[list[str]], dtype: str) -> dict[str, Any]:
    """Return the formula's value, written as in a text."""
    floor, scales, values = Fraction(_rounded(1e-10, "float32")), [], []
    for row in exact:
        y = [Fraction(_nearest(Fraction(value), dtype)) for value in row]
        scale = max(floor, *(abs(value) for value in y)) / 127
        scales.append(mp.nstr(mp.mpf(scale.numerator) / scale.denominator, 30))
        # Python rounds a fraction's half to even
        values.append([round(value / scale) for value in y])
    return {"scales": scales, "values": values}


def _no_less(scale: Fraction) -> Fraction:
    power = Fraction(2) ** math.floor(math.log2(scale))
    while power < scale:
        power *= 2
    return power


def _rows(draw: random.Random, n: int, dtype: str, values: str, *, rows: int = 2) -> list[list[str]]:
    """Return numbers that the dtype represents exactly."""
    return [[_hex(_rounded(_value(draw, values), dtype)) for _ in range(n)] for _ in range(rows)]


def _value(draw: random.Random, values: str) -> float:
    """Return a random number; ``ordinary``: normal; ``wide``: magnitudes of 1/4096 to 32, and signed zeros."""
    if values == "ordinary":
        return draw.gauss(0.0, 1.0)
    sign = draw.choice((-1.0, 1.0))
    return sign * (0.0 if draw.random() < 0.1 else 2.0 ** draw.uniform(-12, 5))


def _rounded(value: float, dtype: str) -> float:
    """Round to nearest even. Only for values inside the dtype's normal range."""
    if dtype == "bfloat16":
        (bits,) = struct.unpack("<I", struct.pack("<f", value))
        # fp32 keeps 16 bits more than bf16: the second rounding of a tie is harmless for drawn test data
        bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
        return float(struct.unpack("<f", struct.pack("<I", bits))[0])
    code = {"float32": "<f", "float16": "<e"}[dtype]
    return float(struct.unpack(code, struct.pack(code, value))[0])


# Hugging Face's modules

# (dtype of x and gate, dtype of the weight)
HF_DTYPES = (
    ("float32", "float32"),
    ("bfloat16", "bfloat16"),
    ("float16", "float16"),
    ("bfloat16", "float32"),
    ("float16", "float32"),
)
HF_WIDTHS = (7, 33, 96, 128, 256)


def gated_transformers_cases() -> None:
    """Return inputs and outputs of transformers' ``Qwen3NextRMSNormGated`` on the CPU, as bit patterns."""
    import torch
    import transformers
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextRMSNormGated

    draw = torch.Generator().manual_seed(SEED)
    cases: list[dict[str, Any]] = []
    for (dtype, weight_dtype), n in itertools.product(HF_DTYPES, HF_WIDTHS):
        x = torch.randn(4, n, generator=draw) * torch.tensor([[0.01], [1.0], [30.0], [1.0]])
        gate = torch.randn(4, n, generator=draw) * torch.tensor([[1.0], [1.0], [1.0], [8.0]])
        x, gate = x.to(getattr(torch, dtype)), gate.to(getattr(torch, dtype))
        module = Qwen3NextRMSNormGated(n, eps=1e-6)
        weight = (1.0 + 0.3 * torch.randn(n, generator=draw)).to(getattr(torch, weight_dtype))
        module.weight = torch.nn.Parameter(weight)
        with torch.no_grad():
            out = module(x, gate)
        cases.append(
            {
                "id": f"{len(cases):02d}-{dtype}-{n}-weight-{weight_dtype}",
                "dtype": dtype,
                "weight_dtype": weight_dtype,
                "x": _bits(x),
                "gate": _bits(gate),
                "weight": _bits(weight[None])[0],
                "eps": _hex(1e-6),
                "group_size": None,
                "norm_before_gate": True,
                "activation": module.activation,
                "out": _bits(out),
            }
        )
    _write(
        "rms_norm_gated_qwen3_next.json",
        cases,
        what="Hugging Face's Qwen3NextRMSNormGated on a CPU; a string a row, a bit pattern an element",
        seed=SEED,
        versions={
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    )


def norm_transformers_cases() -> None:
    """Return ``LlamaRMSNorm`` and ``Gemma3RMSNorm`` on the CPU, with and without a decoder layer's sum first."""
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    _norm_cases("rms_norm_llama.json", LlamaRMSNorm, 1.0)
    _norm_cases("gemma_rms_norm_gemma3.json", Gemma3RMSNorm, 0.0)


def _norm_cases(file: str, norm: Any, mean_weight: float) -> None:
    """Return one module's cases; the residual is added as decoder layers do, in the tensors' own dtype."""
    import torch
    import transformers

    draw = torch.Generator().manual_seed(SEED)
    cases: list[dict[str, Any]] = []
    for place, ((dtype, weight_dtype), n) in enumerate(itertools.product(HF_DTYPES, HF_WIDTHS)):
        x, residual = (
            (torch.randn(4, n, generator=draw) * torch.tensor([[0.01], [1.0], [30.0], [1.0]])).to(
                getattr(torch, dtype)
            )
            for _ in range(2)
        )
        module = norm(n, eps=1e-6)
        weight = (mean_weight + 0.3 * torch.randn(n, generator=draw)).to(getattr(torch, weight_dtype))
        module.weight = torch.nn.Parameter(weight)
        added = x + residual if place % 2 else None
        with torch.no_grad():
            out = module(x if added is None else added)
        cases.append(
            {
                "id": f"{len(cases):02d}-{dtype}-{n}-weight-{weight_dtype}-{'sum' if place % 2 else 'plain'}",
                "dtype": dtype,
                "weight_dtype": weight_dtype,
                "out_dtype": str(out.dtype).removeprefix("torch."),
                "x": _bits(x),
                "residual": None if added is None else _bits(residual),
                "weight": _bits(weight[None])[0],
                "eps": _hex(1e-6),
                "sum": None if added is None else _bits(added),
                "out": _bits(out),
            }
        )
    _write(
        file,
        cases,
        what=f"Hugging Face's {norm.__name__} on a CPU; a string a row, a bit pattern an element",
        seed=SEED,
        versions={
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    )


def mrope_transformers_cases() -> None:
    """Return Qwen2-VL's rotation and Qwen3.5's on the CPU, each with the tables of its own module."""
    from transformers.models.qwen2_vl import modeling_qwen2_vl
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig
    from transformers.models.qwen3_5 import modeling_qwen3_5
    from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig

    sizes = {"num_attention_heads": 3, "num_key_value_heads": 2, "max_position_embeddings": 64}
    rope = {"rope_type": "default", "rope_theta": 100.0}
    sectioned = Qwen2VLTextConfig(hidden_size=96, **sizes, rope_parameters={**rope, "mrope_section": [4, 6, 6]})
    interleaved = Qwen3_5TextConfig(
        hidden_size=96,
        head_dim=64,
        **sizes,
        rope_parameters={**rope, "mrope_section": [3, 3, 2], "partial_rotary_factor": 0.25},
    )
    _rotation_cases(
        "mrope_qwen2_vl.json",
        modeling_qwen2_vl.Qwen2VLRotaryEmbedding(sectioned),
        modeling_qwen2_vl.apply_rotary_pos_emb,
        head_dim=32,
        interleaved=False,
    )
    _rotation_cases(
        "mrope_qwen3_5.json",
        modeling_qwen3_5.Qwen3_5TextRotaryEmbedding(interleaved),
        modeling_qwen3_5.apply_rotary_pos_emb,
        head_dim=64,
        interleaved=True,
    )


def _rotation_cases(file: str, rotary: Any, apply: Any, *, head_dim: int, interleaved: bool) -> None:
    """Return one model's cases: the table has the module's values for text at every position."""
    import torch
    import transformers

    draw = torch.Generator().manual_seed(SEED)
    tokens, cache = 5, 40
    cases: list[dict[str, Any]] = []
    for dtype, scale in itertools.product(DTYPES, (1.0, 30.0)):
        q, k = (
            (scale * torch.randn(1, heads, tokens, head_dim, generator=draw)).to(getattr(torch, dtype))
            for heads in (3, 2)
        )
        positions = torch.randint(cache, (3, tokens), generator=draw)
        cos, sin = (table[0] for table in rotary(q, torch.arange(cache).expand(3, 1, cache)))
        with torch.no_grad():
            rotated = apply(q, k, *rotary(q, positions[:, None]))
        half = cos.shape[1] // 2
        flat = [tensor[0].transpose(0, 1).reshape(tokens, -1) for tensor in (q, k, *rotated)]
        cases.append(
            {
                "id": f"{len(cases):02d}-{dtype}-{2 * half}-of-{head_dim}",
                "dtype": dtype,
                "head_dim": head_dim,
                "sections": list(rotary.mrope_section),
                "interleaved": interleaved,
                "positions": positions.tolist(),
                "cos": _bits(cos[:, :half]),
                "sin": _bits(sin[:, :half]),
            }
            | dict(zip(("q", "k", "rotated_q", "rotated_k"), map(_bits, flat), strict=True))
        )
    _write(
        file,
        cases,
        what=f"Hugging Face's {type(rotary).__name__} and apply_rotary_pos_emb on a CPU; a string a row, a bit "
        "pattern an element",
        seed=SEED,
        versions={
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    )


def rope_transformers_cases() -> None:
    """Return the rotations of Llama, GPT-NeoX and GPT-J on the CPU, with tables in the dtype of q."""
    import torch
    from transformers.models.gpt_neox import modeling_gpt_neox
    from transformers.models.gptj import modeling_gptj
    from transformers.models.llama import modeling_llama

    def halves(model: Any) -> Any:
        return lambda q, k, *angles: model.apply_rotary_pos_emb(q, k, *(torch.cat((a, a), -1) for a in angles))

    def neighbours(q: Any, k: Any, cos: Any, sin: Any) -> Any:
        # GPT-J has tokens before heads, and cuts the rotated part out itself
        for x in (q, k):
            turned, rest = x.transpose(1, 2).tensor_split([2 * cos.shape[-1]], -1)
            turned = modeling_gptj.apply_rotary_pos_emb(turned, sin, cos)
            yield torch.cat((turned, rest), -1).transpose(1, 2)

    _rope_cases("rope_llama.json", "Llama", halves(modeling_llama), head_dim=32, half=16, pairs="halves")
    _rope_cases("rope_gpt_neox.json", "GPT-NeoX", halves(modeling_gpt_neox), head_dim=32, half=4, pairs="halves")
    _rope_cases("rope_gptj.json", "GPT-J", neighbours, head_dim=32, half=8, pairs="neighbours")


def _rope_cases(file: str, model: str, apply: Any, *, head_dim: int, half: int, pairs: str) -> None:
    """Return one model's cases: the angles of the positions are looked up in tables."""
    import torch
    import transformers

    draw = torch.Generator().manual_seed(SEED)
    tokens, cache = 5, 40
    angles = torch.outer(torch.arange(cache), 100.0 ** (-torch.arange(half) / half))
    cases: list[dict[str, Any]] = []
    for dtype, scale in itertools.product(DTYPES, (1.0, 30.0)):
        kind = getattr(torch, dtype)
        q, k = ((scale * torch.randn(1, n, tokens, head_dim, generator=draw)).to(kind) for n in (3, 2))
        positions = torch.randint(cache, (tokens,), generator=draw)
        cos, sin = angles.cos().to(kind), angles.sin().to(kind)
        rotated = apply(q, k, cos[positions][None], sin[positions][None])
        flat = [tensor[0].transpose(0, 1).reshape(tokens, -1) for tensor in (q, k, *rotated)]
        cases.append(
            {
                "id": f"{len(cases):02d}-{dtype}-{2 * half}-of-{head_dim}",
                "dtype": dtype,
                "head_dim": head_dim,
                "pairs": pairs,
                "positions": positions.tolist(),
                "cos": _bits(cos),
                "sin": _bits(sin),
            }
            | dict(zip(("q", "k", "rotated_q", "rotated_k"), map(_bits, flat), strict=True))
        )
    _write(
        file,
        cases,
        what=f"Hugging Face's apply_rotary_pos_emb of {model} on a CPU; a string a row, a bit pattern an element",
        seed=SEED,
        versions={
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    )


def qk_norm_rope_transformers_cases() -> None:
    """Return norms and rotations of Qwen3 and Qwen3-Next on the CPU, with parameters in the dtype of q."""
    from transformers.models.qwen3 import modeling_qwen3
    from transformers.models.qwen3_next import modeling_qwen3_next

    _qk_norm_rope_cases("qwen3", modeling_qwen3, modeling_qwen3.Qwen3RMSNorm, half=16, offset=0.0)
    next_norm = modeling_qwen3_next.Qwen3NextRMSNorm
    _qk_norm_rope_cases("qwen3_next", modeling_qwen3_next, next_norm, half=4, offset=1.0)


def _qk_norm_rope_cases(model: str, module: Any, norm: Any, *, half: int, offset: float) -> None:
    """Return one model's cases: heads of 32, in halves, as its attention has them."""
    import torch
    import transformers

    draw = torch.Generator().manual_seed(SEED)
    tokens, cache, size = 5, 40, 32
    angles = torch.outer(torch.arange(cache), 100.0 ** (-torch.arange(half) / half))
    cases: list[dict[str, Any]] = []
    for dtype, scale in itertools.product(DTYPES, (1.0, 30.0)):
        kind = getattr(torch, dtype)
        q, k = ((scale * torch.randn(1, n, tokens, size, generator=draw)).to(kind) for n in (3, 2))
        weights = [(torch.rand(size, generator=draw) + 0.5 - offset).to(kind) for _ in range(2)]
        positions = torch.randint(cache, (tokens,), generator=draw)
        cos, sin = angles.cos().to(kind), angles.sin().to(kind)
        normed = []
        for x, weight in zip((q, k), weights, strict=True):
            norms = norm(size, eps=1e-6)
            norms.weight = torch.nn.Parameter(weight, requires_grad=False)
            normed.append(norms(x))
        tables = (torch.cat((a, a), -1)[positions][None] for a in (cos, sin))
        rotated = module.apply_rotary_pos_emb(*normed, *tables)
        flat = [tensor[0].transpose(0, 1).reshape(tokens, -1) for tensor in (q, k, *rotated)]
        cases.append(
            {
                "id": f"{len(cases):02d}-{dtype}-{2 * half}-of-{size}",
                "dtype": dtype,
                "head_dim": size,
                "pairs": "halves",
                "weight_offset": _hex(offset),
                "eps": _hex(1e-6),
                "q_weight": _bits(weights[0][None])[0],
                "k_weight": _bits(weights[1][None])[0],
                "positions": positions.tolist(),
                "cos": _bits(cos),
                "sin": _bits(sin),
            }
            | dict(zip(("q", "k", "rotated_q", "rotated_k"), map(_bits, flat), strict=True))
        )
    _write(
        f"qk_norm_rope_{model}.json",
        cases,
        what=f"Hugging Face's {norm.__name__} of q and k, then apply_rotary_pos_emb of its module, on a CPU; a "
        "string a row, a bit pattern an element",
        seed=SEED,
        versions={
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    )


def _bits(tensor: Any) -> list[str]:
    """Return the rows of a matrix as bit patterns, most significant digit first."""
    import torch

    size = tensor.element_size()
    integers = tensor.contiguous().view({2: torch.int16, 4: torch.int32}[size]).tolist()
    mask = (1 << 8 * size) - 1
    return [" ".join(f"{v & mask:0{2 * size}x}" for v in row) for row in integers]


# Both


def _hex(value: float) -> str:
    """Return a number for ``float.fromhex``, without the zeros that fill a double."""
    mantissa, exponent = value.hex().split("p")
    return f"{mantissa.rstrip('0').rstrip('.')}p{exponent}" if value else value.hex()


def _write(name: str, cases: list[dict[str, Any]], **origin: object) -> None:
    """Write one case a line, so that a difference is readable."""
    origin |= {"date": DATE, "made_by": f"conformance/selftest/{Path(__file__).name}"}
    lines = ",\n".join(json.dumps(case) for case in cases)
    text = f'{{"origin": {json.dumps(origin, indent=1)},\n"cases": [\n{lines}\n]}}\n'
    GOLDEN.mkdir(exist_ok=True)
    (GOLDEN / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    MAKERS = {
        "mpmath": (
            gated_mpmath_cases,
            norm_mpmath_cases,
            layer_mpmath_cases,
            silu_mpmath_cases,
            gelu_mpmath_cases,
            l2_mpmath_cases,
            softmax_mpmath_cases,
            masked_softmax_mpmath_cases,
            mrope_mpmath_cases,
            rope_mpmath_cases,
            qk_norm_rope_mpmath_cases,
            fp8_mpmath_cases,
            quantise_mpmath_cases,
            int8_mpmath_cases,
        ),
        "transformers": (
            gated_transformers_cases,
            norm_transformers_cases,
            mrope_transformers_cases,
            rope_transformers_cases,
            qk_norm_rope_transformers_cases,
        ),
    }
    for make in MAKERS[sys.argv[1]]:
        make()
