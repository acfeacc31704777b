"""The interpreter that judges low precision on a CPU is faithful, and a fault in it would be noticed."""

import ctypes
import mmap
import os
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("this process compiles its kernels: it cannot interpret them", allow_module_level=True)

import triton
import triton.language as tl
from triton.runtime import interpreter as shipped
from triton.runtime.errors import InterpreterError

from conformance import interpreter
from conformance.interpreter import faithful, launching, rounding
from conformance.selftest.processes import ran_alone

ROWS, COLS = 4, 8


@pytest.fixture(autouse=True)
def _installed() -> None:
    interpreter.install()


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def copy_kernel(
    x_ptr: Any,
    out_ptr: Any,
    x_row_stride: Any,
    x_col_stride: Any,
    out_row_stride: Any,
    out_col_stride: Any,
    n_cols: Any,
    ROUNDING: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
) -> None:
    """``out[i, j] = x[i, j]``, cast."""
    row, col = tl.arange(0, ROWS)[:, None], tl.arange(0, COLS)[None, :]
    mask = (row < ROWS) & (col < n_cols)
    x = tl.load(x_ptr + row * x_row_stride + col * x_col_stride, mask=mask, other=0.0)
    if ROUNDING is not None:
        x = x.to(out_ptr.dtype.element_ty, fp_downcast_rounding=ROUNDING)
    out = x.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row * out_row_stride + col * out_col_stride, out, mask=mask)


def copy(x: torch.Tensor, out: torch.Tensor, *, rounding: str | None = None) -> torch.Tensor:
    """Launch ``copy_kernel`` on two [4, 8] tensors of any strides."""
    copy_kernel[(1,)](x, out, *x.stride(), *out.stride(), COLS, ROUNDING=rounding, ROWS=ROWS, COLS=COLS)
    return out


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def edge_kernel(x_ptr: Any, out_ptr: Any, n: Any, BLOCK: tl.constexpr) -> None:
    """Store exp(x), the largest of x, and 7 under a mask that is a scalar comparison."""
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i)
    tl.store(out_ptr + i, tl.exp(x))
    tl.store(out_ptr + BLOCK, tl.max(x, axis=0))
    tl.store(out_ptr + BLOCK + 1, 7.0, mask=n > 20)
    tl.store(out_ptr + BLOCK + 2, 7.0, mask=n > 30)


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def square_kernel(out_ptr: Any, number: Any) -> None:
    """Store the square of an argument."""
    tl.store(out_ptr, number * number)


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def tree_kernel(x_ptr: Any, out_ptr: Any, ROWS: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr) -> None:
    """Sum rows as a tree of neighbours; each turn of the loop halves the block."""
    x = tl.load(x_ptr + tl.arange(0, ROWS)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :])
    for step in tl.static_range(DEPTH):
        x = tl.sum(tl.reshape(x, (ROWS, BLOCK >> (step + 1), 2)), axis=2)
    tl.store(out_ptr + tl.arange(0, ROWS)[:, None], x)


def test_the_installed_interpreter_is_faithful() -> None:
    """Every cast, operator and reduction of the self-test is right here, and so is its quick part."""
    assert interpreter.self_test() == ()
    assert interpreter.cast_test() == ()
    assert interpreter.unfaithful() is None


def test_the_shipped_interpreter_is_not() -> None:
    """The self-test, before installing, names each kind of error in Triton's own interpreter."""
    done = ran_alone(
        "from conformance.interpreter import self_test, unfaithful\nprint(*self_test(), unfaithful(), sep='\\n')",
        TRITON_INTERPRET="1",
    )
    *failed, reason = done.stdout.splitlines()
    always = {"fp32 to bf16", "bf16 to fp32", "fp32 to fp8e4nv", "fp32 to fp8e4b8", "bf16 +", "fp8e5 <"}

    assert always | {"scalar < is int1", "bf16 dot", "fp32 sum over axis 0"} <= set(failed), done.stderr
    assert "fp32 to bf16" in reason


