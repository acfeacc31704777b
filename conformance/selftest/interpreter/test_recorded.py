"""Functions of the language give the same from a recording as by Triton's rules."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("this process compiles its kernels: it cannot interpret them", allow_module_level=True)

import triton
import triton.language as tl
from triton.runtime import interpreter as shipped

import normkernels as nk
from conformance import interpreter
from conformance.interpreter import recorded
from conformance.interpreter.rounding import Array

TYPES = (tl.int1, tl.int32, tl.uint32, tl.int64, tl.float16, tl.bfloat16, tl.float32, tl.float8e5)
FLOATS = {tl.float16, tl.bfloat16, tl.float32}
# Calls with two blocks [4, 8] and [1, 8], and with the rules that replace the recordings' own, or with none.
OF_NUMBERS: dict[str, Callable[..., Any]] = {
    "add": lambda x, y, **rules: x.__add__(y, **rules),
    "add itself": lambda x, _y, **rules: x.__add__(x, **rules),
    "multiply by 3": lambda x, _y, **rules: x.__mul__(3, **rules),
    "multiply from the left": lambda x, _y, **rules: x.__rmul__(tl.constexpr(3), **rules),
    "compare": lambda x, y, **rules: x.__lt__(y, **rules),
    "choose": lambda x, y, **rules: tl.where(x.__lt__(y, **rules), x, y, **rules),
    "convert": lambda x, _y, **rules: x.to(tl.float32, **rules),
    "keep": lambda x, _y, **rules: x.to(x.dtype, **rules),
    "broadcast": lambda _x, y, **rules: tl.broadcast_to(y, [4, 8], **rules),
    "expand": lambda x, _y, **rules: x.__getitem__((slice(None), None), **rules),
    "reshape": lambda x, _y, **rules: tl.reshape(x, (8, 4), **rules),
    "join and split": lambda x, _y, **rules: tl.split(tl.join(x, x, **rules), **rules),
    "range": lambda _x, _y, **rules: tl.arange(0, 8, **rules),
    "fill": lambda x, _y, **rules: tl.full([4], 1, x.dtype, **rules),
    "program": lambda _x, _y, **rules: tl.program_id(0, **rules),
}
OF_FLOATS: dict[str, Callable[..., Any]] = {
    "exponential": lambda x, _y, **rules: tl.exp2(x.to(tl.float32, **rules), **rules),
    "clamp": lambda x, y, **rules: tl.clamp(x, -1.0, tl.constexpr(0.5), **rules),
    "largest": lambda x, y, **rules: tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL, **rules),
    "negative zero": lambda x, _y, **rules: x.__mul__(-0.0, **rules),
    "zero": lambda x, _y, **rules: x.__mul__(0.0, **rules),
}
CALLS = [
    pytest.param(call, ty, id=f"{ty} {name}")
    for ty in TYPES
    for name, call in {**OF_NUMBERS, **(OF_FLOATS if ty in FLOATS else {})}.items()
    # these types have no constants
    if not (ty == tl.float8e5 and name in {"multiply by 3", "multiply from the left", "fill"})
]


@pytest.fixture(autouse=True)
def _installed() -> Iterator[None]:
    interpreter.install()
    shipped.interpreter_builder.set_grid_dim(9, 1, 1)
    shipped.interpreter_builder.set_grid_idx(0, 0, 0)
    with np.errstate(all="ignore"):
        yield


def block(ty: Any, shape: list[int], seed: int) -> Any:
    """Return a block of drawn numbers."""
    numbers = np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float32)
    wide = tl.tensor(shipped.TensorHandle(numbers, tl.float32), tl.block_type(tl.float32, shape))
    return wide.to(ty, _semantic=shipped.interpreter_semantic)


def bits(result: Any) -> list[tuple[str, Array]]:
    """Return the types and bits of the tensors in a result."""
    parts = result if isinstance(result, tuple) else (result,)
    return [(f"{part.type} {part.shape} {part.handle.dtype}", part.handle.data) for part in parts]


def same(got: Any, want: Any) -> bool:
    """Return whether two results have equal types and bits."""
    pairs = list(zip(bits(got), bits(want), strict=True))
    return all(a[0] == b[0] and a[1].shape == b[1].shape and a[1].tobytes() == b[1].tobytes() for a, b in pairs)


@pytest.mark.parametrize(("call", "ty"), CALLS)
def test_a_recording_gives_what_the_rules_give(call: Callable[..., Any], ty: Any) -> None:
    """The first call, and later ones with other numbers and in another program, have the rules' types and bits."""
    for seed in range(3):
        shipped.interpreter_builder.set_grid_idx(seed, 0, 0)
        x, y = block(ty, [4, 8], seed), block(ty, [1, 8], seed + 10)

        assert same(call(x, y), call(x, y, _semantic=shipped.interpreter_semantic))


