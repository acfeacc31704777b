"""Device functions of CUDA's and HIP's libraries, whose symbols Triton's interpreter does not have.

A function computes in fp64, and rounds once to its type. A directed rounding of an inexact result, and functions
without a formula in NumPy or PyTorch, are unsupported.
"""

import math
import re
from collections.abc import Callable, MutableMapping
from importlib import import_module
from operator import attrgetter
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter as shipped

from conformance.adapter import Unsupported
from conformance.interpreter.rounding import Array, Dtype, encode

Formula = Callable[..., Any]

# Functions without a body, which Triton's compiler looks up in the library of its target.
STUBS = "triton.language.extra.libdevice"
CUDA = "triton.language.extra.cuda.libdevice"
HIP = "triton.language.extra.hip.libdevice"
LIBRARIES = (
    CUDA,
    HIP,
    "triton.language.extra.cuda",
    "triton.language.extra.cuda.gdc",
    "triton.language.extra.hip",
)
# Order of grids: the interpreter ends one before it begins the next.
ORDERING = ("gdc_wait", "gdc_launch_dependents")


def _special(name: str) -> Formula:
    function = getattr(torch.special, name)
    return lambda x: function(torch.from_numpy(np.ascontiguousarray(x))).numpy().reshape(np.shape(x))


def _round_half_away(x: Array) -> Array:
    whole = np.trunc(x)
    return np.where(np.abs(x - whole) >= 0.5, whole + np.copysign(1.0, x), np.copysign(whole, x))


def _sin_of_halves(x: Array) -> Array:
    """Return sin(pi * x), exact where that is 0 or 1."""
    turn = x - 2.0 * np.rint(x / 2.0)
    return np.sin(math.pi * np.where(np.abs(turn) > 0.5, np.copysign(1.0, turn) - turn, turn))


def _norm(*terms: Array) -> Array:
    total: Array = np.sqrt(sum(term * term for term in terms))
    return total


# Arguments and result are fp64, or integers.
FORMULAS: dict[str, Formula] = {
    "abs": np.abs,
    "acos": np.arccos,
    "acosh": np.arccosh,
    "add": np.add,
    "asin": np.arcsin,
    "asinh": np.arcsinh,
    "atan": np.arctan,
    "atan2": np.arctan2,
    "atanh": np.arctanh,
    "cbrt": np.cbrt,
    "ceil": np.ceil,
    "copysign": np.copysign,
    "cos": np.cos,
    "cosh": np.cosh,
    "cospi": lambda x: _sin_of_halves(0.5 - np.fmod(np.abs(x), 2.0)),
    "cyl_bessel_i0": _special("i0"),
    "cyl_bessel_i1": _special("i1"),
    "div": np.divide,
    "erf": _special("erf"),
    "erfc": _special("erfc"),
    "erfcinv": lambda x: _special("ndtri")(x / 2) / -math.sqrt(2.0),
    "erfcx": _special("erfcx"),
    "erfinv": _special("erfinv"),
    "exp": np.exp,
    "exp10": lambda x: np.power(10.0, x),
    "exp2": np.exp2,
    "expm1": np.expm1,
    "fdim": lambda x, y: np.where(x <= y, 0.0, x - y),
    "floor": np.floor,
    "fmod": np.fmod,
    "hypot": np.hypot,
    "isfinite": np.isfinite,
    "isinf": np.isinf,
    "isnan": np.isnan,
    "j0": _special("bessel_j0"),
    "j1": _special("bessel_j1"),
    "ldexp": np.ldexp,
    "lgamma": _special("gammaln"),
    "log": np.log,
    "log10": np.log10,
    "log1p": np.log1p,
    "log2": np.log2,
    "mul": np.multiply,
    "nearbyint": np.rint,
    "norm3d": _norm,
    "norm4d": _norm,
    "normcdf": _special("ndtr"),
    "normcdfinv": _special("ndtri"),
    "pow": np.power,
    "powi": lambda x, n: np.power(x, n.astype(np.float64)),
    "rcbrt": lambda x: 1.0 / np.cbrt(x),
    "rcp": lambda x: 1.0 / x,
    "rhypot": lambda x, y: 1.0 / np.hypot(x, y),
    "rnorm3d": lambda *terms: 1.0 / _norm(*terms),
    "rnorm4d": lambda *terms: 1.0 / _norm(*terms),
    "round": _round_half_away,
    "rsqrt": lambda x: 1.0 / np.sqrt(x),
    "saturate": lambda x: np.fmin(np.fmax(x, 0.0), 1.0),
    "signbit": np.signbit,
    "sin": np.sin,
    "sinh": np.sinh,
    "sinpi": _sin_of_halves,
    "sqrt": np.sqrt,
    "sub": np.subtract,
    "tan": np.tan,
    "tanh": np.tanh,
    "trunc": np.trunc,
    "y0": _special("bessel_y0"),
    "y1": _special("bessel_y1"),
}
# Functions of data in their own type.
BITWISE: dict[str, Formula] = {
    "nextafter": np.nextafter,
    "popc": np.bitwise_count,
    "mul24": lambda x, y: x * y,
}
# Other names of the same functions.
ALIASES = {
    "fabs": "abs",
    "finite": "isfinite",
    "fdivide": "div",
    "fdiv": "div",
    "i0": "cyl_bessel_i0",
    "i1": "cyl_bessel_i1",
    "iabs": "abs",
    "isfinited": "isfinite",
    "isinfd": "isinf",
    "isnand": "isnan",
    "llabs": "abs",
    "llrint": "nearbyint",
    "llround": "round",
    "popcll": "popc",
    "pown": "powi",
    "rint": "nearbyint",
    "scalbn": "ldexp",
    "signbitd": "signbit",
}
ROUNDINGS = {"rn": np.rint, "rz": np.trunc, "rd": np.floor, "ru": np.ceil}
_ROUNDED = re.compile(r"[fd](add|sub|mul|div|rcp|sqrt|rsqrt)_rn")
_CONVERTED = re.compile(r"(?:float|double)2(?:u?int|u?ll)_(r[nzdu])")
_NUMBER = re.compile(r"(?:float|double|u?int|u?ll)2(?:float|double)_rn")
_FUSED = re.compile(r"__(?:nv|ocml)_fma(?:f|_f32|_f64)?(?:_rn)?")
_REINTERPRETED = re.compile(r"(?:float|double|u?int|longlong)_as_\w+")