@pytest.mark.parametrize("value", [{}, {"TRITON_INTERPRET": "0"}], ids=["unset", "zero"])
def test_install_needs_an_interpreting_triton(value: dict[str, str]) -> None:
    """If Triton was imported to compile, installing raises and names the required setting."""
    done = ran_alone("from conformance import interpreter; interpreter.install()", **value)

    assert done.returncode == 1
    assert "RuntimeError: interpreter.install: TRITON_INTERPRET must be 1" in done.stderr


def test_installing_again_changes_nothing() -> None:
    """A second call and a launch leave the language as the first call made it."""
    before = (tl.load, tl.core.load, tl.tensor.__add__, tl.dtype.to_ir, shipped.ReduceOps)

    interpreter.install()
    copy(torch.ones(ROWS, COLS), torch.empty(ROWS, COLS))

    assert before == (tl.load, tl.core.load, tl.tensor.__add__, tl.dtype.to_ir, shipped.ReduceOps)


ENCODE = rounding.encode


def truncate(numbers: Any, ty: Any) -> Any:
    """Encode bf16 by truncation."""
    if ty == tl.bfloat16:
        return (np.asarray(numbers, "f4").view("u4") >> 16).astype("u2")
    return ENCODE(numbers, ty)


def round_away(numbers: Any, ty: Any) -> Any:
    """Encode bf16 to nearest, ties away from zero."""
    if ty == tl.bfloat16:
        return ((np.asarray(numbers, "f4").view("u4") + 0x8000) >> 16).astype("u2")
    return ENCODE(numbers, ty)


@pytest.mark.parametrize(
    ("home", "name", "fault", "noticed"),
    [
        (rounding, "encode", truncate, "fp32 to bf16"),
        (rounding, "encode", round_away, "bf16 +"),
        (rounding, "round_to_odd", lambda rounded, error: rounded, "fma rounds once"),
        (rounding, "round_to_odd", lambda rounded, error: rounded, "fp64 to bf16"),
        (rounding, "convert_float", rounding.shipped_convert_float, "fp32 to fp8e4nv"),
        (rounding, "decode", lambda data, ty: data, "bf16 <"),
        (faithful, "implicit_cvt", faithful.shipped_implicit_cvt, "float argument is fp32"),
        (launching, "_annotated", lambda kernel: (), "argument has its annotation's type"),
    ],
)
def test_a_planted_fault_is_noticed(
    monkeypatch: pytest.MonkeyPatch, home: ModuleType, name: str, fault: Any, noticed: str
) -> None:
    """A conversion with one fault fails the check of that fault."""
    monkeypatch.setattr(home, name, fault)
    if f"_{name}" in faithful.REPLACEMENTS:
        monkeypatch.setattr(shipped, f"_{name}", fault)

    assert noticed in interpreter.self_test()


@pytest.mark.parametrize(
    ("replacement", "method", "noticed", "since"),
    [
        (faithful.FaithfulBuilder, "cast_impl", "int32 to bf16", "3.6"),
        (faithful.FaithfulBuilder, "unary_op", "bf16 negate", "3.8"),
        (faithful.FaithfulBuilder, "binary_op", "bf16 +", "3.6"),
        (faithful.FaithfulBuilder, "ternary_op", "bf16 clamp with NaN", "3.9"),
        (faithful.FaithfulBuilder, "create_fma", "bf16 fma", "3.6"),
        (faithful.FaithfulBuilder, "create_dot", "bf16 dot", "3.6"),
        (faithful.FaithfulReduceOps, "sum", "fp32 sum over axis 0", "3.6"),
        (faithful.FaithfulReduceOps, "min_max", "fp32 extremes over axis 1", "3.6"),
    ],
)
def test_a_method_left_as_shipped_is_noticed(
    monkeypatch: pytest.MonkeyPatch, replacement: type, method: str, noticed: str, since: str
) -> None:
    """From the first version that calls it, each replaced method is needed: without it the self-test fails."""
    monkeypatch.delattr(replacement, method)
    reached = [int(part) for part in triton.__version__.split(".")[:2]] >= [int(part) for part in since.split(".")]

    assert reached == (noticed in interpreter.self_test())