def test_the_rules_run_once() -> None:
    """The second call with the same types runs the recording; another type or number is another call."""
    asked: list[Any] = []

    def plus(x: Any, y: Any, _semantic: Any) -> Any:
        asked.append(y)
        return _semantic.add(x, y.value if isinstance(y, tl.constexpr) else y, False)

    add = recorded.remembered(plus)
    for _ in range(2):
        for x in (block(tl.int32, [4], 0), block(tl.float32, [4], 0), block(tl.float32, [8], 0)):
            for y in (1, 1.0, tl.constexpr(1), x):
                add(x, y)
    floats = block(tl.float32, [2], 0)
    for y in (0.0, -0.0, 0.0, -0.0):
        add(floats, y)

    assert len(asked) == 14


def test_equal_numbers_of_other_types_are_other_calls() -> None:
    """1, True and 1.0 are equal as keys of a dict, and so are a function's name and its argument."""

    def key(*args: Any, **kwargs: Any) -> Any:
        return recorded._key(args, kwargs, [])

    keys = [
        key(1),
        key(True),
        key(1.0),
        key(None),
        key(0.0),
        key(-0.0),
        key("a", 1),
        key(a=1),
        key([1]),
        key((1,)),
    ]
    keys += [key(tl.float32), key("fp32"), key(tl.constexpr(1)), key(tl.tuple([1])), key(slice(None))]

    assert len(set(keys)) == len(keys)
    assert key(float("nan")) == key(float("nan"))


def test_one_tensor_twice_is_not_two_tensors() -> None:
    """The recording of a square is right for a product."""
    multiply = recorded.remembered(lambda x, y, _semantic: _semantic.mul(x, y, False))
    x, y = block(tl.int32, [8], 1), block(tl.int32, [8], 2)
    multiply(x, x)

    assert (multiply(x, y).handle.data == x.handle.data * y.handle.data).all()


def test_an_argument_that_is_returned_is_returned_itself() -> None:
    """From the first call on."""
    keep = recorded.remembered(lambda x, _semantic: _semantic.cast(x, tl.int32))

    for seed in range(3):
        x = block(tl.int32, [8], seed)
        assert keep(x) is x


@pytest.mark.parametrize("reads", [bool, int], ids=["bool", "index"])
def test_what_reads_a_value_is_not_recorded(reads: Callable[[Any], Any]) -> None:
    """A rule that asks for the value of a tensor is asked again for the next one."""
    number = recorded.remembered(lambda x, _semantic: _semantic.scalar_constant(5 if reads(x) else 7, tl.int32))
    zero, one = (tl.tensor(shipped.interpreter_builder.get_int32(value), tl.int32) for value in (0, 1))

    assert [number(x).handle.data.item() for x in (zero, one, zero)] == [7, 5, 7]


def test_what_makes_its_own_data_is_not_recorded() -> None:
    """A handle that no operation made may depend on the data of the arguments."""

    def doubled(x: Any, _semantic: Any) -> Any:
        return tl.tensor(shipped.TensorHandle(x.handle.data * 2, x.dtype), x.type)

    twice = recorded.remembered(doubled)
    plus = recorded.remembered(lambda x, _semantic: _semantic.add(doubled(x, None), x, False))
    for seed in range(3):
        x = block(tl.int32, [8], seed)
        assert (twice(x).handle.data == x.handle.data * 2).all()
        assert (plus(x).handle.data == x.handle.data * 3).all()


def test_an_error_is_raised_again() -> None:
    """A refusal is no recording, and the builder is as before."""
    x = block(tl.float32, [8], 0)
    for _ in range(2):
        with pytest.raises(tl.semantic.IncompatibleTypeErrorImpl):
            x & x
        assert recorded.recorder().recording is None
        assert type(shipped.interpreter_builder) is recorded.recorder()._plain


def no_key(*_given: Any) -> None:
    """Find no key of a call."""
    raise LookupError


@pytest.mark.parametrize("size", [1, 128, 192])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_kernels_have_the_same_bits(size: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels give the same with recordings and where nothing has a key."""
    x, gate = torch.randn(2, 5, size, dtype=dtype, generator=torch.Generator().manual_seed(0)).unbind()
    weight = torch.randn(size, dtype=dtype, generator=torch.Generator().manual_seed(1))

    def outputs() -> list[torch.Tensor]:
        gated = nk.rms_norm_gated(x, gate, weight, eps=1e-6)
        quantised = nk.rms_norm_fp8(x, weight, eps=1e-6, quant_group=None, fp8_dtype=torch.float8_e4m3fn)
        return [gated, nk.rms_norm(x, weight, eps=1e-6)[0], *quantised]

    from_recordings = [outputs() for _ in range(2)]
    monkeypatch.setattr(recorded, "_key", no_key)
    for got in from_recordings:
        for a, b in zip(got, outputs(), strict=True):
            assert torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def count_kernel(out_ptr: Any, n: Any) -> None:
    """Store the number of rounds of a loop that a tensor ends."""
    rounds = tl.program_id(0)
    for _ in range(n):
        rounds += 1
    tl.store(out_ptr + tl.program_id(0), rounds)


def test_a_loop_runs_as_often_as_its_own_argument_says() -> None:
    """Programs and launches of one kernel differ in their numbers alone."""
    out = torch.zeros(2, dtype=torch.int32)
    for n in (3, 5, 0):
        count_kernel[(2,)](out, n)

        assert out.tolist() == [n, n + 1]
