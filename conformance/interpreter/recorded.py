"""Recordings of the language's functions, so that its rules run once for each combination of types.

A function of ``triton.language`` checks its arguments, converts and broadcasts them, and asks the builder for the
operations that compute. Which ones, and the type of the result, follows from the types of tensors and from the
values of all other arguments. The first call with them records its operations; later calls run these again, on
their own handles. All numbers come from the builder's own operations, in the same order.

A call is not run from a recording where that does not hold: where an argument has no key, where a rule asks for
the value of a tensor, or where an operation takes what no recorded operation made.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial, wraps
from inspect import signature
from operator import itemgetter
from struct import pack
from typing import Any

import triton.language as tl
from triton.runtime import interpreter as shipped

# Triton has no types: its dtypes, handles, tensors and functions are Any, here and below.
Dtype = Any
Handle = Any
Tensor = Any
Function = Callable[..., Any]

MOST = 4096  # recordings of one function, which then starts again


# --- the key of a call ----------------------------------------------------------------------------------------


class Mark:
    """The attribute ``mark`` of a type: its identity, one object for all equal types. Each type keeps it."""

    def __init__(self) -> None:
        self.known: dict[Any, object] = {}

    def __get__(self, ty: Dtype, _owner: Any = None) -> object:
        """Return the mark. Raises ``LookupError`` for a pointer to a block, whose handle is another object."""
        if ty.is_block():
            key: Any = ty.element_ty.mark, tuple(ty.shape)
        elif ty.is_ptr():
            if ty.element_ty.is_block():
                raise LookupError(ty)
            key = ty.element_ty.mark, ty.address_space, ty.const
        else:
            key = type(ty), ty.name
        mark = ty.__dict__["mark"] = self.known.setdefault(key, object())
        return mark


def _of_all(kind: type) -> Function:
    return lambda values: (kind, *[MARKS[type(value)](value) for value in values])


def _of_slice(given: slice) -> Any:
    if given != slice(None):
        raise LookupError(given)
    return slice


# The key of an argument that is not a tensor, by its type. Keys are equal only for the same bits: 1, 1.0 and True
# differ, and so do 0.0 and -0.0.
MARKS: dict[type, Function] = {
    type(None): lambda value: value,
    str: lambda value: value,
    type(tl.PropagateNan.NONE): lambda value: value,
    bool: lambda value: (bool, value),
    int: lambda value: (int, value),
    float: lambda value: pack("d", value),
    slice: _of_slice,
    tuple: _of_all(tuple),
    list: _of_all(list),
    tl.tuple: _of_all(tl.tuple),
    tl.constexpr: lambda constant: (tl.constexpr, MARKS[type(constant.value)](constant.value)),
    **dict.fromkeys((tl.dtype, tl.pointer_type, tl.block_type), lambda ty: (tl.dtype, ty.mark)),
}


def _key(args: Iterable[Any], kwargs: dict[str, Any], tensors: list[Tensor]) -> Any:
    """Return the key of a call, and append its tensors to the list. Raises ``LookupError`` where there is none."""
    key: list[Any] = []
    for value in args:
        kind = type(value)
        if kind is tl.tensor:
            tensors.append(value)
            key.append(value.type.mark)
        else:
            key.append(MARKS[kind](value))
    for name, value in kwargs.items():
        kind = type(value)
        if kind is tl.tensor:
            tensors.append(value)
            key.append((name, value.type.mark))
        else:
            key.append((name, MARKS[kind](value)))
    return tuple(key)


# --- recordings -----------------------------------------------------------------------------------------------


class Recording:
    """The operations of one call. A value is known by its place: the inputs, then the others as they appeared."""

    def __init__(self, inputs: Sequence[Handle]) -> None:
        self.whole = True  # nothing was seen that another call need not share
        self._template: list[Any] = [None] * len(inputs)  # constants, and None for handles
        # operation, getter of its arguments, places of its results
        self._steps: list[tuple[str, Function, int | list[int]]] = []
        self._finish: Function
        # while recording: all values, which must live, so that no two of them have one id
        self._values: list[Any] = list(inputs)
        self._places = {id(handle): place for place, handle in enumerate(inputs)}

    def note(self, operation: str, args: Sequence[Any], kwargs: dict[str, Any], result: Any) -> None:
        """Append an operation of the builder, by its name."""
        places = [self._place(value) for value in args]
        handles = result if isinstance(result, tuple) else () if result is None else (result,)
        self.whole &= not kwargs and all(isinstance(handle, shipped.TensorHandle) for handle in handles)
        made = [self._append(handle) for handle in handles]
        one = isinstance(result, shipped.TensorHandle)
        self._steps.append((operation, _taking(places), made[0] if one else made))

    def _place(self, value: Any) -> int:
        if isinstance(value, shipped.TensorHandle):
            self.whole &= id(value) in self._places
            return self._places.get(id(value), 0)
        self.whole &= _constant(value)
        return self._append(value, constant=value)

    def _append(self, value: Any, constant: Any = None) -> int:
        place = len(self._values)
        self._values.append(value)
        self._template.append(constant)
        self._places[id(value)] = place
        return place

    def end(self, inputs: Sequence[Tensor], result: Any) -> Function:
        """Note the result, and forget all data. Return the function that makes the result for other tensors."""
        self._finish = self._making(inputs, result)
        made = partial(self._finish, self._values)
        del self._values, self._places
        return made

    def _making(self, inputs: Sequence[Tensor], result: Any) -> Function:
        """Return the function of a call's values and tensors that makes its result."""
        if type(result) is tuple:
            parts = [self._making(inputs, part) for part in result]
            return lambda values, tensors: tuple([part(values, tensors) for part in parts])
        for number, tensor in enumerate(inputs):
            if result is tensor:
                return lambda _values, tensors: tensors[number]
        if type(result) is not tl.tensor:
            self.whole &= _constant(result.value if type(result) is tl.constexpr else result)
            return lambda _values, _tensors: result
        place = self._place(result.handle)
        attributes = {**vars(result), "handle": None}
        new = partial(object.__new__, tl.tensor)

        def make(values: list[Any], _tensors: Any) -> Tensor:
            made = new()
            made.__dict__.update(attributes)
            made.handle = values[place]
            return made

        return make

    def run(self, tensors: Sequence[Tensor]) -> Any:
        """Return the result for other tensors of the same types."""
        values = self._template.copy()
        for place, tensor in enumerate(tensors):
            values[place] = tensor.handle
        builder = shipped.interpreter_builder
        for operation, taken, made in self._steps:
            result = getattr(builder, operation)(*taken(values))
            if isinstance(made, int):
                values[made] = result
            elif made:
                for place, part in zip(made, result, strict=True):
                    values[place] = part
        return self._finish(values, tensors)