def test_a_method_that_triton_does_not_have_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replacing a missing method replaces nothing, so the self-test reports it."""
    monkeypatch.delattr(faithful.FaithfulExecutor.__base__, "_restore_args_dev")

    assert interpreter.self_test() == ("GridExecutor._restore_args_dev is missing",)


def views() -> dict[str, torch.Tensor]:
    """Return [4, 8] bf16 views of every kind that storage allows."""
    owner = torch.arange(1.0, 129.0, dtype=torch.bfloat16)
    return {
        "contiguous": owner[:32].view(ROWS, COLS),
        "offset": owner[1:33].view(ROWS, COLS),
        "row gap": owner.view(8, 16)[:ROWS, 3 : 3 + COLS],
        "step": owner.view(8, 16)[::2, ::2],
        "transposed": owner[:32].view(COLS, ROWS).t(),
        "expanded": owner[:COLS].expand(ROWS, COLS),
        "overlapping": owner.as_strided((ROWS, COLS), (3, 1), 5),
    }


@pytest.mark.parametrize("layout", views())
def test_any_layout_is_read(layout: str) -> None:
    """An argument is read at its strides, and left unchanged."""
    x = views()[layout]

    assert torch.equal(x, copy(x, torch.empty(ROWS, COLS, dtype=x.dtype)))
    assert torch.equal(views()[layout], x)


@pytest.mark.parametrize("layout", sorted(views().keys() - {"expanded", "overlapping"}))
def test_any_layout_is_written_in_place(layout: str) -> None:
    """A result is written to the caller's memory, and no other memory changes."""
    out, x = views()[layout], -torch.arange(32.0).view(ROWS, COLS)
    beside = views()[layout].untyped_storage()
    expected = torch.empty(0, dtype=out.dtype).set_(beside, out.storage_offset(), out.shape, out.stride())
    expected.copy_(x)

    copy(x, out)

    assert bytes(beside) == bytes(out.untyped_storage())


@pytest.fixture
def fenced() -> Iterator[torch.Tensor]:
    """Return a [4, 8] fp32 tensor in a read-only page, between two unreadable ones."""
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 3 * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    x = torch.frombuffer(memory, dtype=torch.float32, offset=2 * page - 128, count=32).view(ROWS, COLS)
    x.copy_(torch.arange(32.0).view(ROWS, COLS))
    mprotect = ctypes.CDLL(None, use_errno=True).mprotect
    for index, protection in enumerate((0, mmap.PROT_READ, 0)):
        assert mprotect(ctypes.c_void_p(start + index * page), ctypes.c_size_t(page), protection) == 0
    yield x
    assert mprotect(ctypes.c_void_p(start), ctypes.c_size_t(3 * page), mmap.PROT_READ | mmap.PROT_WRITE) == 0