def fuses(symbol: str) -> bool:
    """Return whether a library's function multiplies and adds with one rounding."""
    return _FUSED.fullmatch(symbol) is not None


def formula(symbol: str) -> Formula:
    """Return the formula of a library's symbol, of fp64 numbers. Raises ``Unsupported`` where there is none."""
    name = re.sub(r"^__(?:nv|ocml|triton_hip)_(?:fast_)?|_f(?:32|64)$", "", symbol)
    rounded, converted = _ROUNDED.fullmatch(name), _CONVERTED.fullmatch(name)
    if rounded:
        return FORMULAS[rounded[1]]
    if converted:
        return ROUNDINGS[converted[1]]
    if _NUMBER.fullmatch(name):
        return lambda x: x
    # a final f means fp32
    for known in (name, name.removesuffix("f")):
        if known in FORMULAS or known in ALIASES:
            return FORMULAS[ALIASES.get(known, known)]
    raise Unsupported(f"Triton's interpreter cannot run {symbol}, of a library of device functions")


def compute(symbol: str, arguments: list[Array], ty: Dtype) -> Array:
    """Return the result of a library's function for data that are numbers, rounded once to ``ty``."""
    name = re.sub(r"^__(?:nv|ocml|ockl)_|_[fu](?:32|64)$", "", symbol)
    if _REINTERPRETED.fullmatch(name):
        return arguments[0].view(shipped._get_np_dtype(ty))
    bitwise = BITWISE.get(name) or BITWISE.get(ALIASES.get(name, name.removesuffix("f")))
    if bitwise:
        return encode(bitwise(*arguments), ty)
    numbers = [data.astype(np.float64) if data.dtype.kind == "f" else data for data in arguments]
    result = np.asarray(formula(symbol)(*numbers))
    if result.dtype.kind == "f" and ty.is_int():
        return _saturated(result, shipped._get_np_dtype(ty))
    return encode(result, ty)


def _saturated(numbers: Array, dtype: Any) -> Array:
    """Convert whole numbers to integers as CUDA does: the nearest representable one, zero for NaN."""
    limits = np.iinfo(dtype)
    # the largest 64-bit integer is not an fp64 number
    over, under = numbers >= float(limits.max), numbers <= float(limits.min)
    inside = np.where(over | under | np.isnan(numbers), 0.0, numbers).astype(dtype)
    return np.where(over, limits.max, np.where(under, limits.min, inside)).astype(dtype)


# --- functions that kernels call ----------------------------------------------------------------------------


def interpreted(function: Any) -> Any:
    """Return the replacement that a kernel calls for a function that only a compiler can call, or None.

    A stub becomes CUDA's function of that name, or HIP's where only HIP has it; a function of a library, and a
    function that a kernel's author declares as external, gets the interpreter's rules.
    """
    if not isinstance(function, FunctionType):
        return None
    if function.__module__ == STUBS:
        named = [getattr(import_module(library), function.__name__, None) for library in (CUDA, HIP)]
        known = next(filter(None, named))
        return _bound(known) if tl.core.is_builtin(known) else known
    return _bound(function) if tl.core.is_builtin(function) else None


def _bound(function: Any) -> Any:
    body = getattr(function, "__wrapped__", function)

    def bound(*args: Any, **kwargs: Any) -> Any:
        return body(*args, **{**kwargs, "_semantic": shipped.interpreter_semantic})

    return bound


def resolve(names: MutableMapping[str, Any]) -> None:
    """Replace functions in a kernel's names with forms that the interpreter can call."""
    for name, value in list(names.items()):
        replacement = interpreted(value)
        if replacement is not None:
            names[name] = replacement


def _named(name: str) -> tuple[ModuleType, ModuleType]:
    """Return the module of a name, and its parent's attribute: for some names Triton makes two modules."""
    return import_module(name), attrgetter(name.removeprefix("triton.language."))(tl)


def install() -> None:
    """Make the libraries' functions compute, from whatever module a kernel imports them."""
    for module in (module for name in (*LIBRARIES, STUBS) for module in _named(name)):
        for ordering in set(ORDERING) & vars(module).keys():
            setattr(module, ordering, lambda: None)
        resolve(vars(module))
    shipped_rewrite = shipped.InterpretedFunction.rewrite

    def rewrite(kernel: Any) -> Any:
        # Triton's compiler looks functions up by the module that they name, not by the module of their import
        if kernel.fn not in kernel.rewritten_fn:
            resolve(kernel.fn.__globals__)
        return shipped_rewrite(kernel)

    shipped.InterpretedFunction.rewrite = rewrite
