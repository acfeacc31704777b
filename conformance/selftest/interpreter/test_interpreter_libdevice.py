"""Device functions of libraries in the interpreter: formulas checked against another source, and imports."""

import importlib.util
import inspect
import os
import re
from typing import Any

import mpmath
import numpy as np
import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("this process compiles its kernels: it cannot interpret them", allow_module_level=True)

import triton
import triton.language as tl
from triton.language.extra import cuda, libdevice

# as in a kernel's module, which may be imported before the interpreter is installed
from triton.language.extra.libdevice import rsqrt
from triton.runtime import interpreter as shipped

from conformance import interpreter
from conformance.adapter import Unsupported
from conformance.interpreter.libdevice import compute, fuses

SYMBOLS = sorted(set(re.findall(r'"(__nv_\w+)"', inspect.getsource(cuda.libdevice))))
# Functions without a formula in NumPy or PyTorch: directed roundings of inexact results, and these.
DIRECTED = re.compile(r"_r[dzu]$")
WITHOUT = {
    "__nv_brev",
    "__nv_brevll",
    "__nv_byte_perm",
    "__nv_clz",
    "__nv_clzll",
    "__nv_double2hiint",
    "__nv_double2loint",
    "__nv_ffs",
    "__nv_ffsll",
    "__nv_hadd",
    "__nv_hiloint2double",
    "__nv_ilogb",
    "__nv_ilogbf",
    "__nv_jn",
    "__nv_jnf",
    "__nv_logb",
    "__nv_logbf",
    "__nv_mul64hi",
    "__nv_mulhi",
    "__nv_rcp64h",
    "__nv_remainder",
    "__nv_remainderf",
    "__nv_rhadd",
    "__nv_sad",
    "__nv_tgamma",
    "__nv_tgammaf",
    "__nv_uhadd",
    "__nv_umul24",
    "__nv_umul64hi",
    "__nv_umulhi",
    "__nv_urhadd",
    "__nv_usad",
    "__nv_yn",
    "__nv_ynf",
}

ORDINARY = (-3.7, -1.0, -0.4, -1e-5, 1e-5, 0.3, 0.999, 1.0, 2.5, 9.25)
POSITIVE = (1e-30, 1e-5, 0.3, 0.999, 1.0, 2.5, 9.25, 1e20)
INSIDE = (-0.999, -0.4, -1e-5, 1e-5, 0.3, 0.75)
# Names of the stubs, their formulas, and their arguments.
UNARY: dict[str, tuple[Any, tuple[float, ...]]] = {
    "acos": (mpmath.acos, INSIDE),
    "asin": (mpmath.asin, INSIDE),
    "atan": (mpmath.atan, ORDINARY),
    "cbrt": (mpmath.cbrt, POSITIVE),
    "cos": (mpmath.cos, ORDINARY),
    "cosh": (mpmath.cosh, ORDINARY),
    "cospi": (mpmath.cospi, ORDINARY),
    "cyl_bessel_i0": (lambda x: mpmath.besseli(0, x), ORDINARY),
    "erf": (mpmath.erf, ORDINARY),
    "erfc": (mpmath.erfc, ORDINARY),
    "erfcinv": (lambda x: mpmath.erfinv(1 - x), (0.25, 0.75, 1.5)),
    "erfinv": (mpmath.erfinv, INSIDE),
    "exp": (mpmath.exp, ORDINARY),
    "exp10": (lambda x: mpmath.power(10, x), ORDINARY),
    "exp2": (lambda x: mpmath.power(2, x), ORDINARY),
    "expm1": (mpmath.expm1, ORDINARY),
    "fast_cosf": (mpmath.cos, ORDINARY),
    "fast_expf": (mpmath.exp, ORDINARY),
    "fast_log2f": (lambda x: mpmath.log(x, 2), POSITIVE),
    "fast_logf": (mpmath.log, POSITIVE),
    "fast_sinf": (mpmath.sin, ORDINARY),
    "lgamma": (mpmath.loggamma, POSITIVE),
    "log": (mpmath.log, POSITIVE),
    "log10": (mpmath.log10, POSITIVE),
    "log1p": (mpmath.log1p, POSITIVE),
    "log2": (lambda x: mpmath.log(x, 2), POSITIVE),
    "normcdf": (mpmath.ncdf, ORDINARY),
    "rcbrt": (lambda x: 1 / mpmath.cbrt(x), POSITIVE),
    "rcp_rn": (lambda x: 1 / x, POSITIVE),
    "rsqrt": (lambda x: 1 / mpmath.sqrt(x), POSITIVE),
    "rsqrt_rn": (lambda x: 1 / mpmath.sqrt(x), POSITIVE),
    "sin": (mpmath.sin, ORDINARY),
    "sinh": (mpmath.sinh, ORDINARY),
    "sqrt": (mpmath.sqrt, POSITIVE),
    "sqrt_rn": (mpmath.sqrt, POSITIVE),
    "tan": (mpmath.tan, ORDINARY),
    "tanh": (mpmath.tanh, ORDINARY),
}
BINARY: dict[str, Any] = {
    "add_rn": lambda x, y: x + y,
    "atan2": mpmath.atan2,
    "div_rn": lambda x, y: x / y,
    "fast_dividef": lambda x, y: x / y,
    "fast_powf": mpmath.power,
    "hypot": mpmath.hypot,
    "mul_rn": lambda x, y: x * y,
    "pow": mpmath.power,
    "rhypot": lambda x, y: 1 / mpmath.hypot(x, y),
    "sub_rn": lambda x, y: x - y,
}


