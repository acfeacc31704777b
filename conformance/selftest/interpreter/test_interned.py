"""Objects cached from Triton's interpreter equal those that Triton would make anew."""

import inspect
import os
from typing import Any

import numpy as np
import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("this process compiles its kernels: it cannot interpret them", allow_module_level=True)

import triton
import triton.language as tl
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter as shipped

from conformance import interpreter
from conformance.interpreter import faithful, interned, recorded

ELEMENTS = (
    tl.int1,
    tl.int32,
    tl.float32,
    tl.bfloat16,
    tl.float8e4nv,
    tl.pointer_type(tl.float32),
    tl.pointer_type(tl.float32, "shared"),
    tl.pointer_type(tl.float32, const=True),
)
NAMES = [f"{ty} {getattr(ty, 'address_space', '')}".strip() for ty in ELEMENTS]
SHAPES = ([16], [4, 8], [tl.constexpr(4), 8], tl.tuple([8, 4]), [1, 1, 2])


@pytest.fixture(autouse=True)
def _installed() -> None:
    interpreter.install()


def as_shipped(kind: Any, *given: Any) -> dict[str, Any]:
    """Return the attributes that Triton itself gives to an object."""
    made = object.__new__(kind)
    kind.__init__.__wrapped__(made, *given)
    attributes: dict[str, Any] = vars(made)
    return attributes


def attributes_of(ty: Any) -> dict[str, Any]:
    """Return the attributes of a type but for the mark that recordings know it by."""
    return {name: value for name, value in vars(ty).items() if name != "mark"}


def of(ty: Any) -> Any:
    """Return a tensor with dummy elements."""
    return tl.tensor(None, ty)


def test_everything_is_in_place() -> None:
    """Every replaced part of this Triton is known, so each replacement was made."""
    classes = (tl.block_type, tl.tensor)

    assert all(hasattr(kind.__init__, "__wrapped__") for kind in classes)
    assert isinstance(shipped.interpreter_semantic, interned.ShortSemantic)
    assert shipped._patch_attr is recorded.bind
    assert tl.block_type(tl.int1, [2]).to_ir(shipped.interpreter_builder).shape[0] == 2


