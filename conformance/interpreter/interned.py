"""Caches for work that Triton's interpreter repeats at every operation: half of its time.

A block type checks its sizes and writes its name, a tensor wraps its sizes one by one, and an operation compares
all of this with another tensor's. The results follow from the sizes and the element type alone: here Triton
computes each once, and the result is cached. No tensor data passes through here, so none can change.
"""

import inspect
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache, lru_cache, wraps
from types import SimpleNamespace
from typing import Any

import triton.language as tl
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter as shipped
from triton.runtime import jit

# Triton has no types: its dtypes, handles, tensors and functions are Any, here and below.
Dtype = Any
Handle = Any
Tensor = Any
Sizes = tuple[int, ...]

# the attributes of a tensor: the first three are given, the others follow from the sizes of its type
OF_A_TENSOR = {"handle", "type", "dtype", "shape", "numel"}
OF_A_HANDLE = ["data", "dtype", "attr"]


def numpy_types(shipped_types: Callable[[Dtype], Any]) -> Callable[[Dtype], Any]:
    """Cache NumPy's type of each element type; the shipped function builds its table at every call."""
    kept: dict[str, Any] = {}

    @wraps(shipped_types)
    def numpy_type(ty: Dtype) -> Any:
        name = ty.scalar.name
        if name not in kept:
            kept[name] = shipped_types(ty)
        return kept[name]

    return numpy_type


def block_types(shipped_init: Callable[..., None]) -> Callable[..., None]:
    """Copy the attributes of a block type from the first one with the same elements and sizes."""
    kept: dict[tuple[str, str | None, Sizes], dict[str, Any]] = {}

    @wraps(shipped_init)
    def init(self: Dtype, element_ty: Dtype, shape: Any) -> None:
        sizes = tuple([size.value if type(size) is tl.constexpr else size for size in shape])
        if set(map(type, sizes)) != {int} or not isinstance(shape, list | tl.tuple):
            # no sizes, or 1.0, which equals 1 as a dict key, or Python's own tuple: Triton checks those itself
            shipped_init(self, element_ty, shape)
            return
        key = element_ty.name, getattr(element_ty, "address_space", None), sizes
        if key in kept:
            self.__dict__.update(kept[key])
        else:
            shipped_init(self, element_ty, shape)
            kept[key] = self.__dict__

    return init


def tensors(shipped_init: Callable[..., None]) -> Callable[..., None]:
    """Give all tensors of the same sizes the same shape object."""
    kept: dict[Sizes, tuple[Any, Any]] = {}

    @wraps(shipped_init)
    def init(self: Tensor, handle: Any, type: Dtype) -> None:  # noqa: A002 - Triton's name
        sizes = tuple(type.shape.values) if type.is_block() else ()
        if sizes in kept:
            self.handle, self.type, self.dtype = handle, type, type.scalar
            self.shape, self.numel = kept[sizes]
        else:
            shipped_init(self, handle, type)
            kept[sizes] = self.shape, self.numel

    return init


def handles(shipped_init: Callable[..., None]) -> Callable[..., None]:
    """Compare the size of a handle's elements with its type once for each pair."""
    fitting: set[tuple[str, int]] = set()

    @wraps(shipped_init)
    def init(self: Handle, data: Any, dtype: Dtype, attr: dict[str, Any] | None = None) -> None:
        pair = dtype.name, data.itemsize
        if pair in fitting:
            self.data, self.dtype, self.attr = data, dtype, {} if attr is None else attr
        else:
            shipped_init(self, data, dtype, {} if attr is None else attr)
            fitting.add(pair)

    return init


def types_of_names(shipped_types: Callable[..., Any]) -> Callable[..., Any]:
    """Cache the type of each name of an argument's type; of a tuple's type, only the types inside."""
    cached = cache(shipped_types)

    @wraps(shipped_types)
    def type_of(name: Any, constant: Any) -> Any:
        return cached(name, None) if type(name) is str and constant is None else shipped_types(name, constant)

    return type_of


# of the functions of kernels, which live as long as the process; each launch asks twice
argument_names = cache(inspect.getfullargspec)


def call_arguments(kernel: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Return the arguments of a call by name. ``inspect`` does it where one is missing, unknown or given twice."""
    described = argument_names(kernel)
    given = {**dict(zip(described.args, args, strict=False)), **kwargs}
    names = {*described.args, *described.kwonlyargs}
    whole = len(names) == len(args) + len(kwargs) and given.keys() == names
    return given if whole else inspect.getcallargs(kernel, *args, **kwargs)


@lru_cache(maxsize=4096)
def integer(number: int, convert: Callable[[int], Tensor]) -> Tensor:
    """Return the tensor of an integer argument: equal ones are one tensor, whose data no operation changes."""
    return convert(number)


class ShortSemantic(TritonSemantic):  # type: ignore[misc]  # a subclass of what has no types
    """The language's rules, skipped where they would return their arguments."""

    def broadcast_impl_value(self, lhs: Tensor, rhs: Tensor) -> Any:
        """Return operands of one shape unchanged."""
        return (lhs, rhs) if lhs.shape is rhs.shape else super().broadcast_impl_value(lhs, rhs)

    def cast(self, input: Tensor, dst_ty: Dtype, *args: Any, **kwargs: Any) -> Tensor:  # noqa: A002 - Triton's name
        """Return a tensor that has the type unchanged."""
        return input if input.dtype is dst_ty.scalar else super().cast(input, dst_ty, *args, **kwargs)


def install() -> None:
    """Replace those parts of Triton that have the expected form, before the language is patched."""
    builder = shipped.interpreter_builder
    options = builder.options
    if hasattr(options, "sanitize_overflow"):
        # integers are added once more in 64 bits, to be compared in debug mode alone
        builder.options = replace(options, sanitize_overflow=options.sanitize_overflow and options.debug)
    shipped._get_np_dtype = numpy_types(shipped._get_np_dtype)
    pair = tl.block_type(tl.float32, [2])
    if vars(tl.tensor(None, pair)).keys() == OF_A_TENSOR:
        tl.tensor.__init__ = tensors(tl.tensor.__init__)
    tl.block_type.__init__ = block_types(tl.block_type.__init__)
    if vars(pair.to_ir(builder)) == vars(pair):
        # the interpreter's types are the language's
        tl.block_type.to_ir = lambda self, _builder: self
    if [field.name for field in fields(shipped.TensorHandle)] == OF_A_HANDLE:
        shipped.TensorHandle.__init__ = handles(shipped.TensorHandle.__init__)
    tl.str_to_ty = types_of_names(tl.str_to_ty)
    shipped.inspect = SimpleNamespace(**{**vars(inspect), "getfullargspec": argument_names})
    if hasattr(jit, "_normalize_ty"):
        # asked for every argument of a kernel at each launch
        jit._normalize_ty = cache(jit._normalize_ty)