@pytest.fixture(autouse=True)
def _installed() -> None:
    interpreter.install()


def tensor(numbers: Any, ty: Any = tl.float32) -> Any:
    """Return a block as a kernel represents it."""
    data = np.asarray(numbers, "f4" if ty == tl.float32 else "i4")
    return tl.tensor(shipped.TensorHandle(data, ty), tl.block_type(ty, [data.size]))


def exact_within_rounding(got: Any, want: list[Any]) -> bool:
    """Return whether each number is the fp32 nearest to the exact one, but for ties and fp64's own error."""
    return all(
        abs(mpmath.mpf(float(number)) - exact) <= 0.5001 * float(np.spacing(np.abs(np.float32(number))))
        for number, exact in zip(got, want, strict=True)
    )


@pytest.mark.parametrize("name", UNARY)
def test_a_function_is_its_formula_rounded_once(name: str) -> None:
    """The stub of the language gives the fp32 number nearest to what 50 digits say."""
    meaning, where = UNARY[name]
    given = np.resize(np.array(where, "f4"), 16)
    with mpmath.workdps(50):
        want = [meaning(mpmath.mpf(float(x))) for x in given]

        assert exact_within_rounding(getattr(libdevice, name)(tensor(given)).handle.data, want)


@pytest.mark.parametrize("name", BINARY)
def test_a_function_of_two_is_its_formula_rounded_once(name: str) -> None:
    """The stub gives the fp32 number nearest to 50 digits, for every pair of a few numbers."""
    x, y = (grid.ravel() for grid in np.meshgrid(*np.array([[0.3, 1.0, 2.5, 9.25], [0.7, 1, 3, 5]], "f4")))
    with mpmath.workdps(50):
        want = [BINARY[name](mpmath.mpf(float(a)), mpmath.mpf(float(b))) for a, b in zip(x, y, strict=True)]

        assert exact_within_rounding(getattr(libdevice, name)(tensor(x), tensor(y)).handle.data, want)


def test_every_symbol_computes_or_says_that_it_cannot() -> None:
    """No symbol of CUDA's library does nothing silently; symbols without a formula are listed by name."""
    without = set()
    for symbol in SYMBOLS:
        try:
            with np.errstate(all="ignore"):
                _computes(symbol)
        except Unsupported:
            without.add(symbol)

    assert WITHOUT == {symbol for symbol in without if not DIRECTED.search(symbol)}


def _computes(symbol: str) -> None:
    """Call a symbol with the numbers that it takes, integers where it needs them."""
    if fuses(symbol):
        return
    for given in ("f", "ff", "fff", "ffff", "i", "fi", "ii"):
        data = [np.ones(2, "f4" if kind == "f" else "i4") for kind in given]
        try:
            compute(symbol, data, tl.float32)
        except TypeError:
            continue
        return
    pytest.fail(f"{symbol} takes no arguments that were tried")