def _taking(places: Sequence[int]) -> Function:
    """Return the getter of some places, whose result is a sequence even of one value, and of none."""
    if len(places) > 1:
        return itemgetter(*places)
    first = places[0] if places else 0
    return itemgetter(slice(first, first + len(places)))


def _constant(value: Any) -> bool:
    """Return whether a value has no data of a tensor: numbers, types, shapes, and Triton's enumerations."""
    if isinstance(value, list | tuple | tl.tuple):
        return all(map(_constant, value))
    return isinstance(value, int | float | str | None | tl.dtype) or hasattr(type(value), "__members__")


# --- recording ------------------------------------------------------------------------------------------------


class Recorder:
    """The recording in progress. The builder has another class meanwhile, whose operations are noted."""

    def __init__(self) -> None:
        self.recording: Recording | None = None
        self._builder = shipped.interpreter_builder
        self._plain = type(self._builder)
        names = [name for name in dir(self._plain) if name.startswith(("create_", "get_"))]
        self._noting = type("NotingBuilder", (self._plain,), {name: self._noted(name) for name in names})

    def _noted(self, name: str) -> Function:
        def noted(builder: Any, *args: Any, **kwargs: Any) -> Any:
            builder.__class__ = self._plain  # an operation may consist of others
            try:
                result = getattr(builder, name)(*args, **kwargs)
            finally:
                builder.__class__ = self._noting
            # other methods return types
            if self.recording and (name.startswith("create_") or isinstance(result, shipped.TensorHandle)):
                self.recording.note(name, args, kwargs, result)
            return result

        return noted

    def record(
        self, call: Function, args: Sequence[Any], kwargs: dict[str, Any], tensors: Sequence[Tensor]
    ) -> tuple[Any, Recording | None]:
        """Return the result of a call, and its recording where it can be run for other tensors."""
        # a handle for each argument, even where two are one tensor, which they need not be in another call
        copies = [tl.tensor(_alias(tensor.handle), tensor.type) for tensor in tensors]
        rest = iter(copies)
        args = [next(rest) if type(value) is tl.tensor else value for value in args]
        kwargs = {name: next(rest) if type(value) is tl.tensor else value for name, value in kwargs.items()}
        recording = self.recording = Recording([copy.handle for copy in copies])
        self._builder.__class__ = self._noting
        try:
            result = call(*args, **kwargs)
        finally:
            self._builder.__class__ = self._plain
            self.recording = None
        made = recording.end(copies, result)
        return (made(tensors), recording) if recording.whole else (result, None)


def _alias(handle: Handle) -> Handle:
    return shipped.TensorHandle(handle.data, handle.dtype, handle.attr)


@cache
def recorder() -> Recorder:
    """Return this process's recorder, made when the builder has its final class."""
    return Recorder()


def remembered(function: Function) -> Function:
    """Return a function of the language that runs from recordings."""
    kept: dict[Any, Recording | None] = {}
    process, semantic = recorder(), shipped.interpreter_semantic

    def bound(*args: Any, _semantic: Any = None, **kwargs: Any) -> Any:
        # a call by another function of the language is part of that one's recording
        if _semantic is None and process.recording is None:
            tensors: list[Tensor] = []
            try:
                key = _key(args, kwargs, tensors)
            except LookupError:
                return function(*args, **kwargs, _semantic=semantic)
            if key not in kept:
                if len(kept) == MOST:
                    kept.clear()
                result, kept[key] = process.record(partial(function, _semantic=semantic), args, kwargs, tensors)
                return result
            recording = kept[key]
            if recording is not None:
                return recording.run(tensors)
        return function(*args, **kwargs, _semantic=semantic)

    return bound


def bind(obj: Any, name: str, member: Function, builder: Any, scope: Any) -> None:
    """Bind a function of the language to its rules with one call, where the shipped one takes three."""
    scope.set_attr(obj, name, remembered(getattr(member, "__wrapped__", member)))


def install() -> None:
    """Record functions that are bound from now on, where Triton binds them as expected."""
    tl.dtype.mark = Mark()
    if signature(shipped._patch_attr).parameters.keys() == signature(bind).parameters.keys():
        shipped._patch_attr = bind


def reading(method: Function) -> Function:
    """Return a method that reads the value of a tensor of one element, of which a recording knows nothing."""

    @wraps(method)
    def read(tensor: Tensor) -> Any:
        recording = recorder().recording
        if recording and tensor.handle.data.size == 1:
            recording.whole = False
        return method(tensor)

    return read