def test_an_argument_may_lie_in_read_only_memory_between_unreadable_pages(fenced: torch.Tensor) -> None:
    """Only the kernel accesses an argument's memory, never its neighbourhood, and nothing is written back."""
    out = copy(fenced, torch.empty(ROWS, COLS))

    assert torch.equal(torch.arange(32.0).view(ROWS, COLS), out)


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # nor has torch here
    """A dispatch mode that keeps the name of every operation."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_a_launch_is_not_seen_by_who_watches_the_caller(dtype: torch.dtype) -> None:
    """A dispatch mode sees the caller's operations before and after, and none of the interpreter's."""
    x, out = torch.ones(ROWS, COLS), torch.empty(ROWS, COLS, dtype=dtype)
    with Recorder() as recorder:
        torch.ones(1)
        copy(x, out)
        torch.ones(1)

    assert recorder.seen == ["aten.ones.default"] * 2


def test_a_failing_launch_leaves_the_watcher_in_place() -> None:
    """The dispatch mode is active again after a kernel raised."""
    x, out = torch.ones(ROWS, COLS), torch.empty(ROWS, COLS, dtype=torch.bfloat16)
    with Recorder() as recorder:
        with pytest.raises(InterpreterError, match="Invalid rounding mode"):
            copy(x, out, rounding="up")
        torch.ones(1)

    assert recorder.seen == ["aten.ones.default"]


def test_what_a_gpu_computes_in_silence_does_not_warn() -> None:
    """An overflowing exp gives infinity, a maximum of only NaN gives NaN; a scalar comparison is a mask."""
    out = torch.zeros(2, 5)
    edge_kernel[(1,)](torch.tensor([1000.0, torch.nan]), out[0], 25, BLOCK=2)
    edge_kernel[(1,)](torch.full((2,), torch.nan), out[1], 25, BLOCK=2)

    assert [str(number) for number in out[0].tolist()] == ["inf", "nan", "1000.0", "7.0", "0.0"]
    assert [str(number) for number in out[1].tolist()] == ["nan", "nan", "nan", "7.0", "0.0"]


def test_a_float_argument_is_fp32() -> None:
    """Arithmetic on scalar arguments underflows as on a GPU."""
    out = torch.ones(1, dtype=torch.float64)
    square_kernel[(1,)](out, 1e-30)

    assert out.item() == 0.0


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def loop_kernel(out_ptr: Any, n: Any, STEP: tl.constexpr) -> None:
    """Count the iterations of loops bounded by an argument, a program's number and numbers computed from both."""
    turns = 0
    for _ in range(tl.program_id(0).to(tl.int64), tl.cdiv(n, STEP), tl.num_programs(0)):
        turns += 1
    for _ in tl.range(0, n, STEP):
        turns += 100
    tl.store(out_ptr + tl.program_id(0), turns)


def test_a_loop_may_have_bounds_that_only_a_launch_knows() -> None:
    """Scalars are integers where Python needs one, whatever dimension NumPy gives them."""
    out = torch.zeros(3, dtype=torch.int32)
    loop_kernel[(3,)](out, 16, STEP=4)

    assert [402, 401, 401] == out.tolist()


def test_fp8_saturates_unless_told_otherwise() -> None:
    """A cast past the largest number gives that number; in a non-saturating scope, NaN or infinity."""
    x = torch.full((ROWS, COLS), 1e6)
    e4m3, e5m2 = torch.float8_e4m3fn, torch.float8_e5m2

    def cast(dtype: torch.dtype) -> float:
        return float(copy(-x, torch.empty(ROWS, COLS, dtype=dtype))[1, 2].float())

    assert (cast(e4m3), cast(e5m2)) == (-448.0, -57344.0)
    with interpreter.fp8_overflow("nan"):
        assert str(cast(e4m3)) == "nan"
        assert cast(e5m2) == -torch.inf
    assert cast(e4m3) == -448.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rounding_towards_zero_is_honoured(dtype: torch.dtype) -> None:
    """A cast with this rounding never increases a magnitude, and is at most one code from the nearest."""
    x = torch.randn(ROWS, COLS, generator=torch.Generator().manual_seed(0))
    out = copy(x, torch.empty(ROWS, COLS, dtype=dtype), rounding="rtz")
    behind = x.to(dtype).view(torch.int16) - out.view(torch.int16)

    assert (out.float().abs() <= x.abs()).all()
    assert set(behind.flatten().tolist()) == {0, 1}


def test_a_tree_of_neighbours_sums_as_written() -> None:
    """A loop that halves its block adds neighbours, level by level, bit for bit."""
    x = torch.randn(2, 256, generator=torch.Generator().manual_seed(0)) * 1e3
    out = torch.empty(2, 1)
    tree_kernel[(1,)](x, out, ROWS=2, BLOCK=256, DEPTH=8)
    expected = x
    while expected.shape[1] > 1:
        expected = expected[:, ::2] + expected[:, 1::2]

    assert torch.equal(expected, out)