@pytest.mark.parametrize(
    ("name", "given", "want"),
    [
        ("float2int_rn", [2.5, -2.5, 1e30, np.nan], [2, -2, 2**31 - 1, 0]),
        ("float2int_rz", [2.9, -2.9, -1e30, 0.5], [2, -2, -(2**31), 0]),
        ("float2int_rd", [2.9, -2.1, 0.5, -0.5], [2, -3, 0, -1]),
        ("float2int_ru", [2.1, -2.9, 0.5, -0.5], [3, -2, 1, 0]),
        ("isnan", [np.nan, np.inf, 0, 1], [1, 0, 0, 0]),
        ("isinf", [np.nan, np.inf, -np.inf, 1], [0, 1, 1, 0]),
        ("finitef", [np.nan, np.inf, 0, 1], [0, 0, 1, 1]),
        ("round", [0.5, -0.5, 2.5, 0.49999997], [1, -1, 3, 0]),
        ("nearbyint", [0.5, -0.5, 2.5, 3.5], [0, 0, 2, 4]),
        ("trunc", [0.5, -1.5, 2.5, -3.5], [0, -1, 2, -3]),
        ("saturatef", [-1.0, 0.25, 7.0, np.nan], [0, 0.25, 1, 0]),
        ("abs", [-1.5, 0.25, 7.0, -8], [1.5, 0.25, 7, 8]),
        ("float_as_int", [1.0, 0.0, 2.0, 0.5], [0x3F800000, 0, 0x40000000, 0x3F000000]),
    ],
)
def test_what_is_no_formula_is_as_cuda_says(name: str, given: list[float], want: list[float]) -> None:
    """Conversions round as requested and saturate, tests return integers, bits are reinterpreted."""
    assert want == getattr(libdevice, name)(tensor(given)).handle.data.tolist()


def test_every_stub_computes() -> None:
    """No name of the language's own module stays a stub that returns None."""
    assert not [
        name for name, member in vars(libdevice).items() if getattr(member, "__module__", "") == libdevice.__name__
    ]


def test_fma_rounds_once() -> None:
    """The result is right also if the product alone overflows."""
    x = tensor([1 + 2**-12] * 4)

    assert [2.0**-24] * 4 == libdevice.fma(x, x, tensor([-1 - 2**-11] * 4)).handle.data.tolist()


def test_a_type_that_the_library_does_not_have_is_refused() -> None:
    """The interpreter refuses bf16 as the compiler does: CUDA's library has no bf16 functions."""
    with pytest.raises((KeyError, ValueError)):
        libdevice.rsqrt(tensor([1.0, 2.0]).to(tl.bfloat16))


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def stub_kernel(x_ptr: Any, out_ptr: Any, BLOCK: tl.constexpr) -> None:
    """Store 1/sqrt(x)."""
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr + i, rsqrt(tl.load(x_ptr + i)))


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def module_kernel(x_ptr: Any, out_ptr: Any, BLOCK: tl.constexpr) -> None:
    """Store 1/sqrt(x)."""
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr + i, libdevice.rsqrt(tl.load(x_ptr + i)))


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def cuda_kernel(x_ptr: Any, out_ptr: Any, BLOCK: tl.constexpr) -> None:
    """Store 1/sqrt(x)."""
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.extra.cuda.libdevice.rsqrt(tl.load(x_ptr + i)))


def _from_a_copy(name: str) -> Any:
    """Return a function of a module that is executed again, as a library does that searches for one."""
    spec = importlib.util.find_spec("triton.language.extra.libdevice")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


copied_rsqrt = _from_a_copy("rsqrt")


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def copied_kernel(x_ptr: Any, out_ptr: Any, BLOCK: tl.constexpr) -> None:
    """Store 1/sqrt(x)."""
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr + i, copied_rsqrt(tl.load(x_ptr + i)))


@tl.core.extern  # type: ignore[untyped-decorator]  # triton has no types
def own_rsqrt(x: Any, _semantic: Any = None) -> Any:
    """Name a symbol, as a library does that declares its own externs."""
    symbols = {(tl.core.dtype("fp32"),): ("__nv_rsqrtf", tl.core.dtype("fp32"))}
    return tl.core.extern_elementwise("", "", [x], symbols, is_pure=True, _semantic=_semantic)


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def own_kernel(x_ptr: Any, out_ptr: Any, BLOCK: tl.constexpr) -> None:
    """Store 1/sqrt(x)."""
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr + i, own_rsqrt(tl.load(x_ptr + i)))


@pytest.mark.parametrize(
    "kernel", [stub_kernel, module_kernel, cuda_kernel, copied_kernel, own_kernel], ids=lambda k: k.__name__
)
def test_a_kernel_finds_the_function(kernel: Any) -> None:
    """Every import works: a name, a module, CUDA's own, a copy of the module, a declaration."""
    x, out = torch.tensor([0.25, 1.0, 4.0, 16.0]), torch.zeros(4)
    kernel[(1,)](x, out, BLOCK=4)

    assert [2.0, 1.0, 0.5, 0.25] == out.tolist()