@pytest.mark.parametrize("element", ELEMENTS, ids=NAMES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_type_is_as_triton_makes_it(element: Any, shape: Any) -> None:
    """The first and the second object of its kind are right, with others made in between."""
    first, between, second = (tl.block_type(ty, shape) for ty in (element, tl.int64, element))

    assert as_shipped(tl.block_type, element, shape) == attributes_of(first) == attributes_of(second)
    assert attributes_of(between) == as_shipped(tl.block_type, tl.int64, shape)
    assert first.mark is second.mark is not between.mark
    assert vars(second.to_ir(shipped.interpreter_builder)) == vars(second)
    if element.is_ptr():
        assert element.address_space == second.element_ty.address_space
        assert element.const == second.element_ty.const


@pytest.mark.parametrize("shape", [[], [3], [16.0], [1.0], [tl.constexpr(16.0)], [2**20, 2], (16,)], ids=str)
def test_what_triton_refuses_stays_refused(shape: Any) -> None:
    """A refusal holds also if an equal size was cached, and when it is requested again."""
    tl.block_type(tl.float32, [1])
    tl.block_type(tl.float32, [16])
    for _ in range(2):
        with pytest.raises((TypeError, ValueError, AssertionError)):
            tl.block_type(tl.float32, shape)


@pytest.mark.parametrize("element", ELEMENTS, ids=NAMES)
def test_a_tensor_is_as_triton_makes_it(element: Any) -> None:
    """Scalars and blocks have their given attributes, and those derived from their sizes."""
    for ty in (element, tl.block_type(element, [4, 8]), tl.block_type(element, [8, 4])):
        for handle in ("one", "two"):
            made, want = vars(tl.tensor(handle, ty)), as_shipped(tl.tensor, handle, ty)

            assert interned.OF_A_TENSOR == made.keys() == want.keys()
            assert [made[name] for name in ("handle", "type", "dtype")] == [handle, ty, ty.scalar]
            assert [size.value for size in want["shape"]] == [size.value for size in made["shape"]]
            assert made["numel"].value == want["numel"].value


def test_one_shape_is_one_object_and_another_is_not() -> None:
    """The element type does not matter: the shortcut of a broadcast compares only shapes."""
    four, other = of(tl.block_type(tl.int32, [4])), of(tl.block_type(tl.float32, [4]))
    wide = of(tl.block_type(tl.int32, [4, 1]))

    assert four.shape is other.shape
    assert four.shape is not wide.shape
    assert of(tl.int32).shape is of(tl.float32).shape


@pytest.mark.parametrize("shapes", [((4,), (4,)), ((4, 1), (1, 8)), ((4, 8), (8,)), ((4,), ()), ((), ())], ids=str)
def test_operands_are_broadcast_as_triton_does_it(shapes: tuple[tuple[int, ...], ...]) -> None:
    """Operands may have one shape, two shapes or unlike ranks, or be a block and a scalar."""
    builder = shipped.interpreter_builder
    lhs, rhs = (
        tl.full(list(shape), 3, tl.int32) if shape else tl.tensor(builder.get_int32(3), tl.int32)
        for shape in shapes
    )
    shipped_rules = TritonSemantic(builder)
    for got, want in zip(
        shipped.interpreter_semantic.broadcast_impl_value(lhs, rhs),
        shipped_rules.broadcast_impl_value(lhs, rhs),
        strict=True,
    ):
        assert want.type == got.type
        assert (want.handle.data == got.handle.data).all()
        assert want.handle.data.shape == got.handle.data.shape


def test_only_what_has_the_type_is_not_cast() -> None:
    """A cast to another type gives another tensor."""
    x = tl.full([4], 3, tl.int32)

    assert x.to(tl.int32) is x
    assert x.to(tl.int64).dtype == tl.int64
    assert x.to(tl.float32).handle.data.tolist() == [3.0] * 4


def test_numpy_types_are_those_of_triton() -> None:
    """The types of elements, blocks and pointers are right, the first time and later."""
    lookup = shipped._get_np_dtype
    for element in (*ELEMENTS, *ELEMENTS):
        for ty in (element, tl.block_type(element, [2])):
            assert lookup.__wrapped__(ty) == lookup(ty)


def test_a_handle_is_as_triton_makes_it() -> None:
    """Its data fit its type, each has attributes of its own, and what does not fit is refused each time."""
    data = np.zeros(4, np.int32)
    for ty in (tl.int32, tl.float32, tl.pointer_type(tl.int8)):
        first, second = (shipped.TensorHandle(data, ty) for _ in range(2))
        second.set_attr("tt.divisibility", 16)

        assert first == shipped.TensorHandle(data, ty, {})
        assert first.data is second.data
        assert second.attr == {"tt.divisibility": 16}
    for _ in range(2):
        with pytest.raises(ValueError, match="exceeds dtype primitive_bitwidth"):
            shipped.TensorHandle(data, tl.int16)


def test_names_of_types_are_read_as_triton_does_it() -> None:
    """Pointers keep their element and whether it is constant; types of tuples and of constants are made anew."""
    for name in ("i32", "*fp32", "*kfp32", "u1", "*i32", "fp32", ("i32", "*bf16"), "*fp32"):
        got, want = tl.str_to_ty(name, None), tl.str_to_ty.__wrapped__(name, None)

        assert got == want
        assert vars(want).keys() - {"mark"} == vars(got).keys() - {"mark"}
    assert [tl.str_to_ty("constexpr", value).value for value in (1, 2)] == [1, 2]


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def double_kernel(out_ptr: Any, number: Any) -> None:
    """Store twice an argument."""
    tl.store(out_ptr, number + number)


def test_integers_wrap() -> None:
    """Integers wrap as on a GPU, and as in the interpreter when it checked overflows without reporting them."""
    out = torch.zeros(1, dtype=torch.int32)
    double_kernel[(1,)](out, 2**30)

    assert out.item() == -(2**31)


def some_kernel(x_ptr: Any, n: Any, eps: Any = 0.5, *, STRIDE: Any = 1) -> None:
    """Take arguments."""


def plain_kernel(x_ptr: Any, n: Any, eps: Any = 0.5) -> None:
    """Take arguments, none of which must be named."""


@pytest.mark.parametrize("kernel", [some_kernel, plain_kernel], ids=["keyword", "plain"])
def test_arguments_have_their_names(kernel: Any) -> None:
    """Arguments have them by place, by name and by default; missing, unknown or doubled ones are refused."""
    right: list[tuple[list[int], dict[str, int]]] = [
        ([1, 2, 3], {}),
        ([1, 2], {}),
        ([1], {"eps": 3, "n": 2}),
        ([], {"x_ptr": 1, "n": 2}),
    ]
    wrong: list[tuple[list[int], dict[str, int]]] = [
        ([1], {}),
        ([1, 2, 3, 4], {}),
        ([1, 2], {"x_ptr": 3}),
        ([1, 2], {"m": 3}),
    ]
    for args, named in right:
        assert interned.call_arguments(kernel, *args, **named) == inspect.getcallargs(kernel, *args, **named)
    for args, named in wrong:
        with pytest.raises(TypeError):
            interned.call_arguments(kernel, *args, **named)


def test_an_integer_argument_is_as_triton_makes_it() -> None:
    """Its type and number are kept; True and 1.0 are other arguments than 1."""
    for number in (0, 1, -1, 7, 2**31 - 1, 2**31, 2**32, -(2**31) - 1, 2**63, 1, 7):
        got, want = (convert(number) for convert in (faithful.implicit_cvt, faithful.shipped_implicit_cvt))

        assert (got.type, got.handle.dtype) == (want.type, want.handle.dtype)
        assert got.handle.data.dtype == want.handle.data.dtype
        assert got.handle.data.tolist() == [number]
    assert [str(faithful.implicit_cvt(value).type) for value in (True, 1.0, 1)] == ["int1", "fp32", "int32"]


def test_a_block_is_repeated_as_numpy_does_it() -> None:
    """Every dimension of one element is repeated, whatever the block's strides are."""
    builder, numbers = shipped.interpreter_builder, np.arange(24, dtype=np.int32).reshape(4, 6)
    for data in (numbers[:, :1], numbers[:, :1].copy(), numbers[:1], numbers.T[:1], numbers[2:3, 2:3], numbers):
        shape = [max(size, 4) for size in data.shape]
        got = builder.create_broadcast(shipped.TensorHandle(data, tl.int32), shape)

        assert got.data.tolist() == np.broadcast_to(data, shape).tolist()
        assert (got.dtype, got.data.dtype) == (tl.int32, np.int32)
